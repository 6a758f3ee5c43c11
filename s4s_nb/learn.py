"""S4S: learn the coefficients of a solver so that its end point is the teacher's.

    min_φ  E_{x_T}  d( Ψ_φ(x_T), Ψ_*(x_T) )

with Ψ_φ the student, a table with parameters φ, Ψ_* the teacher, d a distance such as LPIPS: the hard
objective (Frankel et al. 2025, algorithm 1). With a radius the start may move; see :mod:`s4s_nb.relaxed`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.errors import InputError, choose
from s4s_nb.families import Family
from s4s_nb.files import digest
from s4s_nb.progress import bar
from s4s_nb.relaxed import RelaxedStarts
from s4s_nb.resume import StateFile
from s4s_nb.solvers import Solver, sample
from s4s_nb.teachers import Pairs, bound

Distance = Callable[[Tensor, Tensor], Tensor]
OPTIMISERS = {"Adam": torch.optim.Adam, "SGD": partial(torch.optim.SGD, momentum=0.9)}


@dataclass(frozen=True)
class Learned:
    """The solver that was best on the validation pairs, and how it came about.

    ``history`` has a row (update, validation distance) each time it was measured, the first at the
    classic start.
    """

    solver: Solver
    parameters: Tensor
    history: list[tuple[int, float]]


def end_point_distances(
    denoise: Denoiser | Conditional, solver: Solver, pairs: Pairs, distance: Distance
) -> Float[Tensor, " b"]:
    """Distance of the solver's end point to the teacher's, of every pair."""
    ends = sample(bound(denoise, pairs.labels), pairs.starts, solver)
    return distance(ends, pairs.targets)


def end_point_loss(
    denoise: Denoiser | Conditional, solver: Solver, pairs: Pairs, distance: Distance
) -> Tensor:
    """Their mean."""
    return end_point_distances(denoise, solver, pairs, distance).mean()


def learn_s4s(
    denoise: Denoiser | Conditional,
    family: Family,
    train: Pairs,
    validation: Pairs,
    distance: Distance,
    epochs: int = 10,
    batch: int = 20,
    learning_rate: float = 1e-2,
    radius: float = 0.0,
    optimiser: str = "Adam",
    patience: int | None = None,
    seed: int = 0,
    state_file: Path | None = None,
    progress: bool = True,
) -> Learned:
    """Adam or SGD with a cosine on the family's parameters, from zero: the classic solver exactly.

    The validation distance is the hard one, from x_T itself whatever the radius. It is measured before
    the first update and after every epoch, and the best parameters seen are returned, so that on the
    validation pairs the result is never worse than its start. Gradients are clipped to norm 1: those of
    the first steps pass through all later ones.

    Args:
        radius: r of the relaxed objective, in units of unit noise; :func:`s4s_nb.relaxed.radius_rule`
            gives S4S's. Starts move by SGD with rate 12/N on each sample's own distance.
        patience: epochs without a better validation distance after which learning ends early; None runs
            all of them, as the cosine expects.
        state_file: where progress is kept after every epoch; a run that finds it goes on from there and
            ends with the same bits as one that was never stopped.

    Raises:
        InputError: no pairs, a negative radius, an unknown optimiser, a state of another run, or a loss
            or gradient that is not finite.
    """
    check_pairs(train, validation)
    parameters = family.zero.requires_grad_()
    start = family.table(parameters.detach())
    starts = RelaxedStarts(train, float(start.sigmas[0]), radius)
    optimizer = choose(OPTIMISERS, optimiser, "optimiser")([parameters])
    generator = torch.Generator().manual_seed(seed)
    updates = epochs * -(-len(train) // batch)
    options = {
        "optimiser": optimiser,
        "pairs": len(train),
        "validation_pairs": len(validation),
        "updates": updates,
        "batch": batch,
        "learning_rate": learning_rate,
        "radius": radius,
        "seed": seed,
    }
    kept = StateFile(state_file, {**names(family), **options, "data": digest_of(family, train, validation)})
    history, best = resume_state(kept, parameters, optimizer, starts)
    if not history:
        history.append((0, validate(denoise, family, parameters, validation, distance)))
    orders = [torch.randperm(len(train), generator=generator).split(batch) for _ in range(epochs)]
    updating = bar(
        total=updates,
        initial=history[-1][0],
        desc=f"learning from {family.start}",
        disable=not progress,
        mininterval=1,
    )
    for order in orders[len(history) - 1 :]:
        if patience is not None and epochs_since_best(history) >= patience:
            break
        for update, chosen in enumerate(order, start=history[-1][0]):
            part = starts[chosen]
            loss = end_point_loss(denoise, family.table(parameters), part, distance)
            optimizer.zero_grad()
            loss.backward()
            check_finite(loss, parameters, update)
            starts.descend(chosen, part, rate=12 / start.nfe)
            torch.nn.utils.clip_grad_norm_([parameters], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * update / updates))
            optimizer.step()
            updating.update()
        value = validate(denoise, family, parameters, validation, distance)
        if value < min(v for _, v in history):
            best = parameters.detach().clone()
        history.append((history[-1][0] + len(order), value))
        keep_state(kept, parameters, optimizer, starts, history, best)
        updating.set_postfix(validation=f"{value:.4f}", start=f"{history[0][1]:.4f}")
    updating.close()
    record = {"method": "s4s", **names(family), **options}
    return with_record(family, best, history, starts, record)


def epochs_since_best(history: list[tuple[int, float]]) -> int:
    """How many epochs ended without a new lowest validation distance."""
    values = [value for _, value in history]
    return len(values) - 1 - values.index(min(values))


def with_record(family: Family, best: Tensor, history, starts: RelaxedStarts, record: dict) -> Learned:
    """The best solver seen, that knows how it was learned."""
    values = [value for _, value in history]
    reached = {
        "boundary_share": starts.boundary_share,
        "validation_start": values[0],
        "validation_best": min(values),
    }
    solver = family.table(best)
    return Learned(replace(solver, info={**solver.info, **record, **reached}), best, history)


def check_pairs(train: Pairs, validation: Pairs) -> None:
    """:class:`InputError` if there is nothing to learn from, or nothing to choose by."""
    if not len(train) or not len(validation):
        raise InputError("Learning needs at least one training and one validation pair.")


def names(family: Family) -> dict[str, str]:
    """What a record says of a family."""
    return {"family": family.name, "start": family.start}


def digest_of(family: Family, train: Pairs, validation: Pairs) -> str:
    """What tells this learning from one of another family, grid, start or teacher.

    The table is taken beside zero, where families that share their classic solver differ.
    """
    return digest(train.targets, validation.targets) + family.table(family.zero + 0.1).digest


def keep_state(kept: StateFile, parameters, optimizer, starts, history, best) -> None:
    """Save all that the next epoch starts from."""
    moments = optimizer.state[parameters]
    tensors = {"parameters": parameters, "best": best, "shifts": starts.shifts, **moments}
    kept.save(tensors, {"history": history})


def resume_state(kept: StateFile, parameters, optimizer, starts) -> tuple[list[tuple[int, float]], Tensor]:
    """Restore what :func:`keep_state` saved: history and best parameters; nothing and zeros at first."""
    state = kept.load()
    if state is None:
        return [], parameters.detach().clone()
    tensors, record = state
    parameters.data = tensors.pop("parameters")
    starts.shifts = tensors.pop("shifts").to(starts.shifts)
    best = tensors.pop("best")
    optimizer.state[parameters] = tensors
    return [(update, value) for update, value in record["history"]], best


def check_finite(loss: Tensor, parameters: Tensor, update: int) -> None:
    """:class:`InputError` that says where a loss or a gradient stopped being a number."""
    if not torch.isfinite(loss):
        raise InputError(f"The loss became {loss.item()} at update {update}; lower the learning rate.")
    assert parameters.grad is not None
    bad = (~torch.isfinite(parameters.grad)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"The gradient of parameters {bad} is not finite at update {update}, though the loss is:"
            " look for a root or a norm at 0 in the distance, or for half precision in the network."
        )


@torch.no_grad()
def validate(denoise, family, parameters, validation: Pairs, distance, batch: int = 50) -> float:
    """Mean distance on all validation pairs."""
    solver = family.table(parameters)
    parts = validation.split(batch)
    total = sum(float(end_point_loss(denoise, solver, p, distance)) * len(p) for p in parts)
    return total / len(validation)

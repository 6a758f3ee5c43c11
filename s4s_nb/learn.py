"""S4S: learn the coefficients of a solver so that its end point is the teacher's.

    min_φ  E_{x_T}  d( Ψ_φ(x_T), Ψ_*(x_T) )

with Ψ_φ the student, a table with parameters φ, Ψ_* the teacher, d a distance such as LPIPS: the hard
objective (Frankel et al. 2025, algorithm 1). With a radius the start may move; see :mod:`s4s_nb.relaxed`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.errors import InputError
from s4s_nb.families import Family
from s4s_nb.progress import bar
from s4s_nb.relaxed import RelaxedStarts
from s4s_nb.solvers import Solver, sample
from s4s_nb.teachers import Pairs, bound

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Learned:
    """The solver that was best on the validation pairs, and how it came about.

    ``history`` has a row (update, validation distance) each time it was measured, the first at the
    classic start.
    """

    solver: Solver
    parameters: Tensor
    history: list[tuple[int, float]]


def end_point_loss(
    denoise: Denoiser | Conditional, solver: Solver, pairs: Pairs, distance: Distance
) -> Tensor:
    """Mean distance of the solver's end points to the teacher's."""
    ends = sample(bound(denoise, pairs.labels), pairs.starts, solver)
    return distance(ends, pairs.targets).mean()


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
    seed: int = 0,
    progress: bool = True,
) -> Learned:
    """Adam with a cosine on the family's parameters, from zero: the classic solver exactly.

    The validation distance is the hard one, from x_T itself whatever the radius. It is measured before
    the first update and after every epoch, and the best parameters seen are returned, so that on the
    validation pairs the result is never worse than its start. Gradients are clipped to norm 1: those of
    the first steps pass through all later ones.

    Args:
        radius: r of the relaxed objective, in units of unit noise; :func:`s4s_nb.relaxed.radius_rule`
            gives S4S's. Starts move by SGD with rate 12/N, as in LD3's code.

    Raises:
        InputError: no pairs, a negative radius, or a loss or gradient that is not finite.
    """
    if not len(train) or not len(validation):
        raise InputError("Learning needs at least one training and one validation pair.")
    parameters = torch.zeros(family.size, dtype=torch.float64, requires_grad=True)
    start = family.table(parameters.detach())
    starts = RelaxedStarts(train, float(start.sigmas[0]), radius)
    optimizer = torch.optim.Adam([parameters], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    updates = epochs * -(-len(train) // batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    history = [(0, _validate(denoise, family, parameters, validation, distance))]
    best, best_parameters = history[0][1], parameters.detach().clone()
    updating = bar(total=updates, desc=f"S4S from {family.start}", disable=not progress, mininterval=1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train), generator=generator).split(batch):
            part = starts[chosen]
            loss = end_point_loss(denoise, family.table(parameters), part, distance)
            optimizer.zero_grad()
            loss.backward()
            check_finite(loss, parameters, cosine.last_epoch)
            starts.descend(chosen, part, rate=12 / start.nfe)
            torch.nn.utils.clip_grad_norm_([parameters], 1.0)
            optimizer.step()
            cosine.step()
            updating.update()
        value = _validate(denoise, family, parameters, validation, distance)
        history.append((cosine.last_epoch, value))
        updating.set_postfix(validation=f"{value:.4f}", start=f"{history[0][1]:.4f}")
        if value < best:
            best, best_parameters = value, parameters.detach().clone()
    updating.close()
    solver = family.table(best_parameters)
    record = {
        "method": "s4s",
        "family": family.name,
        "start": family.start,
        "pairs": len(train),
        "validation_pairs": len(validation),
        "updates": updates,
        "batch": batch,
        "learning_rate": learning_rate,
        "radius": radius,
        "boundary_share": starts.boundary_share,
        "seed": seed,
        "validation_start": history[0][1],
        "validation_best": best,
    }
    return Learned(replace(solver, info={**solver.info, **record}), best_parameters, history)


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
def _validate(denoise, family, parameters, validation: Pairs, distance, batch: int = 50) -> float:
    """Mean distance on all validation pairs."""
    solver = family.table(parameters)
    parts = validation.split(batch)
    total = sum(float(end_point_loss(denoise, solver, p, distance)) * len(p) for p in parts)
    return total / len(validation)

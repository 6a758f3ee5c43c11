"""S4S by Gauss–Newton: the same objective as :mod:`s4s_nb.learn`, minimised as least squares.

A distance that is a sum of squares, d(x, y) = ‖e(x) − e(y)‖² with an embedding e (LPIPS is one), and a
dozen parameters make a tiny nonlinear least-squares problem. With the residuals r of all pairs and
their Jacobian J in the parameters, a step is

    δ = −s (JᵀJ + μ diag JᵀJ)⁻¹ Jᵀr        (Levenberg 1944, Marquardt 1963)

with damping μ and length s: on the bundled image models the full step, s = 1, is mostly too short, and
twice or four times of it goes further down. First-order methods have trouble: a coefficient of the
first step, taken at σ = 80, moves the end point in another way and by another amount than one of the
last, and JᵀJ knows by how much.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.distances import Embedding
from s4s_nb.errors import InputError, choose
from s4s_nb.families import Family
from s4s_nb.learn import Learned, check_pairs, digest_of, names
from s4s_nb.parallel import map_batches
from s4s_nb.progress import bar
from s4s_nb.resume import StateFile
from s4s_nb.sensitivities import end_point_tangents
from s4s_nb.solvers import Solver, sample, trajectory
from s4s_nb.teachers import Pairs, bound

DAMPINGS = (1e-3, 1e-2, 1e-1)
STRONGER = (1.0, 10.0, 100.0)
"""Tried in turn, at length 1, where none of the dampings helps."""
LENGTHS = (2.0, 1.0, 4.0)
"""The first is tried with every damping, the others with the best one."""
DIFFERENCE = 1e-3
"""Short enough for gradients within 8 % of backpropagation's on all bundled models (a test compares
them), which ten times of it is not."""


Linearised = tuple[Tensor, Tensor]
"""Residuals (p,) of all pairs and their derivatives (m, p)."""


def by_differences(
    denoise: Denoiser, family: Family, parameters: Tensor, pairs: Pairs, embed: Embedding
) -> Linearised:
    """Forward differences: m + 1 trajectories of any denoiser.

    Parameters are O(1) by construction, so one step size serves all. A parameter of step i costs the
    evaluations after step i alone: what comes before is taken from the undisturbed trajectory.
    """
    base = family.table(parameters)
    states, outputs = trajectory(denoise, pairs.starts, base)
    target = embed(pairs.targets)

    def residual(end: Tensor) -> Tensor:
        return (embed(end) - target).flatten()

    r, columns = residual(states[-1]), []
    for moved in parameters + DIFFERENCE * torch.eye(family.size, dtype=torch.float64):
        table = family.table(moved)
        row, asked = first_changes(base, table)
        known = states[: min(row, asked) + 1], outputs[: min(row + 1, asked)]
        end = trajectory(denoise, pairs.starts, table, known)[0][-1]
        columns.append((residual(end) - r) / DIFFERENCE)
    return r, torch.stack(columns)


def first_changes(base: Solver, table: Solver) -> tuple[int, int]:
    """The first row, and the first evaluation, in which two tables differ; N where none does."""

    def first(changed: Tensor) -> int:
        return int(changed.nonzero()[0]) if changed.any() else base.nfe

    asked = (table.model_sigmas != base.model_sigmas) | (table.kappa != base.kappa)
    return first(((table.A != base.A) | (table.B != base.B)).any(1)), first(asked)


def by_tangents(
    denoise: Denoiser, family: Family, parameters: Tensor, pairs: Pairs, embed: Embedding
) -> Linearised:
    """Forward mode, exact: one trajectory that all tangents share."""
    ends, tangents = end_point_tangents(denoise, pairs.starts, family, parameters)
    reached, moved = vmap(lambda d: jvp(embed, (ends,), (d,))[:2], out_dims=(None, 0))(tangents)
    return (reached - embed(pairs.targets)).flatten(), moved.flatten(1)


DERIVATIVES = {"differences": by_differences, "tangents": by_tangents}


@torch.no_grad()
def normal_equations(
    denoise: Denoiser | Conditional,
    family: Family,
    parameters: Tensor,
    pairs: Pairs,
    embed: Embedding,
    derivatives: str = "differences",
) -> tuple[Tensor, Tensor]:
    """JᵀJ (m, m) and Jᵀr (m,) of a batch."""
    linearised = choose(DERIVATIVES, derivatives, "kind of derivatives")
    r, J = linearised(bound(denoise, pairs.labels), family, parameters, pairs, embed)
    return (J @ J.T).double().cpu(), (J @ r).double().cpu()  # the parameters live there


@torch.no_grad()
def mean_distance(
    denoise: Denoiser | Conditional,
    family: Family,
    parameters: Tensor,
    pairs: Pairs,
    embed: Embedding,
    batch: int = 20,
) -> float:
    """Mean ‖e(x) − e(y)‖² of the end points; infinity where the solver blows up."""

    def total(part: Pairs) -> Tensor:
        ends = sample(bound(denoise, part.labels), part.starts, solver)
        return (embed(ends) - embed(part.targets)).square().sum()

    try:
        solver = family.table(parameters)
        return float(sum(map_batches(total, pairs.split(batch), pairs.starts.device))) / len(pairs)
    except InputError:
        return float("inf")


def damped(JJ: Tensor, damping: float) -> Tensor:
    """JᵀJ + μ diag JᵀJ, which parameters without influence do not make singular."""
    diagonal = JJ.diag().clamp(min=1e-9 * float(JJ.diag().max()))
    return JJ + damping * torch.diag(diagonal)


def best_step(
    objective: Callable[[Tensor], float], parameters: Tensor, JJ: Tensor, Jr: Tensor, now: float
) -> tuple[float, Tensor]:
    """The objective and the parameters after the damping that goes furthest down at the first length,
    with the length that does; after the first stronger damping that helps, where none of them did."""
    first, *others = LENGTHS

    def trial(damping: float, length: float) -> tuple[float, Tensor]:
        moved = parameters - length * torch.linalg.solve(damped(JJ, damping), Jr)
        return objective(moved), moved

    tried = [(trial(damping, first), damping) for damping in DAMPINGS]
    best, damping = min(tried, key=lambda t: t[0][0])
    best = min([best, *(trial(damping, length) for length in others)], key=itemgetter(0))
    if best[0] < now:
        return best
    return next((found for mu in STRONGER if (found := trial(mu, 1.0))[0] < now), best)


def learn_gauss_newton(
    denoise: Denoiser | Conditional,
    family: Family,
    train: Pairs,
    validation: Pairs,
    embed: Embedding,
    iterations: int = 5,
    batch: int = 20,
    derivatives: str = "differences",
    state_file: Path | None = None,
    progress: bool = True,
) -> Learned:
    """Damped Gauss–Newton from the classic solver, with as many steps as ``iterations`` at most.

    The normal equations are summed over all training pairs, batch by batch. Dampings and lengths of a
    step are compared on the validation pairs, and a step is taken only if it lowers their distance; the
    first iteration that finds none ends the learning. ``history`` counts iterations.

    Args:
        derivatives: "differences", for any denoiser, on the CPU the cheaper; or "tangents", exact, if
            torch can differentiate the denoiser in forward mode.
        state_file: where progress is kept after every iteration; a run that finds it goes on from there.

    Raises:
        InputError: no pairs, no such derivatives, or a state of another run.
    """
    check_pairs(train, validation)
    zero = family.zero
    options = {"pairs": len(train), "validation_pairs": len(validation), "derivatives": derivatives}
    data = digest_of(family, train, validation)
    kept = StateFile(state_file, {**names(family), **options, "data": data})
    objective = partial(mean_distance, denoise, family, pairs=validation, embed=embed, batch=batch)
    tensors, record = kept.load() or ({"parameters": zero}, {"history": [(0, objective(zero))]})
    parameters, history = tensors["parameters"], [(int(k), value) for k, value in record["history"]]
    left = range(0) if record.get("finished") else range(len(history), iterations + 1)
    iterating = bar(
        total=iterations,
        initial=len(history) - 1,
        desc=f"learning from {family.start}",
        disable=not progress,
    )
    for iteration in left:
        equations = partial(
            normal_equations, denoise, family, parameters, embed=embed, derivatives=derivatives
        )
        batches = train.split(batch)
        if derivatives == "tangents":
            # In turn, since the threads of a process share one level of forward mode; and by the one kind
            # of attention that has forward derivatives.
            with sdpa_kernel(SDPBackend.MATH):
                parts = [equations(part) for part in batches]
        else:
            parts = map_batches(equations, batches, train.starts.device)
        JJ, Jr = (torch.stack(p).sum(0) for p in zip(*parts, strict=True))
        value, moved = best_step(objective, parameters, JJ, Jr, history[-1][1])
        iterating.update()
        if not value < history[-1][1]:
            kept.save({"parameters": parameters}, {"history": history, "finished": True})
            break
        parameters = moved
        history.append((iteration, value))
        kept.save({"parameters": parameters}, {"history": history})
        iterating.set_postfix(validation=f"{value:.4f}", start=f"{history[0][1]:.4f}")
    iterating.close()
    solver = family.table(parameters)
    record = {
        "method": "s4s",
        "optimiser": "Gauss-Newton",
        **names(family),
        **options,
        "iterations": len(history) - 1,
        "validation_start": history[0][1],
        "validation_best": history[-1][1],
    }
    return Learned(replace(solver, info={**solver.info, **record}), parameters, history)

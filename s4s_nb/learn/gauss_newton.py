"""Gauss–Newton: the objective of :mod:`s4s_nb.learn.problem` as the least squares that it is.

A sum of squares and a dozen parameters make a tiny nonlinear least-squares problem. With the residuals r
of all pairs and their Jacobian J in the parameters, a step is

    δ = −s (JᵀJ + μ diag JᵀJ)⁻¹ Jᵀr        (Levenberg 1944, Marquardt 1963)

with damping μ and length s: on the bundled image models the full step, s = 1, is mostly too short, and
twice or four times of it goes further down. First-order methods have trouble: a coefficient of the
first step, taken at σ = 80, moves the end point in another way and by another amount than one of the
last, and JᵀJ knows by how much.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from s4s_nb.errors import choose
from s4s_nb.learn.problem import Batch, Linearised, Problem
from s4s_nb.learn.tangents import table_derivatives, trajectory_tangents
from s4s_nb.runtime import full_float32, map_batches
from s4s_nb.solvers import Solver, trajectory
from s4s_nb.student import Student

DAMPINGS = (1e-3, 1e-2, 1e-1)
STRONGER = (1.0, 10.0, 100.0)
"""Tried in turn, at length 1, where none of the dampings helps."""
LENGTHS = (2.0, 1.0, 4.0)
"""The first is tried with every damping, the others with the best one."""
DIFFERENCE = 1e-3
"""Short enough for gradients within 8 % of backpropagation's on all bundled models (a test compares
them), which ten times of it is not."""


def by_differences(problem: Problem, student: Student, by: Tensor, parts: Sequence[str]) -> Linearised:
    """Forward differences: m + 1 trajectories of any denoiser.

    Parameters are O(1) by construction, so one step size serves all. A parameter of step i costs the
    evaluations after step i alone: what comes before is taken from the undisturbed trajectory.
    """
    base = student.moved(by, parts)
    tables = [student.moved(moved, parts) for moved in by + DIFFERENCE * torch.eye(len(by)).to(by)]
    changes = [first_changes(base, table) for table in tables]

    def linearised(batch: Batch) -> tuple[Tensor, Tensor]:
        starts, cond = batch.pairs.starts, batch.pairs.cond
        states, outputs = trajectory(problem.denoise, starts, base, cond)
        r, columns = problem.residual(base.sigmas, states, batch), []
        slopes = problem.aim.slopes(r)
        for table, (row, asked) in zip(tables, changes, strict=True):
            known = states[: min(row, asked) + 1], outputs[: min(row + 1, asked)]
            moved = trajectory(problem.denoise, starts, table, cond, known)[0]
            apart = problem.residual(table.sigmas, moved, batch) - r
            columns.append((slopes * apart).flatten() / DIFFERENCE)
        return (slopes * r).flatten(), torch.stack(columns)

    return linearised


def first_changes(base: Solver, table: Solver) -> tuple[int, int]:
    """The first row, and the first evaluation, in which two tables differ; N where none does."""

    def first(changed: Tensor) -> int:
        return int(changed.nonzero()[0]) if changed.any() else base.steps

    asked = (table.model_sigmas != base.model_sigmas) | (table.kappa != base.kappa)
    return first(((table.A != base.A) | (table.B != base.B)).any(1)), first(asked)


def by_tangents(problem: Problem, student: Student, by: Tensor, parts: Sequence[str]) -> Linearised:
    """Forward mode, exact: one trajectory that all tangents share."""
    table = student.moved(by, parts)
    *moving, falling = table_derivatives(lambda p: student.moved(p, parts), by)

    def linearised(batch: Batch) -> tuple[Tensor, Tensor]:
        pairs = batch.pairs
        states, tangents = trajectory_tangents(problem.denoise, pairs.starts, table, moving, pairs.cond)

        def residual(levels: Tensor, *states: Tensor) -> Tensor:
            return problem.residual(levels, [*states], batch)

        r, moved = vmap(lambda *d: jvp(residual, (table.sigmas, *states), d)[:2], out_dims=(None, 0))(
            falling, *tangents
        )
        slopes = problem.aim.slopes(r)
        return (slopes * r).flatten(), (slopes * moved).flatten(1)

    return linearised


DERIVATIVES = {"differences": by_differences, "tangents": by_tangents}


@torch.no_grad()
def normal_equations(
    problem: Problem,
    student: Student,
    by: Tensor,
    parts: Sequence[str],
    derivatives: str = "differences",
    batches: Sequence[Batch] | None = None,
) -> tuple[Tensor, Tensor]:
    """JᵀJ (m, m) and Jᵀr (m,), summed over the training pairs, or over some of their batches."""
    linearised = choose(DERIVATIVES, derivatives, "kind of derivatives")(problem, student, by, parts)

    def equations(batch: Batch) -> tuple[Tensor, Tensor]:
        return in_float64(*linearised(batch))

    batches = problem.train_batches if batches is None else batches
    if derivatives == "tangents":
        # In turn, since the threads of a process share one level of forward mode; and by the one kind of
        # attention that has forward derivatives.
        with sdpa_kernel(SDPBackend.MATH):
            parts_of_sum = [equations(batch) for batch in batches]
    else:
        with full_float32():
            parts_of_sum = map_batches(equations, batches, problem.train.starts.device)
    JJ, Jr = (torch.stack(part).sum(0) for part in zip(*parts_of_sum, strict=True))
    return JJ, Jr


COLUMNS_AT_ONCE = 2**16


def in_float64(r: Tensor, J: Tensor) -> tuple[Tensor, Tensor]:
    """JᵀJ and Jᵀr of residuals (p,) and derivatives (m, p), summed in float64, on the CPU.

    Millions of squares, of which large ones cancel in the step that they lead to: float32 is too coarse.
    """
    JJ, Jr = J.new_zeros(len(J), len(J)).double(), J.new_zeros(len(J)).double()
    for part, own in zip(J.split(COLUMNS_AT_ONCE, dim=1), r.split(COLUMNS_AT_ONCE), strict=True):
        wide = part.double()
        JJ, Jr = JJ + wide @ wide.T, Jr + wide @ own.double()
    return JJ.cpu(), Jr.cpu()  # the parameters live there


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


def gauss_newton(
    problem: Problem,
    student: Student,
    parts: Sequence[str],
    memory: dict[str, Any],
    iterations: int,
    derivatives: str = "differences",
) -> Iterator[float | None]:
    """Damped Gauss–Newton with as many steps as ``iterations`` at most; yields the validation distance.

    Dampings and lengths of a step are compared on the validation pairs, and a step is taken only if it
    lowers their distance; the first iteration that finds none is the last.

    Args:
        derivatives: "differences", for any denoiser, on the CPU the cheaper; or "tangents", exact, if
            torch can differentiate the denoiser in forward mode.
    """
    while memory["steps"] < iterations and not memory.get("finished"):
        JJ, Jr = normal_equations(problem, student, memory["by"], parts, derivatives)
        value, moved = best_step(
            lambda by: problem.distance(student, by, parts), memory["by"], JJ, Jr, memory["value"]
        )
        memory["steps"] += 1
        if value < memory["value"]:
            memory |= {"by": moved, "value": value}
            yield value
        else:
            memory["finished"] = True
            yield None

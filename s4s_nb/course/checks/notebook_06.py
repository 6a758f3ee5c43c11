"""Checks of notebook 06: rows that sum to one, the damped step, the ball, the price of a Jacobian."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4s_nb.course.checks.diagnosis import Check, diagnose, diagnose_counts, first, numbers


def generated(*shape: int, seed: int = 6) -> Tensor:
    """Some numbers, the same every time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def consistent(answer: Callable[[Tensor], Tensor]) -> str | None:
    """Rows that sum to one by their newest weight, as ``answer(c (N, N)) -> (N, N)``."""
    return first(one_consistent(answer, generated(n, n).tril()) for n in (4, 3))


def one_consistent(answer: Callable[[Tensor], Tensor], c: Tensor) -> str | None:
    """What is wrong with the rows of one matrix."""
    given = c.clone()
    missing, newest = 1 - c.sum(1), torch.eye(len(c), dtype=torch.float64)
    oldest = torch.zeros_like(c)
    oldest[:, 0] = 1
    used = c != 0
    mistakes = {
        "you divide by the row's sum, which moves every weight; only the newest may move.": (
            c / c.sum(1, keepdim=True)
        ),
        "you spread what is missing over the row; only the newest weight may move.": (
            c + missing[:, None] * used / used.sum(1, keepdim=True)
        ),
        "you spread what is missing over all columns: now the solver uses the future.": (
            c + missing[:, None] / len(c)
        ),
        "that moves the oldest weight, in the first column; the newest stands on the diagonal.": (
            c + missing[:, None] * oldest
        ),
        "your columns sum to one; a step is a row.": c + torch.diag(1 - c.sum(0)),
        "you put what is missing in the newest weight's place; add it to the weight.": (
            c - torch.diag(c.diag()) + torch.diag(missing)
        ),
        "your rows sum to zero; that is right for offsets, but weights sum to one.": (
            c - torch.diag(c.sum(1))
        ),
        "you return the diagonal of the answer; the other weights stay where they are.": (
            (c + missing[:, None] * newest) * newest
        ),
    }
    problem = diagnose(answer(given), c + torch.diag(missing), mistakes)
    if problem is None and not torch.equal(given, c):
        return "right, but you changed the matrix you were given; return a new one."
    return problem


def damped_step(answer: Callable[..., Tensor]) -> str | None:
    """Levenberg–Marquardt's step, as ``answer(J (p, m), r (p,), mu) -> (m,)``."""
    units = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)
    return first(
        one_step(answer, generated(p, m) * units[:m], generated(p, seed=7), mu)
        for p, m, mu in ((9, 3, 0.3), (4, 2, 2.0))
    )


def one_step(answer: Callable[..., Tensor], J: Tensor, r: Tensor, mu: float) -> str | None:
    """What is wrong with the step for this Jacobian."""
    H, g = J.T @ J, J.T @ r
    diagonal, eye = torch.diag(H.diag()), torch.eye(len(H), dtype=torch.float64)
    solve = torch.linalg.solve
    right = solve(H + mu * diagonal, -g)
    mistakes = {
        "this goes uphill: the step solves (…) δ = −Jᵀr.": -right,
        "you damp with mu times the identity; Marquardt has the diagonal of JᵀJ.": solve(H + mu * eye, -g),
        "the damping is missing: this is the undamped Gauss–Newton step.": solve(H, -g),
        "you add all of mu JᵀJ; only its diagonal: torch.diag(H.diag()).": solve((1 + mu) * H, -g),
        "that is the gradient, with a sign: solve the linear system as well.": -g,
        "you multiply with the matrix; solve with it.": (H + mu * diagonal) @ -g,
        "you keep only the diagonal of JᵀJ, as Adam in a way does: the rest of the matrix is the point.": (
            -g / ((1 + mu) * H.diag())
        ),
    }
    return diagnose(answer(J, r, mu), right, mistakes)


def ball(answer: Callable[..., Tensor]) -> str | None:
    """Projection onto the ball, row by row, as ``answer(shifts (b, d), radius) -> (b, d)``."""
    shifts, radius = generated(5, 3) * torch.tensor([[0.1], [3.0], [1.0], [0.3], [8.0]]).double(), 1.5
    lengths = shifts.norm(dim=1, keepdim=True)
    mistakes = {
        "you clamp every number, which projects onto a cube; the ball bounds the length of a row.": (
            shifts.clamp(-radius, radius)
        ),
        "you put every row onto the boundary; a row inside stays as it is.": shifts * radius / lengths,
        "you bound the length of the whole batch; each sample has its own ball.": (
            shifts * min(1.0, radius / float(shifts.norm()))
        ),
        "you bound the squared length: take the root.": shifts * (radius / lengths**2).clamp(max=1),
        "you scale to length one and forget the radius.": torch.where(
            lengths > radius, shifts / lengths, shifts
        ),
        "rows outside are set to zero; the nearest point of the ball has their direction.": torch.where(
            lengths > radius, 0 * shifts, shifts
        ),
        "the lengths run down the columns: norm(dim=1), a row is a sample.": (
            shifts * (radius / shifts.norm(dim=0, keepdim=True)).clamp(max=1)
        ),
        "turned round: rows inside are pushed out, and rows outside stay.": (
            shifts * (radius / lengths).clamp(min=1)
        ),
    }
    problem = diagnose(answer(shifts.clone(), radius), ball_projection(shifts, radius), mistakes)
    if problem is None and not torch.isfinite(numbers(answer(torch.zeros(1, 3).double(), radius))).all():
        return "right, except for a row of zeros, which becomes NaN; at first all shifts are zero."
    return problem


def ball_projection(shifts: Tensor, radius: float) -> Tensor:
    """The right answer."""
    return shifts * (radius / shifts.norm(dim=1, keepdim=True)).clamp(max=1)


def price(answer: Callable[[int, int], Any]) -> str | None:
    """Evaluations of a residual and its Jacobian, as ``answer(steps, order) -> int``."""

    def later(n: int, k: int) -> int:
        return sum(min(i + 1, k) * (n - 1 - i) for i in range(n))

    def size(n: int, k: int) -> int:
        return sum(min(i + 1, k) for i in range(n))

    mistakes = {
        "the undisturbed run is missing; it costs one evaluation a step.": later,
        "that evaluates everything anew for every parameter; what is before it is known.": (
            lambda n, k: n * (size(n, k) + 1)
        ),
        "that is a whole run for every parameter, and the undisturbed one is missing.": (
            lambda n, k: n * size(n, k)
        ),
        "that is the price of central differences; forward ones move each number once.": (
            lambda n, k: n + 2 * later(n, k)
        ),
        "a coefficient of step i acts on x_{i+1} first: the evaluation at x_i need not be repeated.": (
            lambda n, k: n + later(n, k) + size(n, k)
        ),
        "after a moved coefficient all later evaluations change, not one of them.": (
            lambda n, k: n + size(n, k)
        ),
        "the first steps have less history: step i (from 0) has min(i + 1, order) coefficients.": (
            lambda n, k: n + sum(k * (n - 1 - i) for i in range(n))
        ),
        "step 0 has one output to mix already: min(i + 1, order) coefficients in step i.": (
            lambda n, k: n + sum(min(i, k) * (n - 1 - i) for i in range(n))
        ),
    }
    cases = [(5, 3), (4, 1), (7, 4), (3, 6)]
    story = "for {} steps of order {}"
    return diagnose_counts(answer, cases, lambda n, k: n + later(n, k), mistakes, story)


CHECKS: dict[str, Check] = {
    "06-consistent": consistent,
    "06-step": damped_step,
    "06-ball": ball,
    "06-price": price,
}

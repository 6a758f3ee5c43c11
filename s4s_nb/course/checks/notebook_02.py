"""Checks of notebook 02: tables and weights of classic solvers, a bug, consistency."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.course.checks.diagnosis import (
    Check,
    bools,
    diagnose,
    diagnose_pair,
    first,
    number,
    numbers,
    pair,
)
from s4s_nb.grids import log_snr
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.multistep import polynomial_weights
from s4s_nb.solvers import Solver, solve


def ddim_table(answer: Callable[..., Any]) -> str | None:
    """A = diag(σ'/σ), B = diag(1 − σ'/σ), as ``answer(sigmas) -> (A, B)``."""
    return first(one_ddim(answer, levels) for levels in ([10.0, 4.0, 1.5, 0.6, 0.2], [3.0, 0.5, 0.0]))


def one_ddim(answer: Callable[..., Any], levels: list[float]) -> str | None:
    """What is wrong with DDIM's table on these levels."""
    sigmas = torch.tensor(levels, dtype=torch.float64)
    keep = sigmas[1:] / sigmas[:-1]
    alpha = torch.rsqrt(1 + sigmas**2)
    native = (alpha * sigmas)[1:] / (alpha * sigmas)[:-1]
    eye = torch.ones_like(keep)

    def table(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.diag(a), torch.diag(b)

    mistakes = {
        "these are B and A: return (A, B), states first.": table(1 - keep, keep),
        "your ratio is upside down: the state keeps sigma[i+1] / sigma[i], which is below 1.": table(
            1 / keep, 1 - 1 / keep
        ),
        "the noise (x − D)/σ holds the state as well: A is sigma[i+1] / sigma[i], not 1.": table(
            eye, 1 - keep
        ),
        "B has the wrong sign: each row of A + B must sum to 1.": table(keep, keep - 1),
        "you let the whole of D in: the state keeps a share, so D gets only 1 minus that share.": table(
            keep, eye
        ),
        "those are DDIM's weights in VP's own coordinate; ours is divided by alpha.": table(
            native, alpha[1:] - alpha[:-1] * native
        ),
    }
    return diagnose_pair(answer(sigmas), table(keep, 1 - keep), mistakes)


def two_step_weights(answer: Callable[..., Any]) -> str | None:
    """Exact for slopes a + b σ, as ``answer(older, now, after) -> (w_now, w_older)``."""
    return first(one_two_step(answer, levels) for levels in ([5.0, 3.0, 2.2], [1.0, 0.7, 0.1]))


def one_two_step(answer: Callable[..., Any], three: list[float]) -> str | None:
    """What is wrong with the two weights on these levels."""
    older, now, after = levels = torch.tensor(three, dtype=torch.float64)
    r = (after - now) / (now - older)
    log_r = (after / now).log() / (now / older).log()

    def weights(w_older: Any) -> Tensor:
        w_older = torch.as_tensor(w_older, dtype=torch.float64)
        return torch.stack([1 - w_older, w_older])

    right = weights(-r / 2)
    mistakes = {
        "3/2 and −1/2 hold on a uniform grid only; here the two steps differ in length.": weights(-0.5),
        "right numbers in the wrong order: return (w_now, w_older).": right.flip(0),
        "your ratio is upside down: the step to come over the step before.": weights(-1 / (2 * r)),
        "a factor ½ is missing: the line is averaged, its value in the middle of the step counts.": weights(
            -r
        ),
        "wrong sign: going on along the line means more than 1 of the newer, less than 0 of the older.": (
            weights(r / 2)
        ),
        "you measured the steps in log σ; the line is drawn over σ.": weights(-log_r / 2),
        "the step after − now stands in front of the bracket already; return bare weights.": (
            right * (after - now)
        ),
    }
    given = [number(weight) for weight in pair(answer(*levels), "two numbers, w_now and w_older")]
    problem = diagnose(given, right, mistakes)
    if problem is None or not problem.startswith("not yet"):
        return problem
    if abs(sum(given) - 1) > 1e-5:
        return f"a constant slope comes out {sum(given):.3g} times as long as it is: weights must sum to 1."
    return (
        "constant slopes are exact, but ε = σ is not: w_now·now + w_older·older must be the"
        " middle of the step."
    )


def dpmpp_2m_weights(answer: Callable[..., Any]) -> str | None:
    """1 + 1/2r and −1/2r with r = h_{i−1}/h_i in λ, as ``answer(sigmas) -> (N, N)``."""
    return first(one_dpmpp_2m(answer, levels) for levels in ([10.0, 4.0, 1.5, 0.6, 0.2, 0.13], [2.0, 0.3]))


def one_dpmpp_2m(answer: Callable[..., Any], levels: list[float]) -> str | None:
    """What is wrong with 2M's weights on these levels."""
    sigmas = torch.tensor(levels, dtype=torch.float64)
    h = -sigmas.log().diff()
    linear = sigmas.diff()
    exact = -(torch.expm1(-h) / h + 1) / torch.expm1(-h)

    def weights(older: Tensor, first: float = 0.0) -> Tensor:
        """Row i has 1 + older_i and −older_i; ``first`` is what row 0 adds to its 1."""
        w = torch.diag(torch.cat([torch.tensor([first], dtype=torch.float64), older]) + 1)
        return w - torch.diag(older, -1)

    right = weights(h[1:] / h[:-1] / 2)
    mistakes = {
        "r is upside down: h_{i−1}/h_i, the step before over the step to come.": weights(
            h[:-1] / h[1:] / 2
        ),
        "you measured the steps in σ; DPM-Solver++ measures them in λ = −log σ.": weights(
            linear[1:] / linear[:-1] / 2
        ),
        "½ is missing: 1 + 1/(2r), not 1 + 1/r.": weights(h[1:] / h[:-1]),
        "wrong sign: the newest output gets 1 + 1/(2r), the older one −1/(2r).": weights(
            -h[1:] / h[:-1] / 2
        ),
        "these are exp-ab2's exact weights, with −φ2/φ1; the published 2M takes their limit ½.": weights(
            h[1:] / h[:-1] * exact[1:]
        ),
        "rows are steps and columns are history: yours is the transpose.": right.T,
        "3/2 and −1/2 would be right if all steps in λ were equal; here they are not.": weights(
            torch.full_like(h[1:], 0.5)
        ),
        "row 0 has no history: it must be Euler's, with a 1.": weights(h[1:] / h[:-1] / 2, first=0.5),
        "there is no memory in it: that is DPM-Solver++(1), Euler.": weights(torch.zeros_like(h[1:])),
    }
    return diagnose(answer(sigmas), right, mistakes)


def repaired_ab2(answer: Callable[..., Any]) -> str | None:
    """The table of ab2 as ``answer(sigmas) -> (A, B)``; other answers are told their order."""
    sigmas = log_snr(6, 4.0, 0.05)
    weights = polynomial_weights(sigmas, 2, lambda s: s)
    step, own = sigmas.diff()[:, None], sigmas[:-1]
    eye = torch.eye(6, dtype=torch.float64)

    def table(level_a: Tensor, level_b: Tensor, w: Tensor = weights) -> tuple[Tensor, Tensor]:
        return eye + step * w / level_a, -step * w / level_b

    mistakes = {
        "that is the broken table still: look at the level by which the noise is divided.": table(
            own[:, None], own[:, None]
        ),
        "only A is repaired: the noise (x − D)/σ enters B with the same level.": table(own, own[:, None]),
        "only B is repaired: the noise (x − D)/σ enters A with the same level.": table(own[:, None], own),
        "consistent, but the memory is gone: this is Euler, of order 1.": table(own, own, eye),
        "you divide by the level that the step goes to; the noise of node j belongs to level j.": table(
            sigmas[1:, None], sigmas[1:, None]
        ),
    }
    problem = diagnose_pair(answer(sigmas), table(own, own), mistakes)
    if problem is None or not problem.startswith("not yet"):
        return problem
    order = measured_order(answer)
    if order > 1.6:
        return f"its order is {order:.1f}, but it is another solver than ab2; keep weights and repair."
    return f"not yet: its measured order is {order:.1f}."


def measured_order(table: Callable[[Tensor], tuple[Tensor, Tensor]]) -> float:
    """log₂ of the ratio of end errors with 48 and 96 steps, for one Gaussian with its exact paths."""
    bell = GaussianMixture(torch.zeros(1, 1), torch.tensor([0.7]))
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    errors = []
    for steps in (12, 24):
        sigmas = log_snr(steps, 4.0, 0.05)
        A, B = (numbers(matrix) for matrix in table(sigmas))
        end = solve(bell, x, Solver("answer", sigmas, A, B))
        exact = x * ((0.49 + sigmas[-1] ** 2) / (0.49 + sigmas[0] ** 2)).sqrt()
        errors.append(float((end - exact).abs().max()))
    return math.log2(errors[0] / errors[1])


def solves_constants(answer: Callable[..., Any]) -> str | None:
    """Σ(A + B) = 1 and Σ A_ij σ_j = σ_{i+1} in each row, as ``answer(sigmas, A, B) -> (N,) bool``."""
    return first(consistency(answer, *case) for case in CONSISTENCY)


def consistency(
    answer: Callable[..., Any], name: str, row: int, column: int, off_d: float, off_e: float, said: str
) -> str | None:
    """What is wrong with the answer on a classic table whose ``row`` misses along d and e by so much."""
    solver = make_solver(name, 6, lambda steps: log_snr(steps, 9.0, 0.1))
    A, B = solver.A.clone(), solver.B.clone()
    along_e = off_e / float(solver.sigmas[column])
    A[row, column] += along_e
    B[row, column] += off_d - along_e
    expected = torch.ones(6, dtype=torch.bool)
    expected[row] = not (off_d or off_e)
    given = bools(answer(solver.sigmas, A, B), 6, "row")
    return None if torch.equal(given, expected) else said


SIGN = "an error may be negative, so compare its absolute value."
BOTH = "a row wrong in both conditions: it must pass both; do not let errors cancel."
ROUNDING = "a row that misses by 0.0001 is not exact: 1e-9 is enough for rounding."
CONSISTENCY = (
    (
        *("ab3", 0, 0, 0.0, 0.0),
        "ab3 is exact in every row, but you reject it: does your condition allow old states, off the"
        " diagonal of A, and is it met up to rounding (no ==, all in float64)?",
    ),
    (
        *("heun", 0, 0, 0.0, 0.0),
        "each row of Heun is exact, stages too, but you reject it: columns of A belong to nodes, so weigh"
        " them by sigmas[:-1], and compare with sigmas[1:].",
    ),
    (
        *("ab3", 3, 2, 0.0, 0.2),
        "a row that sums to 1 and yet misses along e: a second condition is needed,"
        " Σ_j A_ij σ_j = σ_{i+1}.",
    ),
    (
        *("ab3", 4, 4, 0.3, 0.0),
        "a row that is right along e but does not sum to 1: a second condition is needed,"
        " Σ_j (A_ij + B_ij) = 1.",
    ),
    ("ab3", 3, 1, 0.0, -0.2, f"a row that ends below the exact path, along e: {SIGN}"),
    ("ab3", 5, 2, -0.3, 0.0, f"a row that sums to less than 1: {SIGN}"),
    ("ab3", 2, 1, 0.2, -0.2, BOTH),
    ("heun", 1, 0, 0.2, 0.2, BOTH),
    ("ab3", 3, 2, 1e-4, 0.0, ROUNDING),
    ("ab3", 3, 2, 0.0, 1e-4, ROUNDING),
)
"""(solver, row, column, off along d, off along e, what is said of a wrong answer)"""


CHECKS: dict[str, Check] = {
    "02-ddim": ddim_table,
    "02-ab2": two_step_weights,
    "02-dpmpp-2m": dpmpp_2m_weights,
    "02-bug": repaired_ab2,
    "02-consistency": solves_constants,
}

"""Checks of the exercises: each tries the learner's answer and names the likely mistake."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4s_nb.classic import make_solver, polynomial_weights
from s4s_nb.denoisers import GaussianMixture
from s4s_nb.errors import choose
from s4s_nb.grids import log_snr
from s4s_nb.schedules import Flow, VPLinear
from s4s_nb.solvers import Solver, sample

CHECKS: dict[str, Callable[[Any], str | None]] = {}


def learner_check(name: str):
    """Register a check: a function of the answer that returns what is wrong with it, or None."""

    def register(function: Callable[[Any], str | None]):
        CHECKS[name] = function
        return function

    return register


def check(name: str, answer: Any) -> None:
    """Print "✓ …" if the answer is right, else "✗ …" and the likely mistake."""
    test = choose(CHECKS, name, "exercise")
    try:
        problem = test(answer)
    except NotImplementedError:
        problem = "nothing here yet: replace the line that raises NotImplementedError."
    except Exception as error:  # whatever the learner's code raises is for the learner to read
        problem = f"your code raised {type(error).__name__}: {error}"
    print(f"✓ {name}: right." if problem is None else f"✗ {name}: {problem}")


# Notebook 00


@learner_check("00-worth")
def _worth(answer: tuple[Callable[[float], int], Callable[[int], float], float]) -> str | None:
    """(enough, distance, target): enough(target) is the first nfe with distance(nfe) ≤ target."""
    enough, distance, target = answer
    nfe = enough(target)
    if distance(nfe) > target:
        return f"with {nfe} evaluations the distance is {distance(nfe):.3f}, still above {target:.3f}."
    if distance(nfe - 1) <= target:
        return f"{nfe} evaluations are enough, but {nfe - 1} are too: look for the smallest number."
    return None


@learner_check("00-count")
def _count(answer: Callable[[int, int], int]) -> str | None:
    """Σ_i min(i, order), for many and for few steps."""
    if answer(5, 3) == 15:
        return "the first steps have less history than `order`: step i has only i answers behind it."
    if answer(5, 3) == 9:
        return "count the steps from 1: already the first has one answer to mix."
    if answer(5, 3) != 12:
        return f"for 5 steps and order 3 it is 1 + 2 + 3 + 3 + 3 = 12, not {answer(5, 3)}."
    if answer(2, 3) != 3:
        return f"2 steps of order 3 have 1 + 2 = 3 numbers, not {answer(2, 3)}: few steps, little history."
    return None


@learner_check("00-row-sums")
def _row_sums(answer: Callable[[Solver], list[float]]) -> str | None:
    """Row sums of A + B."""
    A = torch.tensor([[0.5, 0.0], [0.2, 0.3]], dtype=torch.float64)
    B = torch.tensor([[0.5, 0.0], [0.1, 0.7]], dtype=torch.float64)
    sums = answer(Solver("test", torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), A, B))
    if not isinstance(sums, list):
        return f"return a list of floats, not {type(sums).__name__}: `.tolist()` makes one."
    given = torch.tensor(sums, dtype=torch.float64)
    if torch.allclose(given, (A + B).sum(0)):
        return "those are the sums of the columns; a step is a row, so sum over dim=1."
    if torch.allclose(given, B.sum(1)):
        return "those are the rows of B alone; the old state, in A, counts as well."
    return None if torch.allclose(given, (A + B).sum(1)) else f"expected [1.0, 1.3] here, got {sums}."


# Notebook 01


def diagnose(answer: Any, right: Tensor, mistakes: dict[str, Tensor]) -> str | None:
    """None if ``answer`` is ``right``, else what is wrong: type, shape, NaN, or a known mistake."""
    if not isinstance(answer, Tensor):
        return f"return a tensor, not {type(answer).__name__}; is there a return statement?"
    if answer.shape != right.shape:
        return f"the result has shape {tuple(answer.shape)}; it must be {tuple(right.shape)}."
    if torch.allclose(answer, right, rtol=1e-6, atol=1e-9):
        return None
    for sentence, wrong in mistakes.items():
        if torch.allclose(answer, wrong, rtol=1e-6, atol=1e-9, equal_nan=True):
            return sentence
    if not torch.isfinite(answer).all():
        return "the result holds NaN or infinity: look where the code divides or takes a root."
    gap = float((answer - right).abs().max())
    return f"not yet: off by up to {gap:.2g}, in a way that none of the usual mistakes explains."


@learner_check("01-gaussian")
def _gaussian_denoiser(answer: Callable[..., Tensor]) -> str | None:
    """D = μ + Σ(Σ + σ²I)⁻¹(x − μ), as ``answer(x, sigma, mean, covariance)``."""
    mean = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    root = torch.tensor([[0.9, 0, 0], [0.5, 0.6, 0], [-0.3, 0.2, 0.4]], dtype=torch.float64)
    covariance, sigma = root @ root.T, torch.tensor(0.7, dtype=torch.float64)
    x = torch.linspace(-3, 3, 15, dtype=torch.float64).reshape(5, 3) ** 2 - 2
    off, eye = x - mean, torch.eye(3, dtype=torch.float64)
    noised = covariance + sigma**2 * eye
    gain = covariance @ torch.linalg.inv(noised)

    def with_gain(matrix: Tensor) -> Tensor:
        return mean + off @ matrix.T

    mistakes = {
        "you return the score; the denoiser is x + σ² · score.": -off @ torch.linalg.inv(noised),
        "you kept the noise and removed the data: the gain is Σ(Σ + σ²I)⁻¹, not σ²(Σ + σ²I)⁻¹.": (
            with_gain(eye - gain)
        ),
        "variances add, not standard deviations: it must be sigma**2 on the diagonal.": with_gain(
            covariance @ torch.linalg.inv(covariance + sigma * eye)
        ),
        "σ² belongs on the diagonal only: add sigma**2 * torch.eye(d), not sigma**2.": with_gain(
            covariance @ torch.linalg.inv(covariance + sigma**2)
        ),
        "you divided matrices entry by entry; Σ(Σ + σ²I)⁻¹ needs torch.linalg.solve.": with_gain(
            covariance / noised
        ),
        "you used the variances only: the off-diagonal entries of the covariance matter.": (
            mean + off * covariance.diagonal() / noised.diagonal()
        ),
        "you pull towards 0 instead of towards the mean: it is x − mean that shrinks.": x @ gain.T,
        "you forgot to add the mean back after shrinking x − mean.": off @ gain.T,
    }
    return diagnose(answer(x, sigma, mean, covariance), with_gain(gain), mistakes)


@learner_check("01-dataset")
def _dataset_denoiser(answer: Callable[..., Tensor]) -> str | None:
    """D = Σ_k softmax_k(−‖x − y_k‖²/2σ²) y_k, as ``answer(x, sigma, data)``."""
    data = torch.tensor([[0, 0], [1, 0.5], [-1, 1], [0.3, -1.2]], dtype=torch.float64)
    x = torch.tensor([[0.2, 0.1], [-0.7, 0.9], [1.5, -1.0]], dtype=torch.float64)
    sigma = torch.tensor(0.6, dtype=torch.float64)
    distances = torch.cdist(x, data)
    exponents = -(distances**2) / (2 * sigma**2)

    def weighted(log_weights: Tensor, dim: int = -1) -> Tensor:
        return log_weights.softmax(dim) @ data

    mistakes = {
        "the exponent lacks the ½: −‖x − y‖² / (2σ²).": weighted(2 * exponents),
        "the exponent divides by the variance σ², not by σ.": weighted(exponents * sigma),
        "distances must be squared: −‖x − y‖² / (2σ²).": weighted(-distances / (2 * sigma**2)),
        "you normalised over the points x; each x needs weights that sum to 1 over the data.": (
            weighted(exponents, dim=0)
        ),
        "the weights do not sum to 1: divide by their sum over the data.": exponents.exp() @ data,
        "you return the nearest training point; the average is soft, and σ says how soft.": (
            data[distances.argmin(-1)]
        ),
    }
    problem = diagnose(answer(x, sigma, data), weighted(exponents), mistakes)
    if problem is not None:
        return problem
    sharp = answer(x, torch.tensor(1e-3, dtype=torch.float64), data)
    if sharp.isnan().any():
        return (
            "right at sigma = 0.6, but 0/0 at sigma = 0.001: every exponential underflows. Subtract"
            " the largest exponent first, or use torch.softmax."
        )
    if not torch.allclose(sharp, data[distances.argmin(-1)]):
        return (
            "right at sigma = 0.6, but not at sigma = 0.001, where D is the nearest training point."
            " Adding a small number to a sum of weights that underflow does not help: use softmax."
        )
    return None


@learner_check("01-score")
def _score_from_velocity(answer: Callable[..., Tensor]) -> str | None:
    """∇ log p(x; σ) from a rectified flow's network, as ``answer(velocity, x, sigma)``."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    denoise, flow = GaussianMixture(means, torch.tensor([0.3, 0.5])), Flow()
    sigma = torch.tensor(0.8, dtype=torch.float64)
    t, alpha = flow.time(sigma), flow.alpha(sigma)
    x = torch.tensor([[0.4, -0.2], [1.5, 1.0], [-2.0, 0.3]], dtype=torch.float64)

    def velocity(x_t: Tensor, time: Tensor) -> Tensor:
        time = torch.as_tensor(time, dtype=torch.float64)
        level, state = flow.level(time), x_t / (1 - time)
        return (state - denoise(state, level)) / level - denoise(state, level)

    right = denoise.score(x, sigma)
    d = denoise(x, sigma)
    raw = velocity(x, t)
    mistakes = {
        "wrong sign: the score points from x towards D, (D − x)/σ².": -right,
        "divide D − x by σ², not by σ.": right * sigma,
        "Tweedie's formula holds for x, not for x_t: subtract x from D.": ((d - alpha * x) / sigma**2),
        "that is the score in the flow's own coordinate, 1/(1 − t) times ours; we asked for x.": (
            right / alpha
        ),
        "the network lives in the coordinate x_t = (1 − t) x; you gave it x.": (
            (x - t * raw - x) / sigma**2
        ),
        "you gave the network x where it wants x_t = (1 − t) x.": ((alpha * x - t * raw - x) / sigma**2),
        "you stopped at the denoised point; the score is (D − x)/σ².": d,
        "D is x_t − t v: multiply the velocity by t, not by sigma.": (
            (alpha * x - sigma * velocity(alpha * x, t) - x) / sigma**2
        ),
        "the network wants the time t = σ/(1 + σ); you told it sigma.": (
            ((1 - sigma) * x - sigma * velocity((1 - sigma) * x, sigma) - x) / sigma**2
        ),
    }
    return diagnose(answer(velocity, x, sigma), right, mistakes)


@learner_check("01-clock")
def _vp_time(answer: Callable[..., Tensor]) -> str | None:
    """t with log(1 + σ²) = 0.1 t + 9.95 t², as ``answer(sigma)``."""
    # Small levels first: there the wrong formulas are finite too, and can be told apart.
    sigma = torch.tensor([0.002, 0.05, 0.3, 0.9], dtype=torch.float64)
    integral = torch.log1p(sigma**2)

    def root(right_side: Tensor, half_slope: float = 9.95, sign: int = 1) -> Tensor:
        return (-0.1 + sign * torch.sqrt(0.01 + 4 * half_slope * right_side)) / (2 * half_slope)

    mistakes = {
        "that is the time at which σ_t, not σ_t/α_t, equals sigma: 1 − exp(−∫β) is σ_t².": root(
            -torch.log1p(-(sigma**2))
        ),
        "the integral of β is log(1 + σ²): sigma has to be squared.": root(torch.log1p(sigma)),
        "you lost a factor of 2: log(1 + σ²) is the whole integral of β, not twice it.": (
            root(integral / 2)
        ),
        "the integral of 19.9 t is 9.95 t², with a ½.": root(integral, half_slope=19.9),
        "you took the negative root of the quadratic equation; times lie between 0 and 1.": root(
            integral, sign=-1
        ),
        "you left out the part 0.1 t of the integral: it matters at small sigma.": torch.sqrt(
            integral / 9.95
        ),
        "here t runs from 0 to 1, not from 0 to 1000.": 1000 * root(integral),
    }
    problem = diagnose(answer(sigma), root(integral), mistakes)
    if problem is not None:
        return problem
    high = torch.tensor([[1.0, 7.0], [80.0, 150.0]], dtype=torch.float64)
    return diagnose(answer(high), VPLinear().time(high), {})


# Notebook 02


def tensor_of(answer: Any) -> Any:
    """A tuple of tensors or numbers as one float64 tensor; anything else as it is."""
    if isinstance(answer, tuple):
        parts = [torch.as_tensor(part, dtype=torch.float64) for part in answer]
        return torch.stack(parts) if len({p.shape for p in parts}) == 1 else answer
    return answer.double() if isinstance(answer, Tensor) else answer


@learner_check("02-ddim")
def _ddim_table(answer: Callable[..., Any]) -> str | None:
    """A = diag(σ'/σ), B = diag(1 − σ'/σ), as ``answer(sigmas) -> (A, B)``."""
    sigmas = torch.tensor([10.0, 4.0, 1.5, 0.6, 0.2], dtype=torch.float64)
    keep = sigmas[1:] / sigmas[:-1]
    alpha = torch.rsqrt(1 + sigmas**2)
    native = (alpha * sigmas)[1:] / (alpha * sigmas)[:-1]
    eye = torch.ones_like(keep)

    def table(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.diag(a), torch.diag(b)])

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
    given = answer(sigmas)
    if not (isinstance(given, tuple) and len(given) == 2):
        return "return two matrices: return A, B."
    return diagnose(tensor_of(given), table(keep, 1 - keep), mistakes)


@learner_check("02-ab2")
def _two_step_weights(answer: Callable[..., Any]) -> str | None:
    """Exact for slopes a + b σ, as ``answer(older, now, after) -> (w_now, w_older)``."""
    older, now, after = levels = torch.tensor([5.0, 3.0, 2.2], dtype=torch.float64)
    r = (after - now) / (now - older)
    log_r = (after / now).log() / (now / older).log()

    def pair(w_older: Any) -> Tensor:
        w_older = torch.as_tensor(w_older, dtype=torch.float64)
        return torch.stack([1 - w_older, w_older])

    right = pair(-r / 2)
    mistakes = {
        "3/2 and −1/2 hold on a uniform grid only; here the two steps differ in length.": pair(-0.5),
        "right numbers in the wrong order: return (w_now, w_older).": right.flip(0),
        "your ratio is upside down: the step to come over the step before.": pair(-1 / (2 * r)),
        "a factor ½ is missing: the line is averaged, its value in the middle of the step counts.": pair(
            -r
        ),
        "wrong sign: going on along the line means more than 1 of the newer, less than 0 of the older.": (
            pair(r / 2)
        ),
        "you measured the steps in log σ; the line is drawn over σ.": pair(-log_r / 2),
        "the step after − now stands in front of the bracket already; return bare weights.": (
            right * (after - now)
        ),
    }
    given = tensor_of(answer(*levels))
    if isinstance(given, Tensor) and given.shape == (2,):
        problem = diagnose(given, right, mistakes)
        if problem is None or not problem.startswith("not yet"):
            return problem
        if abs(float(given.sum()) - 1) > 1e-9:
            total = float(given.sum())
            return f"a constant slope comes out {total:.3g} times as long as it is: weights must sum to 1."
        return (
            "constant slopes are exact, but ε = σ is not: w_now·now + w_older·older must be the"
            " middle of the step."
        )
    return "return two numbers: return w_now, w_older."


@learner_check("02-dpmpp-2m")
def _dpmpp_2m_weights(answer: Callable[..., Any]) -> str | None:
    """1 + 1/2r and −1/2r with r = h_{i−1}/h_i in λ, as ``answer(sigmas) -> (N, N)``."""
    sigmas = torch.tensor([10.0, 4.0, 1.5, 0.6, 0.2, 0.13], dtype=torch.float64)
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
    return diagnose(tensor_of(answer(sigmas)), right, mistakes)


@learner_check("02-bug")
def _repaired_ab2(answer: Callable[..., Any]) -> str | None:
    """The table of ab2 as ``answer(sigmas) -> (A, B)``; other answers are told their order."""
    sigmas = log_snr(6, 4.0, 0.05)
    weights = polynomial_weights(sigmas, 2, lambda s: s)
    step, own = sigmas.diff()[:, None], sigmas[:-1]
    eye = torch.eye(6, dtype=torch.float64)

    def table(level_a: Tensor, level_b: Tensor, w: Tensor = weights) -> Tensor:
        return torch.stack([eye + step * w / level_a, -step * w / level_b])

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
    given = answer(sigmas)
    if not (isinstance(given, tuple) and len(given) == 2):
        return "return two matrices: return A, B."
    problem = diagnose(tensor_of(given), table(own, own), mistakes)
    if problem is None or not problem.startswith("not yet"):
        return problem
    order = measured_order(answer)
    if order > 1.75:
        return f"its order is {order:.1f}, but it is another solver than ab2; keep weights and repair."
    return f"not yet: its measured order is {order:.1f}."


def measured_order(table: Callable[[Tensor], tuple[Tensor, Tensor]]) -> float:
    """log₂ of the ratio of end errors with 48 and 96 steps, for one Gaussian with its exact paths."""
    bell = GaussianMixture(torch.zeros(1, 1), torch.tensor([0.7]))
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    errors = []
    for steps in (48, 96):
        sigmas = log_snr(steps, 4.0, 0.05)
        A, B = (matrix.double() for matrix in table(sigmas))
        end = sample(bell, x, Solver("answer", sigmas, A, B))
        exact = x * ((0.49 + sigmas[-1] ** 2) / (0.49 + sigmas[0] ** 2)).sqrt()
        errors.append(float((end - exact).abs().max()))
    return math.log2(errors[0] / errors[1])


@learner_check("02-consistency")
def _solves_constants(answer: Callable[..., Any]) -> str | None:
    """Σ(A + B) = 1 and Σ A_ij σ_j = σ_{i+1} in each row, as ``answer(sigmas, A, B) -> (N,) bool``."""
    solver = make_solver("ab3", 6, lambda steps: log_snr(steps, 9.0, 0.1))
    sigmas, A, B = solver.sigmas, solver.A, solver.B
    moved, scaled, leaning = A.clone(), B.clone(), B.clone()
    moved[3, 2], leaning[3, 2] = moved[3, 2] + 0.2, leaning[3, 2] - 0.2  # sums to 1, wrong along e
    scaled[4, 4] += 0.3  # right along e, does not sum to 1
    tilted, tilted_b = A.clone(), B.clone()  # wrong along both
    tilted[2, 1], tilted_b[2, 1] = tilted[2, 1] + 0.1, tilted_b[2, 1] + 0.1
    heun = make_solver("heun", 6, lambda steps: log_snr(steps, 9.0, 0.1))
    every = torch.ones(6, dtype=torch.bool)
    cases = [
        (sigmas, A, B, every, "ab3 is exact in every row, but you reject it: "),
        (heun.sigmas, heun.A, heun.B, every, "each row of Heun is exact, stages too, but you reject it: "),
        (sigmas, moved, leaning, every.clone(), "a table whose rows sum to 1 and yet miss along e: "),
        (sigmas, A, scaled, every.clone(), "a table that is right along e but does not sum to 1: "),
        (sigmas, tilted, tilted_b, every.clone(), "a table with one row wrong in both conditions: "),
    ]
    hints = [
        "does your condition allow old states, off the diagonal of A? Is it met up to rounding (no ==)?",
        "columns of A belong to nodes: weigh them by sigmas[:-1], and compare with sigmas[1:].",
        "a second condition is needed, Σ_j A_ij σ_j = σ_{i+1}.",
        "a second condition is needed, Σ_j (A_ij + B_ij) = 1.",
        "each row must pass both conditions on its own; do not let their errors cancel.",
    ]
    for row, (*_, expected, _) in zip((None, None, 3, 4, 2), cases, strict=True):
        if row is not None:
            expected[row] = False
    for (levels, a, b, expected, story), hint in zip(cases, hints, strict=True):
        given = answer(levels, a, b)
        if not isinstance(given, Tensor) or given.dtype != torch.bool:
            return "return a tensor of True and False, one for each row."
        if given.shape != expected.shape:
            return f"the answer has shape {tuple(given.shape)}; one bool for each of the 6 rows, please."
        if not torch.equal(given, expected):
            return story + hint
    return None

"""Checks of notebook 01: two exact denoisers, the score of a flow, the clock of VP."""

from collections.abc import Callable

import torch
from torch import Tensor

from s4s_nb.course.checks.diagnosis import Check, close, diagnose, first, numbers
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.schedules import Flow, VPLinear


def gaussian_denoiser(answer: Callable[..., Tensor]) -> str | None:
    """D = μ + Σ(Σ + σ²I)⁻¹(x − μ), as ``answer(x, sigma, mean, covariance)``."""
    mean = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    root = torch.tensor([[0.9, 0, 0], [0.5, 0.6, 0], [-0.3, 0.2, 0.4]], dtype=torch.float64)
    x = torch.linspace(-3, 3, 15, dtype=torch.float64).reshape(5, 3) ** 2 - 2
    return first(
        one_gaussian(answer, x[:b, :d], sigma, mean[:d], root[:d, :d] @ root[:d, :d].T)
        for b, d, sigma in ((5, 3, 0.7), (2, 2, 1.6))
    )


def one_gaussian(
    answer: Callable[..., Tensor], x: Tensor, level: float, mean: Tensor, covariance: Tensor
) -> str | None:
    """What is wrong with the denoiser of one Gaussian."""
    sigma = torch.tensor(level, dtype=torch.float64)
    off, eye = x - mean, torch.eye(len(mean), dtype=torch.float64)
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


def dataset_denoiser(answer: Callable[..., Tensor]) -> str | None:
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
    sharp = numbers(answer(x, torch.tensor(1e-3, dtype=torch.float64), data))
    if sharp.isnan().any():
        return (
            "right at sigma = 0.6, but 0/0 at sigma = 0.001: every exponential underflows. Subtract"
            " the largest exponent first, or use torch.softmax."
        )
    if not close(sharp, data[distances.argmin(-1)]):
        return (
            "right at sigma = 0.6, but not at sigma = 0.001, where D is the nearest training point."
            " Adding a small number to a sum of weights that underflow does not help: use softmax."
        )
    return None


def score_from_velocity(answer: Callable[..., Tensor]) -> str | None:
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


def vp_time(answer: Callable[..., Tensor]) -> str | None:
    """t with log(1 + σ²) = 0.1 t + 9.95 t², as ``answer(sigma)``."""
    # Small levels first: there the wrong formulas are finite too, and can be told apart.
    sigma = torch.tensor([0.02, 0.05, 0.3, 0.9], dtype=torch.float64)
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


CHECKS: dict[str, Check] = {
    "01-gaussian": gaussian_denoiser,
    "01-dataset": dataset_denoiser,
    "01-score": score_from_velocity,
    "01-clock": vp_time,
}

"""What the tests of solvers share: exact problems, a fake network, grids, reference solutions."""

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from s4s_nb.denoisers import Denoiser, GaussianMixture
from s4s_nb.grids import log_snr

F64 = torch.float64

MIXTURE = GaussianMixture(
    torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.3, -0.9]]),
    torch.tensor([0.3, 0.4, 0.5]),
    torch.tensor([0.5, 0.3, 0.2]),
)


def noise(count: int = 16, dimension: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=F64)


def fake_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth nonlinear function of x and sigma that no solver integrates exactly."""
    return torch.tanh(x / (1 + sigma)) * torch.cos(sigma / 3) + 0.3 * torch.sin(2 * x)


def log_grid(steps: int, sigma_max: float = 4.0, sigma_min: float = 0.05) -> Tensor:
    return log_snr(steps, sigma_max, sigma_min)


GRADING = 12


def graded_grid(steps: int) -> Tensor:
    """log_grid of ``steps − 12`` steps, the first one split into 13 that double from 2⁻¹² of it.

    The steps of low order with which a multistep method starts are then so small that their errors
    do not show, and what is measured is the order of the method itself.
    """
    coarse = log_grid(steps - GRADING)
    doubling = 0.5 ** torch.arange(GRADING, 0, -1, dtype=F64)
    first = coarse[0] * (coarse[1] / coarse[0]) ** doubling
    return torch.cat([coarse[:1], first, coarse[1:]])


def reference(
    denoise: Denoiser, x: Tensor, sigma_max: float, sigma_min: float, rtol: float = 1e-12
) -> Tensor:
    """The end of dx/d log σ = x − D, solved adaptively in a clock that the package does not use."""

    def slope(log_sigma: float, flat) -> object:
        state = torch.from_numpy(flat.copy()).reshape(x.shape)
        sigma = torch.tensor(log_sigma, dtype=F64).exp()
        return (state - denoise(state, sigma)).numpy().ravel()

    ends = torch.tensor([sigma_max, sigma_min], dtype=F64).log().tolist()
    solution = solve_ivp(slope, ends, x.numpy().ravel(), "DOP853", rtol=rtol, atol=rtol / 10)
    return torch.from_numpy(solution.y[:, -1]).reshape(x.shape)

"""What the tests of solvers share: an exact mixture, a fake network, grids."""

import torch
from torch import Tensor

from s4s_nb.denoisers import GaussianMixture
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


def to_zero(levels: Tensor) -> Tensor:
    """The levels, then 0."""
    return torch.cat([levels, torch.zeros(1, dtype=F64)])


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

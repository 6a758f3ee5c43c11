"""What the tests of solvers share: an exact mixture, a fake network, reference solutions."""

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
    """A smooth nonlinear function that no solver integrates exactly."""
    return torch.tanh(x / (1 + sigma)) * torch.cos(sigma / 3) + 0.3 * torch.sin(2 * x)


def log_grid(steps: int, sigma_max: float = 4.0, sigma_min: float = 0.05) -> Tensor:
    return log_snr(steps, sigma_max, sigma_min)


def graded_grid(steps: int) -> Tensor:
    """log_grid whose first step is split into steps that double from 2⁻¹² of it.

    The low-order steps of a warm-up then contribute nothing that shows.
    """
    coarse = log_grid(steps - 12)
    first = coarse[0] * (coarse[1] / coarse[0]) ** (0.5 ** torch.arange(12, 0, -1, dtype=F64))
    return torch.cat([coarse[:1], first, coarse[1:]])

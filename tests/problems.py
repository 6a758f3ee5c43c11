"""What tests share: exact mixtures, a fake network, grids, and a small problem to learn solvers for."""

from functools import cache, partial

import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.families import make_student
from s4s_nb.grids import log_snr
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.problem import Problem
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.pairs import Pairs, run, seeded_noise
from s4s_nb.solvers import Solver
from s4s_nb.student import Student

F64 = torch.float64

SMOOTH = GaussianMixture([[1.0, 0.0], [-0.5, 0.8], [-0.3, -0.9]], [0.3, 0.4, 0.5], [0.5, 0.3, 0.2])
"""Smooth enough for orders of convergence to show at a few hundred steps."""
MIXTURE = GaussianMixture([[1.0, 0.0], [-0.5, 0.8], [-0.3, -0.9]], [0.15, 0.2, 0.25])
"""Sharp enough for a classic solver of few steps to miss the teacher."""


def noise(count: int = 16, dimension: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=F64)


def fake_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth nonlinear function of x and sigma that no solver integrates exactly."""
    return torch.tanh(x / (1 + sigma)) * torch.cos(sigma / 3) + 0.3 * torch.sin(2 * x)


# ---------------------------------------------------------------- grids


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


# ---------------------------------------------------------------- to learn

GRID = partial(log_snr, sigma_max=10.0, sigma_min=0.01)
TABLE = ("sigmas", "A", "B", "model_sigmas", "kappa")
"""The numbers of a solver."""


@cache
def pairs(split: str, count: int) -> Pairs:
    """Pairs of :data:`MIXTURE` and a teacher that nothing here can tell from the exact flow."""
    starts = 10 * seeded_noise(split, count, (2,)).double()
    return Pairs(starts, run(MIXTURE, starts, make_solver("dpm-3s", 90, GRID), batch=count))


def identity(x: Tensor) -> Tensor:
    """The embedding of the mean squared error."""
    return x


def problem(train: int = 40, validation: int = 20, batch: int = 20, **other) -> Problem:
    """So many pairs, and the exact denoiser; or ``other`` parts of a problem."""
    parts = {"denoise": MIXTURE, "embed": identity, "batch": batch, **other}
    return Problem(train=pairs("train", train), validation=pairs("validation", validation), **parts)


def student(start: str = "dpmpp-3m", nfe: int = 5, grid=GRID, **options) -> Student:
    """A student for the mixture, at zero."""
    return make_student(start, nfe, grid, **options)


def student_of(method: str, start: str = "dpmpp-3m") -> Student:
    """The student that a method learns, around its own classic solver if it has one."""
    recipe = METHODS[method]
    return recipe.student(start=recipe.start or start, nfe=5, grid=GRID, order=recipe.order)


def held_out(solver: Solver, count: int = 200) -> float:
    """Mean distance on noises that no learning has seen."""
    data = pairs("test", count)
    return float((run(MIXTURE, data.starts, solver) - data.targets).square().sum(1).mean())


def same_bits(one: Solver, other: Solver) -> bool:
    """Whether two tables are equal in every number."""
    return all(torch.equal(getattr(one, key), getattr(other, key)) for key in TABLE)

"""Grids: where a solver steps. Each function returns N+1 strictly falling levels, float64.

The last level belongs to the grid: a solver of few steps ends nearer to the teacher's image at a level well
above the one at which the teacher ends, with the little noise that it then leaves.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.errors import InputError, choose
from s4s_nb.schedules import Schedule

Grid = Float[Tensor, " levels"]

# Native timesteps of the 10-step schedules that Align Your Steps published (Sabour et al. 2024).
ALIGN_YOUR_STEPS = {
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}


def check_grid(sigmas: Tensor) -> Tensor:
    """Return ``sigmas`` if it is a grid: finite, strictly falling, only the last level may be 0."""
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise InputError(f"A grid needs at least two levels in one dimension; got {tuple(sigmas.shape)}.")
    if not torch.isfinite(sigmas).all():
        raise InputError("A grid must hold finite numbers; it holds NaN or infinity.")
    if (sigmas < 0).any():
        raise InputError("Levels of a grid must not be negative.")
    if (sigmas.diff() >= 0).any():
        raise InputError("Levels of a grid must fall strictly from noise to image.")
    return sigmas


def _unit(steps: int) -> Tensor:
    if steps < 1:
        raise InputError(f"A grid needs at least one step; got {steps}.")
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def karras(steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Grid:
    """Uniform in σ^(1/ρ) (Karras et al. 2022, eq. 5), ending at sigma_min."""
    check_grid(torch.tensor([sigma_max, sigma_min], dtype=torch.float64))
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return check_grid((high + _unit(steps) * (low - high)) ** rho)


def log_snr(steps: int, sigma_max: float, sigma_min: float) -> Grid:
    """Uniform in λ = −log σ, the log signal-to-noise ratio (halved)."""
    ends = check_grid(torch.tensor([sigma_max, sigma_min], dtype=torch.float64)).log()
    return check_grid((ends[0] + _unit(steps) * (ends[1] - ends[0])).exp())


def uniform_t(steps: int, sigma_max: float, sigma_min: float, schedule: Schedule) -> Grid:
    """Uniform in the native time of ``schedule``."""
    return _in_time(_unit(steps), sigma_max, sigma_min, schedule, power=1)


def quadratic_t(steps: int, sigma_max: float, sigma_min: float, schedule: Schedule) -> Grid:
    """Uniform in the square root of native time (Song et al. 2021, DDIM, appendix D.2)."""
    return _in_time(_unit(steps), sigma_max, sigma_min, schedule, power=2)


def align_your_steps(levels: Sequence[float] | Tensor, steps: int) -> Grid:
    """A published list of levels, log-linearly interpolated to another number of steps.

    For the lists in :data:`ALIGN_YOUR_STEPS`, which are timesteps, pass
    ``schedule.level(torch.tensor(list, dtype=torch.float64))``.
    """
    known = check_grid(torch.as_tensor(levels, dtype=torch.float64)).log()
    position = _unit(steps) * (len(known) - 1)
    i = position.floor().long().clamp(max=len(known) - 2)
    return check_grid((known[i] + (position - i) * (known[i + 1] - known[i])).exp())


def _in_time(unit: Tensor, sigma_max: float, sigma_min: float, schedule: Schedule, power: int) -> Grid:
    """Uniform in t^(1/power); the ends exact, whatever a round trip through t has rounded."""
    ends = check_grid(torch.tensor([sigma_max, sigma_min], dtype=torch.float64))
    first, last = schedule.time(ends) ** (1 / power)
    inner = schedule.level((first + unit[1:-1] * (last - first)) ** power)
    return check_grid(torch.cat([ends[:1], inner, ends[1:]]))


GridName = Literal["karras", "logsnr", "uniform", "quadratic", "dmn", "gits"]
"""The names of grids, as type checkers and the command line know them: those of :data:`GRIDS`, and the two
of :mod:`s4s_nb.computed_grids`."""
GRID_NAMES: tuple[str, ...] = get_args(GridName)

GRIDS: dict[str, Callable[[int, float, float, Schedule], Grid]] = {
    "karras": lambda n, high, low, schedule: karras(n, high, low),
    "logsnr": lambda n, high, low, schedule: log_snr(n, high, low),
    "uniform": uniform_t,
    "quadratic": quadratic_t,
}
"""The grids that are written down; races and comparisons try these where none is named."""

END_FACTORS = (1.0, 3.0, 10.0, 30.0)
TRIED = 20
"""Validation noises on which last levels are compared."""
LARGEST_END = 0.01
"""As a share of sigma_max, above which an image would show its noise."""


def last_levels(sigma_max: float, sigma_min: float) -> tuple[float, ...]:
    """Last levels worth a try for a few steps: sigma_min, and a few half decades above it."""
    tried = (factor * sigma_min for factor in END_FACTORS[1:])
    return (sigma_min, *(end for end in tried if end <= LARGEST_END * sigma_max))


def make_grid(name: str, steps: int, sigma_max: float, sigma_min: float, schedule: Schedule) -> Grid:
    """A grid by name: karras, logsnr, uniform (in native t) or quadratic."""
    return choose(GRIDS, name, "grid")(steps, sigma_max, sigma_min, schedule)

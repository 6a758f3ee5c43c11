"""Noise schedules: native time of a process ↔ the one clock of this package, σ̃ = σ/α.

A forward process x_t = α_t x_0 + σ_t ε becomes, after division by α_t, x̃ = x_0 + σ̃ ε. Everything
outside this module works with x̃ and σ̃ (written ``sigma``); native time t exists only here.
Every map is float64-exact in both directions and differentiable: no rounding, no table look-up.

Levels are finite and not negative, times lie where the process has them; anything else, NaN too, is an
:class:`InputError`. The maps return numbers of the precision of their input: float32 for what is coarser
(integers, half precision), float64 always where the process is a list.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from s4s_nb.errors import InputError


@runtime_checkable
class Schedule(Protocol):
    """The maps that a process needs; all work elementwise on tensors."""

    def level(self, t: Tensor) -> Tensor:
        """σ̃(t) = σ_t / α_t."""
        ...

    def time(self, sigma: Tensor) -> Tensor:
        """t with σ̃(t) = sigma, the inverse of :meth:`level`."""
        ...

    def alpha(self, sigma: Tensor) -> Tensor:
        """α at a level: x_t = α x̃."""
        ...

    def velocity(self, data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """v = α' x_0 + σ' ε, the target of a velocity-predicting network."""
        ...

    def data_from_velocity(self, x: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        """D from native state x_t = α x_0 + σ ε and velocity v, the inverse of :meth:`velocity`."""
        ...


def _precise(values: Tensor) -> Tensor:
    """The same as float32 or float64: neither integers nor halves can hold a time or a level."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _levels(sigma: Tensor) -> Tensor:
    """Levels, if they are finite and not negative."""
    sigma = _precise(sigma)
    if not ((sigma >= 0) & (sigma < math.inf)).all():
        raise InputError("A level is a finite number that is not negative, and no NaN; check sigma.")
    return sigma


def _times(t: Tensor, last: float = math.inf) -> Tensor:
    """Times, if they lie between 0 and ``last``; infinity is none."""
    t = _precise(t)
    if not ((t >= 0) & (t <= last) & (t < math.inf)).all():
        to = f"from 0 to {last:g}" if last < math.inf else "from 0 on"
        raise InputError(f"Times of this process run {to}; one of these does not, or is NaN.")
    return t


@dataclass(frozen=True)
class VE:
    """Variance exploding in the convention of EDM (Karras et al. 2022): α = 1, t = σ."""

    def level(self, t: Tensor) -> Tensor:
        return _times(t)

    def time(self, sigma: Tensor) -> Tensor:
        return _levels(sigma)

    def alpha(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(_levels(sigma))

    def velocity(self, data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """v = dx/dσ = ε."""
        return noise

    def data_from_velocity(self, x: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        """D = x − σ v."""
        return x - sigma * v


class _VariancePreserving:
    """α² + σ² = 1, hence α = 1/√(1 + σ̃²); shared by the three VP schedules."""

    def alpha(self, sigma: Tensor) -> Tensor:
        return torch.rsqrt(1 + _levels(sigma) ** 2)

    def velocity(self, data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """v = α ε − σ x_0, the derivative in the angle arctan σ̃ (Salimans and Ho 2022, appendix D)."""
        return self.alpha(sigma) * (noise - sigma * data)

    def data_from_velocity(self, x: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        """D = α x − σ v."""
        alpha = self.alpha(sigma)
        return alpha * (x - sigma * v)


@dataclass(frozen=True)
class VPLinear(_VariancePreserving):
    """VP with β(t) = β_min + t (β_max − β_min), t in (0, 1] (Song et al. 2021, eq. 32).

    Beyond t = 1, where models are not trained, β rises on.

    Raises:
        InputError: unless 0 < β_min ≤ β_max, without which a level may have no time.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise InputError(
                "A linear β rises from beta_min > 0 to beta_max;"
                f" got {self.beta_min:g} and {self.beta_max:g}."
            )

    def level(self, t: Tensor) -> Tensor:
        """σ̃² = exp(∫β) − 1 with ∫β = β_min t + (β_max − β_min) t²/2."""
        t = _times(t)
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2
        return torch.expm1(integral).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        integral = torch.log1p(_levels(sigma) ** 2)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)


def native_clock(schedule: Schedule | None) -> Schedule:
    """The process in whose native time grids and DEIS step.

    That of the model; VP's with linear β where there is none, or where time is the level itself: in EDM's
    σ few-step grids are useless, and VP's time is what is usual for its models.
    """
    return VPLinear() if schedule is None or isinstance(schedule, VE) else schedule


@dataclass(frozen=True)
class VPCosine(_VariancePreserving):
    """VP with α(t) = cos u / cos u_0, u = (π/2)(t + s)/(1 + s) (Nichol and Dhariwal 2021, eq. 17).

    σ̃² = cos²u_0/cos²u − 1 is computed as sin(u − u_0) sin(u + u_0)/cos²u: no cancellation at t = 0.
    Nor at t = 1, where cos u is the sine of what is left, and σ̃ infinite.

    Raises:
        InputError: unless s is a number ≥ 0.
    """

    s: float = 0.008

    def __post_init__(self):
        if not 0 <= self.s < math.inf:
            raise InputError(f"The offset s of a cosine schedule must be 0 or more; got {self.s:g}.")

    def level(self, t: Tensor) -> Tensor:
        t = _times(t, last=1.0)
        u0 = math.pi / 2 * self.s / (1 + self.s)
        u = math.pi / 2 * (t + self.s) / (1 + self.s)
        left = math.pi / 2 * (1 - t) / (1 + self.s)
        return torch.sqrt(torch.sin(u - u0) * torch.sin(u + u0)) / torch.sin(left)

    def time(self, sigma: Tensor) -> Tensor:
        u0 = math.pi / 2 * self.s / (1 + self.s)
        u = torch.atan(torch.sqrt(math.sin(u0) ** 2 + _levels(sigma) ** 2) / math.cos(u0))
        return 2 * (1 + self.s) / math.pi * u - self.s


@dataclass(frozen=True, eq=False)
class VPDiscrete(_VariancePreserving):
    """VP known at integer timesteps 0 … T−1 by ᾱ_t = Π(1 − β); log σ̃ is linear in between.

    Fractional timesteps are exact inverses of :meth:`level` and keep their gradient, where the
    usual nearest-entry look-up would have none. Beyond the ends the outermost slope goes on, to σ̃ = 0 at
    t = −∞.

    A list may end at ᾱ = 0, "zero terminal SNR" (Lin et al. 2024): in its last interval √ᾱ is linear, so
    that σ̃ rises to infinity at T − 1, beyond which there is no time. Sampling starts a little before.

    Args:
        alphas_cumprod: ᾱ, two finite levels or more; kept as float64.

    Raises:
        InputError: they do not fall strictly from below 1, to above or at 0.
    """

    alphas_cumprod: Tensor | np.ndarray | Sequence[float]

    def __post_init__(self):
        bar = torch.as_tensor(self.alphas_cumprod).double()
        object.__setattr__(self, "alphas_cumprod", bar)
        falls = bar.ndim == 1 and len(bar) >= 2 and bar[0] < 1 and bar[-1] >= 0
        if not (falls and (bar.diff() < 0).all()):  # NaN does not fall
            raise InputError(
                "alphas_cumprod must fall strictly, from below 1 down to at least 0, in two entries or"
                " more; it is the running product of 1 − β."
            )
        if len(bar) == 2 and bar[-1] == 0:
            raise InputError("alphas_cumprod needs two entries above 0.")

    @classmethod
    def from_betas(cls, schedule: str = "linear", steps: int = 1000) -> "VPDiscrete":
        """The usual lists: "linear" (DDPM: 1e-4 … 0.02), "scaled_linear" (Stable Diffusion:
        √β from √0.00085 to √0.012) and "cosine" (iDDPM, β ≤ 0.999)."""
        f64 = torch.float64
        if schedule == "linear":
            betas = torch.linspace(1e-4, 0.02, steps, dtype=f64)
        elif schedule == "scaled_linear":
            betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=f64) ** 2
        elif schedule == "cosine":
            t = torch.linspace(0, 1, steps + 1, dtype=f64)
            bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        else:
            raise InputError(
                f"Unknown β schedule {schedule!r}; choose one of: linear, scaled_linear, cosine."
            )
        return cls(torch.cumprod(1 - betas, dim=0))

    def _finite(self, like: Tensor) -> tuple[Tensor, bool]:
        """ᾱ above 0, and whether one of 0 follows."""
        bar = torch.as_tensor(self.alphas_cumprod)
        to_zero = bool(bar[-1] == 0)
        return bar[: len(bar) - to_zero].to(like.device), to_zero

    def level(self, t: Tensor) -> Tensor:
        t, (bar, to_zero) = _precise(t), self._finite(t)
        end = len(bar) if to_zero else math.inf
        if not (t <= end).all():
            raise InputError(f"Times of this process run to {end:g}; one of these lies beyond, or is NaN.")
        levels = 0.5 * torch.log((1 - bar) / bar)
        i = t.detach().floor().long().clamp(0, len(levels) - 2)
        sigma = torch.exp(levels[i] + (t - i) * (levels[i + 1] - levels[i]))
        last = len(bar) - 1
        if not (to_zero and (t > last).any()):
            return sigma
        alpha = bar[-1].sqrt() * (last + 1 - t.clamp(min=last))
        return torch.where(t > last, torch.sqrt(1 - alpha**2) / alpha, sigma)

    def time(self, sigma: Tensor) -> Tensor:
        bar, to_zero = self._finite(sigma)
        levels, log_sigma = 0.5 * torch.log((1 - bar) / bar), torch.log(_levels(sigma).double())
        i = (torch.searchsorted(levels, log_sigma.detach()) - 1).clamp(0, len(levels) - 2)
        t = i + (log_sigma - levels[i]) / (levels[i + 1] - levels[i])
        if not (to_zero and (log_sigma > levels[-1]).any()):
            return t
        return torch.where(
            log_sigma > levels[-1], len(bar) - self.alpha(sigma.double()) / bar[-1].sqrt(), t
        )


@dataclass(frozen=True)
class Flow:
    """Rectified flow x_t = (1 − t) x_0 + t ε: σ̃ = t/(1 − t) (Liu et al. 2023, eq. 1).

    σ̃ is infinite at t = 1; sampling starts at a large finite level instead, about 10³.
    """

    def level(self, t: Tensor) -> Tensor:
        t = _times(t, last=1.0)
        return t / (1 - t)

    def time(self, sigma: Tensor) -> Tensor:
        sigma = _levels(sigma)
        return sigma / (1 + sigma)

    def alpha(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + _levels(sigma))

    def velocity(self, data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """v = ε − x_0."""
        return noise - data

    def data_from_velocity(self, x: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        """D = x − t v."""
        return x - self.time(sigma) * v

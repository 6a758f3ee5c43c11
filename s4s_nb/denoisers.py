"""Denoisers D = denoise(x, sigma): the only thing that this package asks of a model.

x is the state in the one coordinate x̃ = x_0 + σ̃ ε, sigma a scalar tensor, D the predicted clean
image, of the shape of x. Networks that predict something else, in their own time, become denoisers
by the small adapters below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s4s_nb.errors import InputError
from s4s_nb.schedules import Schedule

Network = Callable[[Tensor, Tensor], Tensor]
"""A network in its own convention: (native state x_t, native time t) → its prediction."""

TensorLike = Tensor | Sequence
"""What torch.as_tensor makes a tensor of."""


@runtime_checkable
class Denoiser(Protocol):
    """D = denoise(x, sigma), the posterior mean E[x_0 | x̃ = x] at level sigma."""

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor: ...


@runtime_checkable
class Conditional(Protocol):
    """What has a denoiser for every condition: ``given(labels)``, one label a sample."""

    def given(self, labels: Tensor) -> Denoiser: ...


def from_data(net: Network, schedule: Schedule) -> Denoiser:
    """D = net(α x, t): a network that predicts the clean image."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return net(schedule.alpha(sigma) * x, schedule.time(sigma)).to(x.dtype)

    return denoise


def from_noise(net: Network, schedule: Schedule) -> Denoiser:
    """D = x − σ̃ net(α x, t): a network that predicts the noise ε."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * net(schedule.alpha(sigma) * x, schedule.time(sigma)).to(x.dtype)

    return denoise


def from_velocity(net: Network, schedule: Schedule) -> Denoiser:
    """D from v = α' x_0 + σ' ε: v = α ε − σ x_0 for VP, v = ε − x_0 for a rectified flow."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        native = schedule.alpha(sigma) * x
        v = net(native, schedule.time(sigma)).to(x.dtype)
        return schedule.data_from_velocity(native, v, sigma)

    return denoise


ADAPTERS = {"data": from_data, "noise": from_noise, "velocity": from_velocity}
"""By what the network predicts."""


def low_precision(net: Callable[..., Tensor], dtype: torch.dtype = torch.bfloat16) -> Callable[..., Tensor]:
    """A network whose convolutions and products of matrices run in bf16 or fp16, by autocast; what comes
    out, and so the arithmetic of adapters and solvers, has the precision of its state.

    Rounding of 2⁻⁸ (bf16) drowns the differences by which Gauss–Newton gets its derivatives, unless they
    are "tangents"; BFGS and Adam have theirs by backpropagation.
    """

    def call(x: Tensor, *conditions: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype):
            return net(x, *conditions).to(x.dtype)

    return call


def guided(conditional: Denoiser, unconditional: Denoiser, guidance_scale: float) -> Denoiser:
    """D = D_u + w (D_c − D_u), classifier-free guidance (Ho and Salimans 2022, eq. 6, w = 1 + their w).

    w = 1 is the conditional model. Each call costs two network evaluations.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        d_u = unconditional(x, sigma)
        return d_u + guidance_scale * (conditional(x, sigma) - d_u)

    return denoise


def clipped(denoise: Denoiser) -> Denoiser:
    """D clamped to [−1, 1], as the sampler of DDPM does (Ho et al. 2020, in their code).

    At high noise D = x̃ − σ̃ ε̂ multiplies the error of a noise-predicting network by σ̃, far out of the
    range that images have.
    """
    return lambda x, sigma: denoise(x, sigma).clamp(-1, 1)


def checkpointed(denoise: Denoiser) -> Denoiser:
    """The same outputs and gradients, but no activations are kept: backward evaluates once more.

    Memory then grows by a state a step instead of a network's activations (Chen et al. 2016).
    """

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        return checkpoint(denoise, x, sigma, use_reentrant=False)

    return call


@dataclass(eq=False)
class Counted:
    """A network or denoiser that counts its calls: NFE is measured where it is spent, never declared."""

    call: Callable[..., Tensor]
    nfe: int = 0
    lock: Lock = field(default_factory=Lock, repr=False)

    def __call__(self, *inputs: Tensor) -> Tensor:
        with self.lock:  # batches may run side by side
            self.nfe += 1
        return self.call(*inputs)


class GaussianMixture:
    """The exact denoiser of p_0 = Σ_k w_k N(μ_k, diag(s_k²)); one component is a Gaussian.

    At level σ component k is N(μ_k, s_k² + σ²) and, with r_k(x) its posterior probability,

        D(x, σ) = Σ_k r_k(x) [μ_k + s_k² / (s_k² + σ²) (x − μ_k)].

    Probabilities go through a log-softmax, so that nothing under- or overflows at small σ.

    Args:
        means: (k, d).
        stds: standard deviations, (k,) or (k, d), positive.
        weights: (k,), positive; normalised here; equal when left out.
    """

    def __init__(self, means: TensorLike, stds: TensorLike, weights: TensorLike | None = None):
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2:
            raise InputError(f"means must have shape (k, d); got {tuple(self.means.shape)}.")
        k = len(self.means)
        stds = torch.as_tensor(stds, dtype=torch.float64)
        weights = torch.as_tensor([1.0] * k if weights is None else weights, dtype=torch.float64)
        if stds.shape not in ((k,), self.means.shape) or weights.shape != (k,):
            raise InputError(
                f"A mixture of {k} components needs stds of shape ({k},) or {tuple(self.means.shape)} and"
                f" weights of shape ({k},); got {tuple(stds.shape)} and {tuple(weights.shape)}."
            )
        if not (stds > 0).all() or not (weights > 0).all():
            raise InputError("stds and weights of a mixture must be positive.")
        self.variances = (stds[:, None] if stds.ndim == 1 else stds).expand_as(self.means) ** 2
        self.log_weights = (weights / weights.sum()).log()

    def _log_joint(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, "b k"]:
        """log w_k N(x; μ_k, s_k² + σ²) up to the constant −(d/2) log 2π."""
        variances = self.variances + sigma**2
        squares = (x[:, None] - self.means) ** 2 / variances
        return self.log_weights - 0.5 * (squares + variances.log()).sum(-1)

    def __call__(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, "b d"]:
        """D(x, σ)."""
        posterior = self._log_joint(x, sigma).softmax(-1)
        shrink = self.variances / (self.variances + sigma**2)
        centres = self.means + shrink * (x[:, None] - self.means)
        return (posterior[..., None] * centres).sum(1)

    def log_density(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, " b"]:
        """log p(x; σ) of the noised mixture."""
        constant = 0.5 * x.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=x.dtype))
        return self._log_joint(x, sigma).logsumexp(-1) - constant

    def score(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, "b d"]:
        """∇ log p(x; σ) = (D(x, σ) − x) / σ² (Tweedie)."""
        return (self(x, sigma) - x) / sigma**2

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Samples of p_0."""
        k = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.variances[k].sqrt() * noise

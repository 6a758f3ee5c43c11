"""Denoisers D = denoise(x, sigma, **cond): the only thing that this package asks of a model.

x is the state in the one coordinate x̃ = x_0 + σ̃ ε, sigma a scalar tensor, cond what the model is
conditioned on, by name, as tensors with the batch in front (labels, prompt embeddings, masks; often
nothing), and D the predicted clean image, of the shape of x. Networks that predict something else, in
their own time, become denoisers by the small adapters below.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s4s_nb.schedules import Schedule

NativeNetwork = Callable[..., Tensor]
"""A network in its own convention: (native state x_t, native time t, **cond) → its prediction."""

Condition = dict[str, Tensor]
"""What a denoiser takes beside x and sigma, by name; every tensor has the batch in front."""


Denoiser = Callable[..., Tensor]
"""D = denoise(x, sigma, **cond), the posterior mean E[x_0 | x̃ = x, cond] at level sigma; without a
condition any function of the two."""


def from_data(net: NativeNetwork, schedule: Schedule) -> Denoiser:
    """D = net(α x, t): a network that predicts the clean image."""

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return net(schedule.alpha(sigma) * x, schedule.time(sigma), **cond).to(x.dtype)

    return denoise


def from_noise(net: NativeNetwork, schedule: Schedule) -> Denoiser:
    """D = x − σ̃ net(α x, t): a network that predicts the noise ε."""

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return x - sigma * net(schedule.alpha(sigma) * x, schedule.time(sigma), **cond).to(x.dtype)

    return denoise


def from_velocity(net: NativeNetwork, schedule: Schedule) -> Denoiser:
    """D from v = α' x_0 + σ' ε: v = α ε − σ x_0 for VP, v = ε − x_0 for a rectified flow."""

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        native = schedule.alpha(sigma) * x
        v = net(native, schedule.time(sigma), **cond).to(x.dtype)
        return schedule.data_from_velocity(native, v, sigma)

    return denoise


ADAPTERS = {"data": from_data, "noise": from_noise, "velocity": from_velocity}
"""By what the network predicts."""


def low_precision(net: NativeNetwork, dtype: torch.dtype = torch.bfloat16) -> NativeNetwork:
    """A network whose convolutions and products of matrices run in bf16 or fp16, by autocast; what comes
    out, and so the arithmetic of adapters and solvers, has the precision of its state.

    Rounding of 2⁻⁸ (bf16) drowns the differences by which Gauss–Newton gets its derivatives, unless they
    are "tangents"; BFGS and Adam have theirs by backpropagation.
    """

    def call(x: Tensor, *inputs: Tensor, **cond: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype):
            return net(x, *inputs, **cond).to(x.dtype)

    return call


def guided(conditional: Denoiser, unconditional: Denoiser, guidance_scale: float) -> Denoiser:
    """D = D_u + w (D_c − D_u), classifier-free guidance (Ho and Salimans 2022, eq. 6, w = 1 + their w).

    w = 1 is the conditional model. Each call costs two network evaluations; the unconditional one is not
    shown the condition.
    """

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        d_u = unconditional(x, sigma)
        return d_u + guidance_scale * (conditional(x, sigma, **cond) - d_u)

    return denoise


def clipped(denoise: Denoiser) -> Denoiser:
    """D clamped to [−1, 1], as the sampler of DDPM does (Ho et al. 2020, in their code).

    At high noise D = x̃ − σ̃ ε̂ multiplies the error of a noise-predicting network by σ̃, far out of the
    range that images have.
    """

    def call(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return denoise(x, sigma, **cond).clamp(-1, 1)

    return call


def checkpointed(denoise: Denoiser) -> Denoiser:
    """The same outputs and gradients, but no activations are kept: backward evaluates once more.

    Memory then grows by a state a step instead of a network's activations (Chen et al. 2016).
    """

    def call(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return checkpoint(partial(denoise, **cond), x, sigma, use_reentrant=False)

    return call


@dataclass(eq=False)
class Counted:
    """A network or denoiser that counts its calls: NFE is measured where it is spent, never declared."""

    call: Callable[..., Tensor]
    nfe: int = 0
    lock: Lock = field(default_factory=Lock, repr=False)

    def __call__(self, *inputs: Tensor, **cond: Tensor) -> Tensor:
        with self.lock:  # batches may run side by side
            self.nfe += 1
        return self.call(*inputs, **cond)

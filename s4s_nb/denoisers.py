"""Denoisers D = denoise(x, sigma, **cond): the only thing that this package asks of a model.

The contract:

- ``x`` (b, …) is the state in the one coordinate x̃ = x_0 + σ̃ ε, in the dtype and on the device of the
  starts. What a denoiser does to it in place is not seen by anyone else.
- ``sigma`` is the level of all of x: a float64 tensor without dimensions, on the device of x. A network
  that wants one level a sample, in its own precision, is asked with ``sigma.to(x).expand(len(x))``. The
  adapters below also take a level a sample, (b,).
- ``cond`` is what the model is conditioned on, by name, as tensors with the batch in front (labels, prompt
  embeddings, masks; often nothing).
- The answer D is the predicted clean image, a tensor of the shape of x. It is copied before the denoiser is
  asked again, so that a network may hand out the same memory every time.
- Sample k of the answer depends on sample k of x alone; and it is the same for the same input.
- BFGS and Adam differentiate D by backpropagation, so for them it must not run under ``no_grad``;
  Gauss–Newton takes differences and needs values alone.
- On a CPU several threads ask at once, unless D is found to reuse its memory: then they take turns.

Networks that predict something else, in their own time, become denoisers by the small adapters below.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s4s_nb.errors import InputError
from s4s_nb.schedules import Schedule

NativeNetwork = Callable[..., Tensor]
"""A network in its own convention: (native state x_t, native time t, **cond) → its prediction."""

Condition = dict[str, Tensor]
"""What a denoiser takes beside x and sigma, by name; every tensor has the batch in front."""


Denoiser = Callable[..., Tensor]
"""D = denoise(x, sigma, **cond), the posterior mean E[x_0 | x̃ = x, cond] at level sigma; without a
condition any function of the two."""


def as_tensor(answer: Any) -> Tensor:
    """The answer of a network or denoiser if it is a tensor.

    Raises:
        InputError: it is something else, as a library's output object; its tensors are named.
    """
    if isinstance(answer, Tensor):
        return answer
    parts = [
        f".{name}" for name, part in getattr(answer, "__dict__", {}).items() if isinstance(part, Tensor)
    ]
    if isinstance(answer, (tuple, list, dict)):
        keys = answer if isinstance(answer, dict) else range(len(answer))
        parts = [f"[{key!r}]" for key in keys if isinstance(answer[key], Tensor)]
    if isinstance(answer, np.ndarray):
        cure = "wrap its function in s4s_nb.black_box"
    else:
        cure = f"return the part that holds the prediction, as {' or '.join(parts) or '.sample or [0]'}"
    raise InputError(f"The denoiser returned a {type(answer).__name__}, not a tensor; {cure}.")


def prediction_of(answer: Any, x: Tensor) -> Tensor:
    """The answer of a network if it is a tensor of the shape of x; in the dtype of x.

    Raises:
        InputError: it is not, as one channel that would be spread over three.
    """
    prediction = as_tensor(answer)
    check_shape(prediction, x)
    return prediction.to(x.dtype)


def a_level_each(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` so that it multiplies x sample by sample: as it is, or (b,) with as many dimensions as x.

    Raises:
        InputError: it has neither no dimensions nor one number a sample.
    """
    if sigma.ndim == 0:
        return sigma
    if sigma.shape != x.shape[:1]:
        raise InputError(
            f"sigma is one number, or one a sample; for {len(x)} samples it came in shape"
            f" {tuple(sigma.shape)}."
        )
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def native_prediction(
    net: NativeNetwork, schedule: Schedule, x: Tensor, sigma: Tensor, cond: Condition
) -> Tensor:
    """net(α x, t): both are of this call alone, so that the network may overwrite them."""
    native = (schedule.alpha(a_level_each(sigma, x)) * x).to(x)
    return prediction_of(net(native, schedule.time(sigma).clone(), **cond), x)


def from_data(net: NativeNetwork, schedule: Schedule) -> Denoiser:
    """D = net(α x, t): a network that predicts the clean image."""

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return native_prediction(net, schedule, x, sigma, cond)

    return denoise


def from_noise(net: NativeNetwork, schedule: Schedule) -> Denoiser:
    """D = x − σ̃ net(α x, t): a network that predicts the noise ε."""

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        noise = native_prediction(net, schedule, x, sigma, cond)
        return (x - a_level_each(sigma, x) * noise).to(x.dtype)

    return denoise


def from_velocity(net: NativeNetwork, schedule: Schedule) -> Denoiser:
    """D from v = α' x_0 + σ' ε: v = α ε − σ x_0 for VP, v = ε − x_0 for a rectified flow."""

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        each, v = a_level_each(sigma, x), native_prediction(net, schedule, x, sigma, cond)
        return schedule.data_from_velocity((schedule.alpha(each) * x).to(x), v, each).to(x.dtype)

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
            return as_tensor(net(x, *inputs, **cond)).to(x.dtype)

    return call


def black_box(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """A denoiser or network of a function of NumPy arrays, as of an ONNX session: no gradient passes it.

    The function is asked with arrays, (x, sigma, **cond), sigma without dimensions, and returns D as an
    array of the shape of x. Gauss–Newton learns for it, by differences of its values.

    Example:
        >>> session = onnxruntime.InferenceSession("denoiser.onnx")
        >>> denoise = black_box(lambda x, sigma: session.run(None, {"x": x, "sigma": sigma})[0])
        >>> s4s.learn(s4s.Model(denoise, shape=…, …), optimiser="gauss-newton")
    """

    def denoise(x: Tensor, *inputs: Tensor, **cond: Tensor) -> Tensor:
        arrays = [each.detach().cpu().numpy() for each in (x, *inputs)]
        named = {name: value.detach().cpu().numpy() for name, value in cond.items()}
        return torch.from_numpy(np.array(function(*arrays, **named))).to(x)

    return denoise


def guided(conditional: Denoiser, unconditional: Denoiser, guidance_scale: float) -> Denoiser:
    """D = D_u + w (D_c − D_u), classifier-free guidance (Ho and Salimans 2022, eq. 6, w = 1 + their w).

    w = 1 is the conditional model. Each call costs two network evaluations; the unconditional one is not
    shown the condition.
    """

    def denoise(x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        d_u = prediction_of(unconditional(x.clone(), sigma), x).clone()  # memory may be that of the next
        return d_u + guidance_scale * (prediction_of(conditional(x, sigma, **cond), x) - d_u)

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


def activation_bytes(denoise: Denoiser, x: Tensor, sigma: Tensor, cond: Condition | None = None) -> int:
    """Bytes that one evaluation of one sample keeps for backward: those of two samples, less those of one.

    Args:
        x, cond: of one sample or more, of which the first is used, twice.
    """

    def kept(count: int) -> int:
        storages = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        def repeated(value: Tensor) -> Tensor:
            return value[:1].repeat(count, *[1] * (value.ndim - 1))

        many = {name: repeated(value) for name, value in (cond or {}).items()}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            answer = denoise(1 * repeated(x).requires_grad_(), sigma.clone().to(x.device), **many)
        del answer  # kept until here, so that no memory is used twice
        return sum(storages.values())

    return kept(2) - kept(1)


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


@dataclass(eq=False)
class InTurn:
    """A denoiser that answers in the same memory every time, for threads that take turns."""

    call: Denoiser
    lock: Lock = field(default_factory=Lock, repr=False)

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        with self.lock:
            return self.call(x, sigma, **cond).clone()


@torch.no_grad()
def examined(denoise: Denoiser, x: Tensor, sigma: Tensor, cond: Condition | None = None) -> Denoiser:
    """The denoiser, once it has answered one sample as the contract says; :class:`InTurn` if its memory is
    the same for every answer.

    Args:
        x, cond: of one sample or more, of which the first is used.

    Raises:
        InputError: it fails in its own words, or answers with no tensor or one of another shape.
    """
    one, level = x[:1].clone(), sigma.to(x.device)
    first = {name: value[:1] for name, value in (cond or {}).items()}
    try:
        answers = [denoise(one.clone(), level.clone(), **first) for _ in range(2)]
    except InputError:
        raise
    except Exception as error:
        given = "".join(f", {name} {tuple(value.shape)}" for name, value in first.items())
        raise InputError(
            f"The denoiser failed when it was asked with x {tuple(one.shape)} ({one.dtype}, {one.device}),"
            f" sigma a {level.dtype} number{given}: {type(error).__name__}:"
            f" {' '.join(str(error).split()).rstrip('.')}; s4s_nb.denoisers says what it is asked."
        ) from error
    places = [as_tensor(answer).untyped_storage().data_ptr() for answer in answers]
    check_shape(answers[0], one)
    return InTurn(denoise) if places[0] == places[1] else denoise


def check_shape(answer: Tensor, x: Tensor, where: str = "") -> None:
    """:class:`InputError` if a prediction is of another shape than its input."""
    if answer.shape != x.shape:
        raise InputError(
            f"The denoiser returned shape {tuple(answer.shape)} for input {tuple(x.shape)}{where};"
            " it must predict the clean image, in the shape of its input."
        )

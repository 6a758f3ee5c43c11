"""Whether gradients can be trusted: compared with differences before anything is learned by them.

A network that runs under ``no_grad``, detaches a part of its answer or rounds its time has gradients that
are 0 or wrong, with which an optimiser would return its start as learned.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from s4s_nb.errors import InputError
from s4s_nb.learn.problem import Problem, size_of
from s4s_nb.runtime import full_float32

CHECKED_PAIRS, DIFFERENCES = 4, (1e-2, 1e-1)
"""Of the check: how many pairs, and the lengths of its differences."""


def check_gradients(problem: Problem, levels: bool = True) -> None:
    """Compare derivatives by backpropagation with differences, where noise and data are of one size.

    Args:
        levels: whether the gradient in sigma is asked for too.

    Raises:
        InputError: they differ by more than half, in x or sigma of the denoiser, or in the embedding.
    """
    few = problem.train[:CHECKED_PAIRS]
    sigma, noise = size_of(few.targets), few.starts / size_of(few.starts)
    x, level = few.targets + sigma * noise, sigma.to(noise.device)
    turned = sigma * noise.flip(0) if len(few) > 1 else sigma * noise.flip(-1)  # other noise of this size
    checks = {"denoiser": (lambda x: problem.denoise(x, level.clone(), **few.cond), x, turned)}
    if levels:
        checks["denoiser's sigma"] = (lambda s: problem.denoise(x.clone(), s, **few.cond), level, level)
    checks["embedding"] = (problem.embed, few.targets + 0.1 * turned, turned)
    for what, (function, at, along) in checks.items():
        if hides_gradient(function, at, along):
            raise InputError(
                f"The gradient of the {what} is not what differences of its values give: something hides"
                " it, as torch.no_grad, detach, rounding or NumPy do; remove that, or learn with optimiser"
                " gauss-newton, which needs no gradient."
            )


def hides_gradient(function: Callable[[Tensor], Tensor], x: Tensor, along: Tensor) -> bool:
    """Whether backpropagation through a function is wrong by more than half of what differences give.

    Both are the derivative in a direction, in the part of the answer that changes most. Two lengths of the
    difference are tried, for networks of half precision, and rounding is allowed for.
    """

    def wrong(length: float) -> bool:
        with torch.no_grad(), full_float32():
            there, back = (function(x + step * along).double() for step in (length, -length))
            change = (there - back) / (2 * length)
            slope, rounding = float(change.norm()), 1e-5 * float(there.norm()) / length
        with torch.enable_grad():
            moving = x.detach().clone().requires_grad_()
            answer = (function(1 * moving).double() * (change / max(slope, 1e-30))).sum()
            (gradient,) = (
                torch.autograd.grad(answer, moving, materialize_grads=True)
                if answer.requires_grad
                else (torch.zeros_like(x),)
            )
        found = float((gradient.double() * along).sum())
        return not abs(found - slope) <= max(0.5 * max(abs(found), slope), rounding)

    return all(wrong(length) for length in DIFFERENCES)

"""First order, as the papers learn: many cheap steps on batches in random order; starts may move.

S4S and DLMS learn by Adam, LD3 by RMSprop and SGD, DSS by Lion (Chen et al. 2023, algorithm 2), whose
step has the sign of a momentum and the length of the rate in every number.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn

from s4s_nb.errors import InputError, choose
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import RelaxedStarts
from s4s_nb.student import Student


def lion(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Lion without decay of weights, by timm, which torch lacks."""
    from timm.optim.lion import Lion  # seconds, that nobody else has to wait for

    return Lion(parameters)


RuleName = Literal["Adam", "AdamW", "Lion", "RMSprop", "SGD"]
"""The keys of :data:`FIRST_ORDER`, as type checkers and the command line know them."""
FIRST_ORDER = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "Lion": lion,
    "RMSprop": partial(torch.optim.RMSprop, momentum=0.9),
    "SGD": partial(torch.optim.SGD, momentum=0.9),
}


def adam(
    problem: Problem,
    student: Student,
    parts: Sequence[str],
    memory: dict[str, Any],
    iterations: int,
    starts: RelaxedStarts,
    size: int = 20,
    learning_rate: float = 1e-2,
    rule: str = "Adam",
    patience: int | None = None,
    seed: int = 0,
    cosine: bool = True,
    ema: float = 0.0,
) -> Iterator[float | None]:
    """``iterations`` epochs; yields the validation distance after each.

    The validation distance is the hard one, from x_T itself whatever the radius. Gradients are clipped to
    norm 1: those of the first steps pass through all later ones.

    Args:
        starts: the training pairs with their moved starts, which move by SGD with rate 12/N on each
            sample's own distance.
        size: pairs an update.
        learning_rate: the largest, with which it begins.
        rule: one of :data:`FIRST_ORDER`.
        patience: epochs without a better validation distance after which learning ends early; None runs
            all of them, as the cosine expects.
        cosine: whether the rate falls to 0 along one; else it stays.
        ema: share of the old in the running mean of the parameters that is validated and kept, and from
            which nothing is learned; 0 for the parameters themselves.

    Raises:
        InputError: an unknown rule, a share that is none, or a loss or gradient that is not finite.
    """
    if not 0 <= ema < 1:
        raise InputError(f"The share of the old in a running mean is at least 0 and below 1; got {ema}.")
    by, mean = memory.get("raw", memory["by"]).clone().requires_grad_(), memory["by"].clone()
    averaged = get_ema_avg_fn(ema)
    optimizer = choose(FIRST_ORDER, rule, "rule of first order")([by])
    restore(optimizer, by, memory)
    generator = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(len(starts.pairs), generator=generator).split(size) for _ in range(iterations)]
    updates = sum(map(len, epochs))
    values = [*memory.get("values", [memory["value"]])]
    while (epoch := memory["steps"]) < iterations and not out_of_patience(values, patience):
        done = sum(map(len, epochs[:epoch]))
        for update, chosen in enumerate(epochs[epoch], start=done):
            part = starts[chosen]
            loss = problem.loss(student.moved(by, parts), part)
            optimizer.zero_grad()
            loss.backward()
            check_finite(loss, by, update)
            starts.descend(chosen, part, rate=12 / student.nfe)
            torch.nn.utils.clip_grad_norm_([by], 1.0)
            fallen = 0.5 * (1 + math.cos(math.pi * update / updates)) if cosine else 1.0
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * fallen
            optimizer.step()
            mean = averaged(mean, by.detach(), torch.tensor(update)) if ema else by.detach().clone()
        values.append(problem.distance(student, mean, parts))
        memory |= {"by": mean, "steps": epoch + 1, "values": values, **memory_of(optimizer, by)}
        memory |= {"raw": by.detach().clone()} if ema else {}
        yield values[-1]


def out_of_patience(values: list[float], patience: int | None) -> bool:
    """Whether too many epochs have ended without a new lowest validation distance."""
    return patience is not None and len(values) - 1 - values.index(min(values)) >= patience


def memory_of(optimizer: torch.optim.Optimizer, leaf: Tensor, name: str = "moment") -> dict[str, Tensor]:
    """What an optimiser remembers of a parameter, as tensors by name."""
    remembered = optimizer.state[leaf].items()
    return {f"{name}.{key}": value.clone() for key, value in remembered if isinstance(value, Tensor)}


def restore(optimizer: torch.optim.Optimizer, leaf: Tensor, memory: dict, name: str = "moment") -> None:
    """Give an optimiser back what :func:`memory_of` took."""
    known = {
        key.removeprefix(f"{name}."): value for key, value in memory.items() if key.startswith(f"{name}.")
    }
    if known:
        optimizer.state[leaf] = {key: value.clone() for key, value in known.items()}


def check_finite(loss: Tensor, parameters: Tensor, update: int | str) -> None:
    """:class:`InputError` that says where a loss or a gradient stopped being a number."""
    if not torch.isfinite(loss):
        raise InputError(f"The loss became {loss.item()} at update {update}; lower the learning rate.")
    assert parameters.grad is not None
    bad = (~torch.isfinite(parameters.grad)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"The gradient of parameters {bad} is not finite at update {update}, though the loss is:"
            " look for a root or a norm at 0 in the distance, or for half precision in the network."
        )

"""LD3: learn the levels of a classic solver, by LD3's own recipe (Tong et al. 2025, arXiv 2405.15506).

    min_Ξ  E_{x_T}  min_{x'_T ∈ B(x_T, r σ_T)}  ‖ e(Ψ_Ξ(x'_T)) − e(Ψ_*(x_T)) ‖²        (eq. 9)

over the levels and the offsets of the model levels, Ξ of :mod:`s4s_nb.levels`; the coefficients stay as
they are. The same parameters are learned faster by least squares: method ld3 with Gauss–Newton.

The N shares of the way have a logit z each, θ_k = z_k − z_N, although N − 1 numbers would do: RMSprop
gives every number a step of about the same size, and the last share is the one that has to move most. With
z_N held at 0 the same recipe ends at a validation distance of 0.084 instead of 0.065 on ``fashion`` (5 NFE,
iPNDM-3 from the log-SNR grid, 40 pairs), its last inner level at 0.03; LD3's own code leaves it at 0.24. By

    learn(load("fashion"), 5, "ld3", optimiser="ld3", start="ipndm-3", grid="logsnr", held="noise",
          pairs=40)

LPIPS to the teacher on 500 test noises is 0.037 to 0.038 ± 0.002 (two orders of batches), with LD3's own
code 0.036 ± 0.003.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from s4s_nb.learn.adam import check_finite, memory_of, restore
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import RelaxedStarts
from s4s_nb.pairs import Pairs
from s4s_nb.student import Student

RATES, LOWEST, DECAY = (5e-3, 0.1), (5e-5, 1e-6), 0.8
"""First rates of levels and, times N, of offsets; the lowest of both; what is left of them by a return."""


def ld3(
    problem: Problem,
    student: Student,
    parts: Sequence[str],
    memory: dict[str, Any],
    iterations: int,
    starts: RelaxedStarts,
    size: int = 2,
    alone: int = 2,
    patience: int = 5,
    seed: int = 0,
) -> Iterator[float | None]:
    """Levels alone in the first rounds, levels and offsets in the others; yields after a round.

    As in LD3's code: rounds and batch; RMSprop with rate 5e-3 and momentum 0.9 for a logit a step, SGD with
    rate 0.1/N for the offsets, in log σ, each gradient clipped to norm 1; validation after every update;
    the return to the best parameters at the end of a round, and, with rates times 0.8, after ``patience``
    validations in a row without a new best; starts that move by 12/N times the gradient of the batch's
    mean, and stay there only if the updated student comes nearer to the teacher from the new start than it
    had come from the old.

    Otherwise: validation is hard, from x_T itself, and on all pairs from the beginning; moved starts never
    go back, and their rate stays. Offsets are bounded by tanh to half of the smallest gap, where LD3's code
    clamps them to half of the smallest difference of two *logits*.

    Args:
        parts: ("levels", "offsets"), or ("levels",) alone.
        iterations: rounds, passes over the pairs, in all.
        starts: the training pairs with their moved starts; LD3's radius is 0.001 D/N².
        size: pairs an update.
        alone: rounds before the offsets come in.

    Raises:
        InputError: a loss or gradient that is not finite.
    """
    leaves = leaves_of(student, parts, memory)
    levels = torch.optim.RMSprop(leaves[:1], momentum=0.9)
    restore(levels, leaves[0], memory)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(starts.pairs), generator=generator) for _ in range(iterations)]
    rates = memory.get("rates", [RATES[0], RATES[1] / student.nfe])
    best, kept = memory["value"], [leaf.detach().clone() for leaf in leaves]

    def by() -> Tensor:
        return torch.cat([theta_of(student, leaves[0]), *leaves[1:]])

    def distances(pairs: Pairs) -> Tensor:
        return problem.pair_distances(student.moved(by(), parts), pairs)

    def go_back() -> None:
        for leaf, value in zip(leaves, kept, strict=True):
            leaf.data = value.clone()

    while (done := memory["steps"]) < iterations:
        together, worse = done >= alone, 0
        for offsets in leaves[1:]:
            offsets.requires_grad_(together)
        moving = leaves if together else leaves[:1]
        for update, chosen in enumerate(orders[done].split(size)):
            part = starts[chosen]
            before = distances(part)
            descend(student, before.mean(), levels, moving, rates, f"{update} of round {done}")
            value, worse = problem.distance(student, by().detach(), parts), worse + 1
            if value < best:
                best, kept, worse = value, [leaf.detach().clone() for leaf in leaves], 0
            elif worse == patience:
                go_back()
                rates = [max(DECAY * rates[0], LOWEST[0]), max(DECAY**together * rates[1], LOWEST[1])]
                worse = 0
            accept = partial(nearer, distances, before.detach())
            starts.descend(chosen, part, 12 / student.nfe / len(part), accept)
        go_back()
        memory |= {"by": by().detach(), "value": best, "steps": done + 1, "rates": rates}
        memory |= {"logits": leaves[0].detach().clone(), **memory_of(levels, leaves[0])}
        yield best


def nearer(distances: Callable[[Pairs], Tensor], before: Tensor, moved: Pairs) -> Tensor:
    """Which pairs are nearer to the teacher than before."""
    return distances(moved) < before


def shares(student: Student) -> int:
    """How many logits there are of which only the differences count; of sticks none."""
    return len(student.sigmas) - 1 if student.grid is not None and student.grid.kind == "softmax" else 0


def leaves_of(student: Student, parts: Sequence[str], memory: dict[str, Any]) -> list[Tensor]:
    """What LD3 moves: logits, after them a free end; and the offsets."""
    theta, *offsets = memory["by"].split(student.sizes(parts))
    last = theta.new_zeros(min(1, shares(student)))
    inner, end = theta.tensor_split([max(0, shares(student) - 1)])
    logits = memory.get("logits", torch.cat([inner, last, end]))
    return [leaf.clone().requires_grad_() for leaf in (logits, *offsets)]


def theta_of(student: Student, logits: Tensor) -> Tensor:
    """θ_k = z_k − z_N of the shares, and a free end as it is."""
    if not shares(student):
        return logits
    own, end = logits.tensor_split([shares(student)])
    return torch.cat([own[:-1] - own[-1], end])


def descend(
    student: Student,
    loss: Tensor,
    levels: torch.optim.Optimizer,
    leaves: Sequence[Tensor],
    rates: list[float],
    update: str,
) -> None:
    """A step of the logits and one of the offsets ξ, whose gradient and rate are per unit of the clock."""
    loss.backward()
    assert student.grid is not None
    with torch.no_grad():
        sigmas = student.grid(student.levels + theta_of(student, leaves[0]))
    reach = student.width * student.clock[0](sigmas).diff().abs().min()
    for leaf, unit in zip(leaves, (1.0, reach), strict=False):
        assert leaf.grad is not None
        check_finite(loss, leaf, update)
        leaf.grad /= unit
        torch.nn.utils.clip_grad_norm_([leaf], 1.0)
        if leaf is not leaves[0]:
            leaf.data -= rates[1] / unit * leaf.grad
    levels.param_groups[0]["lr"] = rates[0]
    levels.step()
    for leaf in leaves:
        leaf.grad = None

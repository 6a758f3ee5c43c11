"""LD3: learn the levels of a classic solver, by LD3's own recipe (Tong et al. 2025, arXiv 2405.15506).

    min_Ξ  E_{x_T}  min_{x'_T ∈ B(x_T, r σ_T)}  ‖ e(Ψ_Ξ(x'_T)) − e(Ψ_*(x_T)) ‖²        (eq. 9)

over the levels and the offsets of the model levels, Ξ of :mod:`s4s_nb.levels`; the coefficients stay as
they are. The same parameters are learned faster by least squares: method ld3 with Gauss–Newton.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from s4s_nb.learn.adam import check_finite, memory_of, restore
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import RelaxedStarts
from s4s_nb.student import Student

DECAY = 0.8


def ld3(
    problem: Problem,
    student: Student,
    parts: Sequence[str],
    memory: dict[str, Any],
    iterations: int,
    starts: RelaxedStarts,
    size: int = 2,
    alone: int = 2,
    seed: int = 0,
) -> Iterator[float | None]:
    """Levels alone in the first rounds, levels and offsets in the others; yields after half a round.

    As in LD3's code: rounds and batch; RMSprop with rate 5e-3 and momentum 0.9 for the levels, SGD with
    rate 0.1/N for the offsets, each gradient clipped to norm 1; starts that move by 12/N times the
    gradient of the batch's mean, and stay there only if the updated student comes nearer to the teacher
    from the new start than it had come from the old; the return to the best parameters seen, and rates
    times 0.8, where validation finds nothing better.

    Otherwise: validation is hard, from x_T itself and on all pairs, and comes after every half of a
    round, not after every update with a patience of five. Starts never go back, and their rate stays.
    Shares have N − 1 logits instead of N + 1 of which two are idle. Offsets are bounded by tanh, not by
    a clamp, so their rate is per part of the smallest gap; as a step of SGD is as large as the
    distance's scale makes it, they hardly move where distances are far below those of LPIPS.

    Args:
        parts: ("levels", "offsets"), or ("levels",) alone.
        iterations: rounds, passes over the pairs, in all.
        starts: the training pairs with their moved starts; LD3's radius is 0.001 D/N².
        size: pairs an update.
        alone: rounds before the offsets come in.

    Raises:
        InputError: a loss or gradient that is not finite.
    """
    leaves = [part.clone().requires_grad_() for part in memory["by"].split(student.sizes(parts))]
    levels, offsets = torch.optim.RMSprop(leaves[:1], momentum=0.9), torch.optim.SGD(leaves[1:] or [zero()])
    restore(levels, leaves[0], memory)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(starts.pairs), generator=generator) for _ in range(iterations)]
    pieces = [half.split(size) for order in orders for half in order.chunk(2)]
    values, apart = [*memory.get("values", [memory["value"]])], alone * min(2, len(starts.pairs))
    best, update = memory.get("best", memory["by"]), memory.get("updates", 0)
    while memory["steps"] < len(pieces):
        for leaf, part in zip(leaves, best.split(student.sizes(parts)), strict=True):
            leaf.data = part.clone()
        together, worse = len(values) > apart, failures(values)
        levels.param_groups[0]["lr"] = 5e-3 * DECAY**worse
        slower = DECAY ** (worse - failures(values[: apart + 1]))
        offsets.param_groups[0]["lr"] = together * 0.1 / student.nfe * slower
        for chosen in pieces[memory["steps"]]:
            descend(problem, student, parts, leaves, (levels, offsets), starts, chosen, update)
            update += 1
        reached = torch.cat([leaf.detach() for leaf in leaves])
        values.append(problem.distance(student, reached, parts))
        if values[-1] < min(values[:-1]):
            best = reached
        memory |= {"by": reached, "best": best, "values": values, "updates": update}
        memory |= {"steps": memory["steps"] + 1, **memory_of(levels, leaves[0])}
        yield values[-1]


def zero() -> Tensor:
    """A parameter for an optimiser that has none."""
    return torch.zeros(0, dtype=torch.float64, requires_grad=True)


def failures(values: list[float]) -> int:
    """How many validations found nothing better than all before them."""
    return len(values) - len(set(accumulate(values, min)))


def descend(
    problem, student, parts, leaves, optimizers, starts: RelaxedStarts, chosen, update: int
) -> None:
    """Levels and offsets by one batch, then its starts, by the student that these make."""

    def distances(pairs) -> Tensor:
        return problem.pair_distances(student.moved(torch.cat(leaves), parts), pairs)

    part = starts[chosen]
    before = distances(part)
    loss = before.mean()
    loss.backward()
    for leaf, optimizer in zip(leaves, optimizers, strict=False):
        check_finite(loss, leaf, update)
        torch.nn.utils.clip_grad_norm_([leaf], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    rate = 12 / student.nfe / len(part)
    starts.descend(chosen, part, rate, lambda moved: distances(moved) < before)

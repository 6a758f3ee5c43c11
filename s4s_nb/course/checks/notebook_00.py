"""Checks of notebook 00: what S4S is worth, learnable numbers, row sums."""

from collections.abc import Callable

import numpy as np
import torch

from s4s_nb.course.checks.diagnosis import Check, diagnose, diagnose_counts, kind, refused, whole
from s4s_nb.solvers import Solver


def worth(answer: tuple[Callable[[float], int], Callable[[int], float], float]) -> str | None:
    """(enough, distance, target): enough(target) is the first nfe with distance(nfe) ≤ target."""
    enough, distance, target = answer
    nfe = whole(enough(target))
    if nfe < 2:
        return f"{nfe} evaluations are not enough for any solver here; return the number, as 12."
    if distance(nfe) > target:
        return f"with {nfe} evaluations the distance is {distance(nfe):.3f}, still above {target:.3f}."
    if distance(nfe - 1) <= target:
        return f"{nfe} evaluations are enough, but {nfe - 1} are too: look for the smallest number."
    reached = distance(5)
    given = whole(enough(reached))
    if given != 5:
        return (
            f"right for {target:.3f}, but 5 evaluations reach {reached:.3f}, and for that you return"
            f" {given}: “at most” is <=, and the search starts at 5."
        )
    return None


def count(answer: Callable[[int, int], int]) -> str | None:
    """Σ_i min(i, order), for many and for few steps."""
    mistakes = {
        "the first steps have less history than `order`: step i has only i answers behind it.": (
            lambda n, k: n * k
        ),
        "count the steps from 1: already the first has one answer to mix.": (
            lambda n, k: sum(min(i, k) for i in range(n))
        ),
        "count the steps from 1 to `steps`; you count one step too many.": (
            lambda n, k: sum(min(i, k) for i in range(1, n + 2))
        ),
        "a step mixes the last `order` answers at most, not all that are behind it.": (
            lambda n, k: n * (n + 1) // 2
        ),
        "only the first step has no history: min(i, order) of step i are there.": lambda n, k: k * (n - 1),
        "right for many steps; few steps have little history, and never as many as `order` answers.": (
            lambda n, k: k * n - k * (k - 1) // 2
        ),
    }
    cases = [(5, 3), (2, 3), (4, 1), (3, 6), (7, 4), (1, 2)]
    return diagnose_counts(
        answer,
        cases,
        lambda n, k: sum(min(i, k) for i in range(1, n + 1)),
        mistakes,
        "for {} steps and order {}",
    )


def row_sums(answer: Callable[[Solver], list[float]]) -> str | None:
    """Row sums of A + B, as a list of floats: the cell goes on with Python's round."""
    generator = torch.Generator().manual_seed(2)
    for steps in (2, 3):
        sigmas = torch.arange(steps + 1, 0, -1, dtype=torch.float64)
        A, B = (torch.rand(steps, steps, generator=generator, dtype=torch.float64).tril() for _ in "AB")
        sums = answer(Solver("test", sigmas, A, B))
        if sums is None:
            raise refused("a list of floats", sums)
        if not isinstance(sums, list):
            return f"return a list of floats, not {kind(sums)}: `.tolist()` makes one."
        others = [value for value in sums if not isinstance(value, float | int | np.floating)]
        if others:
            return f"return a list of floats; yours holds {kind(others[0])}: `.tolist()` makes one."
        mistakes = {
            "those are the sums of the columns; a step is a row, so sum over dim=1.": (A + B).sum(0),
            "those are the rows of B alone; the old state, in A, counts as well.": B.sum(1),
            "those are the rows of A alone; the outputs, in B, count as well.": A.sum(1),
            "those are the means of the rows; take their sums.": (A + B).mean(1),
            "B is to be added to A, not subtracted from it.": (A - B).sum(1),
        }
        problem = diagnose(sums, (A + B).sum(1), mistakes)
        if problem is not None:
            return problem
    return None


CHECKS: dict[str, Check] = {
    "00-worth": worth,
    "00-count": count,
    "00-row-sums": row_sums,
}

"""Checks of notebook 00: what S4S is worth, learnable numbers, row sums."""

from collections.abc import Callable

import torch

from s4s_nb.checks.diagnosis import Check
from s4s_nb.solvers import Solver


def worth(answer: tuple[Callable[[float], int], Callable[[int], float], float]) -> str | None:
    """(enough, distance, target): enough(target) is the first nfe with distance(nfe) ≤ target."""
    enough, distance, target = answer
    nfe = enough(target)
    if distance(nfe) > target:
        return f"with {nfe} evaluations the distance is {distance(nfe):.3f}, still above {target:.3f}."
    if distance(nfe - 1) <= target:
        return f"{nfe} evaluations are enough, but {nfe - 1} are too: look for the smallest number."
    return None


def count(answer: Callable[[int, int], int]) -> str | None:
    """Σ_i min(i, order), for many and for few steps."""
    if answer(5, 3) == 15:
        return "the first steps have less history than `order`: step i has only i answers behind it."
    if answer(5, 3) == 9:
        return "count the steps from 1: already the first has one answer to mix."
    if answer(5, 3) != 12:
        return f"for 5 steps and order 3 it is 1 + 2 + 3 + 3 + 3 = 12, not {answer(5, 3)}."
    if answer(2, 3) != 3:
        return f"2 steps of order 3 have 1 + 2 = 3 numbers, not {answer(2, 3)}: few steps, little history."
    return None


def row_sums(answer: Callable[[Solver], list[float]]) -> str | None:
    """Row sums of A + B."""
    A = torch.tensor([[0.5, 0.0], [0.2, 0.3]], dtype=torch.float64)
    B = torch.tensor([[0.5, 0.0], [0.1, 0.7]], dtype=torch.float64)
    sums = answer(Solver("test", torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), A, B))
    if not isinstance(sums, list):
        return f"return a list of floats, not {type(sums).__name__}: `.tolist()` makes one."
    given = torch.tensor(sums, dtype=torch.float64)
    if torch.allclose(given, (A + B).sum(0)):
        return "those are the sums of the columns; a step is a row, so sum over dim=1."
    if torch.allclose(given, B.sum(1)):
        return "those are the rows of B alone; the old state, in A, counts as well."
    return None if torch.allclose(given, (A + B).sum(1)) else f"expected [1.0, 1.3] here, got {sums}."


CHECKS: dict[str, Check] = {
    "00-worth": worth,
    "00-count": count,
    "00-row-sums": row_sums,
}

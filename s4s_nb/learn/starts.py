"""Where learning starts from: the classic solver and the grid that a short race on the pairs picks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from s4s_nb.families import make_student
from s4s_nb.grids import GRIDS, Grid
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.schedules import Schedule
from s4s_nb.student import Student

STARTS = {"ipndm-3": False, "dpmpp-3m": True, "unipc-3-bh2": True, "dpm-2s": False}
"""Classic solvers to start from, and whether their order is lowered at the end, as diffusers does."""
FINALISTS = 3
LAPS = 3
"""Iterations of Gauss–Newton in the race: after one, the best is often another."""

Grids = Callable[[str], Callable[[int], Grid]]
"""name → (steps) → levels; of a model."""


def student_at(start: str, grid: Callable[[int], Grid], nfe: int, schedule: Schedule | None) -> Student:
    """The student around a classic solver, its order lowered at the end as :data:`STARTS` says."""
    return make_student(start, nfe, grid, lower_final=STARTS.get(start, False), schedule=schedule)


def best_start(
    problem: Problem,
    grids: Grids,
    nfe: int,
    schedule: Schedule | None = None,
    names: Sequence[str] = tuple(GRIDS),
    starts: Sequence[str] = tuple(STARTS),
) -> tuple[str, str]:
    """The classic solver and the grid to learn from: of the three whose end points are nearest to the
    teacher's, the one that is nearest after three iterations of Gauss–Newton over coefficients and levels,
    on half of the training pairs."""
    half = replace(problem, train=problem.train[: max(1, len(problem.train) // 2)])

    def student(choice: tuple[str, str]) -> Student:
        start, grid = choice
        return student_at(start, grids(grid), nfe, schedule)

    def classical(choice: tuple[str, str]) -> float:
        return float(problem.distances(student(choice).solver()).mean())

    def learned(choice: tuple[str, str]) -> float:
        method = "joint" if student(choice).levels.numel() else "s4s"
        result = learn_student(
            half, student(choice), method, optimiser="gauss-newton", iterations=LAPS, progress=False
        )
        return result.record["validation_best"]

    return min(sorted(product(starts, names), key=classical)[:FINALISTS], key=learned)

"""Where learning starts from: the classic solver and the grid that a short race on the pairs picks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product, starmap

from s4s_nb.families import make_student
from s4s_nb.first import FreeFirst
from s4s_nb.grids import GRIDS, TRIED, Grid
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.schedules import Schedule
from s4s_nb.student import Student

STARTS = {"ipndm-3": False, "dpmpp-3m": True, "unipc-3-bh2": True, "dpm-2s": False}
"""Classic solvers to start from, and whether their order is lowered at the end, as diffusers does."""
FINALISTS = 3
LAPS = 3
"""Iterations of Gauss–Newton in the race: after one, the best is often another."""

Grids = Callable[[str, float | None], Callable[[int], Grid]]
"""(name, last level, or None for that of the model) → (steps) → levels; of a model."""
Start = tuple[str, str, float | None]
"""A classic solver, its grid, and the last level of that."""


def student_at(
    start: str,
    grid: Callable[[int], Grid],
    nfe: int,
    schedule: Schedule | None,
    first: FreeFirst | None = None,
) -> Student:
    """The student around a classic solver, its order lowered at the end as :data:`STARTS` says."""
    lower = STARTS.get(start, False)
    return make_student(start, nfe, grid, lower_final=lower, schedule=schedule, free_first=first)


def best_start(
    problem: Problem,
    grids: Grids,
    nfe: int,
    schedule: Schedule | None = None,
    names: Sequence[str] = tuple(GRIDS),
    starts: Sequence[str] = tuple(STARTS),
    ends: Sequence[float | None] = (None,),
    first: FreeFirst | None = None,
) -> Start:
    """The classic solver and the grid to learn from: of the three whose end points are nearest to the
    teacher's, the one that is nearest after three iterations of Gauss–Newton over coefficients and levels,
    on half of the training pairs.

    Where there are several ``ends``, every solver and grid first takes the one of them with which it is
    nearest on :data:`s4s_nb.grids.TRIED` of the validation pairs.
    """
    half = replace(problem, train=problem.train[: max(1, len(problem.train) // 2)])
    few = replace(problem, validation=problem.validation[:TRIED])

    def student(choice: Start) -> Student:
        start, grid, end = choice
        return student_at(start, grids(grid, end), nfe, schedule, first)

    def classical(choice: Start, given: Problem = problem) -> float:
        return float(given.distances(student(choice).solver()).mean())

    def ended(start: str, grid: str) -> Start:
        choices = [(start, grid, end) for end in ends]
        return choices[0] if len(ends) == 1 else min(choices, key=lambda each: classical(each, few))

    def learned(choice: Start) -> float:
        method = "joint" if student(choice).levels.numel() else "s4s"
        result = learn_student(
            half, student(choice), method, optimiser="gauss-newton", iterations=LAPS, progress=False
        )
        return result.record["validation_best"]

    choices = starmap(ended, product(starts, names))
    finalists = sorted(choices, key=classical)[:FINALISTS]
    return finalists[0] if len(finalists) == 1 else min(finalists, key=learned)

"""A sweep: a table of results, made cell by cell, that goes on where it was stopped; and its usual cell."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from s4s_nb.distances import LPIPS_SIDE
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate
from s4s_nb.files import read_json, same_run, without_nan, write_json
from s4s_nb.learn.loop import Result, learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.starts import STARTS, student_at
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.pairs import PER_SEED, Pairs
from s4s_nb.runtime import bar
from s4s_nb.solvers import Solver
from s4s_nb.student import Student

WAYS = {
    "s4s": ("s4s", "gauss-newton"),
    "ld3": ("ld3", "gauss-newton"),
    "s4s-alt": ("s4s-alt", "gauss-newton"),
    "joint-lm": ("joint", "gauss-newton"),
    "joint-bfgs": ("joint", "bfgs"),
    "joint-adam": ("joint", "adam"),
}
"""What the tables call a way to learn: what moves, and by which optimiser."""
EPOCHS = 4
"""Of Adam for each turn of S4S-Alt, which has about as many evaluations: at 5 NFE some 70 a pair."""
HOME_NFE = 5
"""Of what is compared at one NFE alone: everything at once with turns, and solvers carried elsewhere."""
BFGS_PAIRS = 4
"""Of BFGS for each pair of the others: a gradient costs less than normal equations, and buys pairs."""
SETTING_ORDER = {name: place for place, name in enumerate(SETTINGS)}
QUALITY = ("lpips", "fd_teacher", "fd_teacher_limit", "fd_real", "fd_real_limit")


@dataclass(frozen=True)
class Budget:
    """What one cell may spend, and the side of images in its LPIPS: the same for every cell, and written
    into the record."""

    pairs: int
    validation_pairs: int
    iterations: int
    samples: int
    batch: int = 10  # few pairs in one batch would keep a single core busy
    side: int = LPIPS_SIDE


@dataclass(frozen=True)
class Sweep:
    """A JSON file of cells, rewritten after each one; those that it has are not made again. Several
    processes may add to it: each cell is written once, and those of a setting stay together.

    keys: which entries tell a cell from another. budget: what a cell may spend. measured: entries that
    every cell has as numbers.
    """

    out: Path
    command: str
    keys: tuple[str, ...]
    budget: dict
    measured: tuple[str, ...] = ("lpips",)

    def read(self) -> dict:
        """What is there; an empty table at first.

        Raises:
            InputError: it is no such table, of another command, made with another budget, or edited.
        """
        empty = {"command": self.command, "budget": self.budget, "cells": []}
        if not self.out.exists():
            return empty
        table = read_json(self.out)
        sealed = table.pop("sha256", None) if isinstance(table, dict) else None
        if not (isinstance(table, dict) and table.keys() == empty.keys()):
            raise InputError(f"{self.out} is no table of {self.command}; choose another file.")
        for key in ("command", "budget"):
            if not same_run(table[key], empty[key]):
                raise InputError(
                    f"{self.out} was made by another {key}, {table[key]!r}; choose another file."
                )
        cells = table["cells"]
        if not (isinstance(cells, list) and all(self.whole(cell) for cell in cells)):
            raise InputError(
                f"{self.out} has cells that are not those of {self.command}; choose another file."
            )
        if sealed not in (None, seal(table)):
            raise InputError(f"{self.out} is damaged or was edited (another sha256); choose another file.")
        return table

    def whole(self, cell: Any) -> bool:
        """Whether this is a cell: with its keys, of a known setting, and with its measures as numbers."""
        if not (isinstance(cell, dict) and {*self.keys, *self.measured} <= cell.keys()):
            return False
        known = all(isinstance(cell[key], str | int | float | None) for key in self.keys)
        numbers = all(type(cell[key]) in (int, float) for key in self.measured)
        return known and numbers and cell["setting"] in SETTING_ORDER

    def key(self, cell: dict) -> tuple:
        """What tells a cell from others."""
        return tuple(cell[key] for key in self.keys)

    def missing(self, keys: Iterable[tuple], title: str) -> Iterator[tuple]:
        """The keys of cells that are still to be made, with a bar if there are any; what others have made
        meanwhile is left out."""
        left = [key for key in keys if key not in self.done()]
        for key in bar(left, desc=title) if left else ():
            if key not in self.done():
                yield key

    def fill(self, axes: Sequence[Iterable], device: str, cell: Callable[..., dict]) -> dict:
        """Make the cells that are missing, ``cell(model, *rest of the key)``, and return the whole table.

        axes: the values of every key, in the order of the keys, those of the first being settings.
        """
        settings, *others = axes
        for setting in settings:
            model = load(setting, device)
            for _, *rest in self.missing(product([setting], *others), setting):
                self.add(cell(model, *rest))
        return self.read()

    def done(self) -> set[tuple]:
        """The keys of the cells that are there."""
        return {self.key(cell) for cell in self.read()["cells"]}

    def add(self, *cells: dict) -> None:
        """Write cells that were made, but for those that another process has written meanwhile."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out.with_name(f".{self.out.name}.lock")):
            table, done = self.read(), self.done()
            new = [cell for cell in cells if self.key(cell) not in done]
            together = sorted([*table["cells"], *new], key=lambda cell: SETTING_ORDER[cell["setting"]])
            made = table | {"cells": together}
            write_json(self.out, made | {"sha256": seal(made)})


def seal(table: dict) -> str:
    """The sha256 of a table's contents."""
    text = json.dumps(without_nan(table), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def pairs_for(way: str) -> int:
    """How many times the pairs of the budget a way to learn has."""
    return BFGS_PAIRS if WAYS[way][1] == "bfgs" else 1


def pairs_of(model: Model, budget: Budget, seed: int = 0, times: int = 1) -> tuple[Pairs, Pairs]:
    """Pairs to train and to validate on; each seed has its own."""
    train, validation = (
        model.pairs(split, times * count, seed * PER_SEED)
        for split, count in (("train", budget.pairs), ("validation", budget.validation_pairs))
    )
    return train, validation


def problem_of(model: Model, pairs: tuple[Pairs, Pairs], budget: Budget) -> Problem:
    """What is learned from some pairs."""
    return Problem(model.denoise, *pairs, model.embed, budget.batch)


def learn_way(problem: Problem, student: Student, budget: Budget, way: str) -> Result:
    """Learn by one of :data:`WAYS`.

    S4S-Alt takes as many rounds as the others have iterations, with one iteration of each part in a turn.
    BFGS has five steps and Adam :data:`EPOCHS` for each iteration.
    """
    method, optimiser = WAYS[way]
    in_turns = method == "s4s-alt"
    times = {"bfgs": 5, "adam": EPOCHS}.get(optimiser, 1)
    return learn_student(
        problem,
        student,
        method,
        optimiser,
        rounds=budget.iterations if in_turns else None,
        iterations=1 if in_turns else times * budget.iterations,
        progress=False,
    )


@lru_cache
def common_start(model: Model) -> tuple[str, str]:
    """Where methods without a start of their own begin: where everything at once did, as bundled."""
    info = find_solver(model, "joint-bfgs", HOME_NFE, "karras").info
    return info["start"], info["grid"].split(",")[0]


@lru_cache(maxsize=1)
def start_quality(model: Model, start: str, grid: str, nfe: int, samples: int) -> dict[str, float]:
    """What a solver of :data:`STARTS` has on the test noises, once for all methods that start from it."""
    row = evaluate(model, find_solver(model, start, nfe, grid, STARTS[start]), samples)
    return {key: row[key] for key in QUALITY}


def learned_cell(
    model: Model,
    start: str,
    grid: str,
    nfe: int,
    pairs: tuple[Pairs, Pairs],
    budget: Budget,
    way: str = "s4s",
) -> tuple[dict, Solver]:
    """Learn one solver, and judge it and its start on the same test noises."""
    started = time.perf_counter()
    student = student_at(start, model.grid(grid), nfe, model.schedule)
    result = learn_way(problem_of(model, pairs, budget), student, budget, way)
    seconds = time.perf_counter() - started
    before = start_quality(model, start, grid, nfe, budget.samples)
    after = evaluate(model, result.solver, budget.samples)
    moved = {part for turn in result.turns for part in turn.parts}
    cell = {
        "setting": model.name,
        "grid": grid,
        "family": start,
        "nfe": nfe,
        "method": way,
        "pairs": len(pairs[0]),
        "parameters": sum(student.sizes(sorted(moved))),
        **{f"start_{key}": value for key, value in before.items()},
        **{key: after[key] for key in QUALITY},
        "start_validation": result.record["validation_start"],
        "validation": result.record["validation_best"],
        "kept": result.record["kept"],
        "learning_seconds": round(seconds, 1),
    }
    return cell, result.solver

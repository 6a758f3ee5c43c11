"""A table of results that is made cell by cell and goes on where it was stopped, and its usual cell."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from s4s_nb.alternate import Phase, learn_in_phases, plan
from s4s_nb.distances import LPIPS_SIDE
from s4s_nb.errors import InputError
from s4s_nb.families import Family, make_family
from s4s_nb.files import write_json
from s4s_nb.judge import judge
from s4s_nb.learning import learner_of
from s4s_nb.progress import bar
from s4s_nb.solvers import Solver
from s4s_nb.teachers import PER_SEED, Pairs
from s4s_nb.times import Joint
from s4s_nb.zoo import SETTINGS, ImageModel

STARTS = {"ipndm-3": False, "dpmpp-3m": True, "unipc-3-bh2": True, "dpm-2s": False}
"""Classic solvers that S4S starts from, and whether their order is lowered at the end as diffusers does."""
METHODS = {
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
class Table:
    """A JSON file of cells, rewritten after each one; those that it has are not made again. Several
    processes may add to it, and the cells of a setting stay together.

    keys: which entries tell a cell from another. budget: what a cell may spend.
    """

    out: Path
    command: str
    keys: tuple[str, ...]
    budget: dict

    def read(self) -> dict:
        """What is there; an empty table at first.

        Raises:
            InputError: it was made with another budget.
        """
        empty = {"command": self.command, "budget": self.budget, "cells": []}
        if not self.out.exists():
            return empty
        table = json.loads(self.out.read_text(encoding="utf-8"))
        if table["budget"] != empty["budget"]:
            raise InputError(
                f"{self.out} was made with another budget, {table['budget']}; choose another file."
            )
        return table

    def missing(self, keys: Iterable[tuple], title: str) -> Iterator[tuple]:
        """The keys of cells that are still to be made, with a bar if there are any."""
        done = {tuple(cell[key] for key in self.keys) for cell in self.read()["cells"]}
        left = [key for key in keys if key not in done]
        return iter(bar(left, desc=title) if left else ())

    def add(self, *cells: dict) -> None:
        """Write cells that were made."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out.with_name(f".{self.out.name}.lock")):
            table = self.read()
            together = sorted([*table["cells"], *cells], key=lambda cell: SETTING_ORDER[cell["setting"]])
            write_json(self.out, table | {"cells": together})


def pairs_for(method: str) -> int:
    """How many times the pairs of the budget a method learns from."""
    return BFGS_PAIRS if METHODS[method][1] == "bfgs" else 1


def pairs_of(model: ImageModel, budget: Budget, seed: int = 0, times: int = 1) -> tuple[Pairs, Pairs]:
    """Pairs to train and to validate on; each seed has its own."""
    train, validation = (
        model.pairs(split, times * count, seed * PER_SEED)
        for split, count in (("train", budget.pairs), ("validation", budget.validation_pairs))
    )
    return train, validation


def family_of(model: ImageModel, start: str, grid: str, nfe: int) -> Family:
    """The family around one of :data:`STARTS`."""
    return make_family(start, nfe, model.grid(grid), lower_final=STARTS[start])


def learn(
    model: ImageModel, family: Family, pairs: tuple[Pairs, Pairs], budget: Budget, method: str
) -> tuple[Solver, dict[str, Tensor], list[Phase]]:
    """Learn by one of :data:`METHODS`; returns what :func:`s4s_nb.alternate.learn_in_phases` does.

    S4S-Alt takes as many turns as the others have iterations, with one iteration of each part in a turn.
    BFGS has five steps and Adam :data:`EPOCHS` for each iteration.
    """
    moved, optimiser = METHODS[method]
    train, validation = pairs
    joint = Joint(family, schedule=model.setting.schedule)
    learner = partial(
        learner_of(
            model, joint, moved, optimiser, iterations=budget.iterations, epochs=EPOCHS * budget.iterations
        ),
        train=train,
        validation=validation,
        batch=budget.batch,
        progress=False,
    )
    return learn_in_phases(joint, plan(moved, joint, budget.iterations), learner)


@lru_cache(maxsize=1)
def start_quality(model: ImageModel, start: str, grid: str, nfe: int, samples: int) -> dict[str, float]:
    """What a solver of :data:`STARTS` has on the test noises, once for all methods that start from it."""
    row, _ = judge(model, model.solver(start, nfe, grid, STARTS[start]), samples)
    return {key: row[key] for key in QUALITY}


def learned_cell(
    model: ImageModel,
    start: str,
    grid: str,
    nfe: int,
    pairs: tuple[Pairs, Pairs],
    budget: Budget,
    method: str = "s4s",
) -> tuple[dict, Solver]:
    """Learn one solver, and judge it and its start on the same test noises."""
    started = time.perf_counter()
    family = family_of(model, start, grid, nfe)
    solver, at, phases = learn(model, family, pairs, budget, method)
    seconds = time.perf_counter() - started
    before = start_quality(model, start, grid, nfe, budget.samples)
    after, _ = judge(model, solver, budget.samples)
    cell = {
        "setting": model.name,
        "grid": grid,
        "family": start,
        "nfe": nfe,
        "method": method,
        "pairs": len(pairs[0]),
        "parameters": sum(len(at[part]) for part in {part for phase in phases for part in phase.parts}),
        **{f"start_{key}": value for key, value in before.items()},
        **{key: after[key] for key in QUALITY},
        "start_validation": phases[0].before,
        "validation": phases[-1].after,
        "learning_seconds": round(seconds, 1),
    }
    return cell, solver

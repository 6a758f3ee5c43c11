"""What a larger space is worth: everything at once in S4S's space, and then in parts of the whole table.

Every space but the last starts from where 25 iterations of BFGS in S4S's space have ended, and has as many
iterations on the same pairs; S4S's own space too, so that what is compared are spaces, not lengths.
"""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
import torch

from s4s_nb.evaluate import evaluate
from s4s_nb.learn.loop import Result, learn_student
from s4s_nb.learn.methods import ALL, METHODS, TIMES, WHOLE
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.starts import STARTS
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS
from s4s_nb.solvers import Solver
from s4s_nb.studies.ablations import Meter
from s4s_nb.studies.sweep import QUALITY, Sweep, common_start

SPACES = {
    "start": None,
    "S4S's space": ALL,
    "whole table": WHOLE,
    "and first level": (*ALL, "first"),
    "and input scales": (*ALL, "scales"),
    "and history": ("history", *TIMES),
    "whole table at once": WHOLE,
}
"""What moves in the second turn; "start" is where that begins, and the last has both turns at once."""
FEW = ("start", "S4S's space", "whole table")


@dataclass(frozen=True)
class Begun:
    """What the spaces of one setting share: the problem, and everything at once as it was learned there."""

    problem: Problem
    meter: Meter
    joint: Result
    spent: int
    seconds: float


@lru_cache(maxsize=1)
def at_once(model: Model, nfe: int, pairs: int, iterations: int) -> Begun:
    """Everything at once, from the start and the grid of the bundled solver that was learned so."""
    start, grid = common_start(model)
    train, validation = model.pairs("train", pairs), model.pairs("validation", max(1, pairs // 2))
    meter = Meter(model.denoise)
    problem = Problem(meter, train, validation, model.embed)
    student = METHODS["whole"].student(
        start, nfe, model.grid(grid), lower_final=STARTS[start], schedule=model.schedule
    )
    spent, started = meter.evaluations, time.perf_counter()
    result = learn_student(problem, student, "whole", iterations=iterations, turns=[ALL], progress=False)
    return Begun(problem, meter, result, meter.evaluations - spent, time.perf_counter() - started)


@torch.no_grad()
def on_training_pairs(problem: Problem, solver: Solver) -> float:
    """Mean distance on the training pairs, which beside that on others says whether they are too few."""
    sums = [float(problem.distances_of(solver, batch).sum()) for batch in problem.train_batches]
    return sum(sums) / len(problem.train)


def space_cell(model: Model, nfe: int, pairs: int, space: str, iterations: int, samples: int) -> dict:
    """Learn in one space, and judge where that has ended: "kept" says whether its gain over where it began
    is above the gain's own error."""
    here = at_once(model, nfe, pairs, iterations)
    spent, started, moving = here.meter.evaluations, time.perf_counter(), SPACES[space]
    result, student = here.joint, deepcopy(here.joint.student)
    total = 0 if moving is None else iterations
    if space == "whole table at once":
        total = 2 * iterations
        for parameter in student.parameters():
            parameter.data.zero_()
    if moving is not None:
        options = {"iterations": total, "turns": [moving], "progress": False}
        result = learn_student(here.problem, student, "whole", **options)
    seconds, spent = time.perf_counter() - started, here.meter.evaluations - spent
    alone = space == "whole table at once"
    row = evaluate(model, result.reached, samples)
    return {
        "setting": model.name,
        "nfe": nfe,
        "space": space,
        "pairs": pairs,
        "parameters": sum(student.sizes(moving or ALL)),
        "iterations": total if alone else iterations + total,
        "evaluations": spent if alone else here.spent + spent,
        "learning_seconds": round(seconds if alone else here.seconds + seconds, 1),
        "training": on_training_pairs(here.problem, result.reached),
        "validation": result.record["turns"][-1]["after"],
        "kept": result.record["kept"],
        "rmse": row["rmse"],
        **{key: row[key] for key in QUALITY},
        "turns": result.record["turns"],
        "model_sigmas": result.reached.model_sigmas.tolist(),
        "kappa": result.reached.kappa.tolist(),
    }


def spaces(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (5,),
    counts: Sequence[int] = (160,),
    names: Sequence[str] = FEW,
    iterations: int = 25,
    samples: int = 500,
    device: str = "cpu",
) -> dict:
    """Spaces at equal pairs and iterations.

    Raises:
        InputError: an unknown setting, or a table that was made with other numbers.
    """
    budget = {"iterations": iterations, "samples": samples}
    table = Sweep(out, "s4s-nb study spaces", ("setting", "nfe", "pairs", "space"), budget)
    return table.fill((settings, nfes, counts, names), device, partial(space_cell, **budget))


def spaces_summary(table: dict) -> str:
    """Distances, and what was spent, a row a space."""
    columns = "setting nfe pairs space parameters training validation lpips rmse fd_teacher evaluations"
    frame = pd.DataFrame(table["cells"])[columns.split()]
    return frame.to_string(index=False, float_format=lambda value: f"{value:.4g}")

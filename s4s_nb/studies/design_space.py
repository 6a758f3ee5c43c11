"""Method against method, and one choice of a method changed at a time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from s4s_nb.evaluate import evaluate
from s4s_nb.learn import learn
from s4s_nb.learn.embeddings import EmbeddingName, embedding_of
from s4s_nb.learn.loop import Result, learn_student
from s4s_nb.learn.methods import COEFFICIENTS, METHODS, TIMES
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.starts import STARTS
from s4s_nb.learn.teachers import own_teacher, teacher_ways
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS
from s4s_nb.pairs import Pairs
from s4s_nb.student import Student
from s4s_nb.studies.ablations import Meter
from s4s_nb.studies.sweep import QUALITY, Sweep, common_start

PAIRS = 60
"""To learn from, and half as many to choose by: what ten methods in six settings can afford."""
AFFORDED: dict[str, dict[str, Any]] = {
    "ld3": {"optimiser": "adam", "start": "ipndm-3", "grid": "logsnr"},
    "gs": {"learning_rate": 1e-2, "size": 8, "iterations": 26},
    "dyweight": {"iterations": 25},
    "dss": {"iterations": 20},
    "dlms": {"iterations": 25},
}
"""Where a method's own recipe is not taken as its row has it. GS has its larger rate, as with its authors'
code on so few pairs; the others, which learn for hours, have fewer updates."""
PEERS = tuple(name for name in METHODS if not name.endswith("-paper"))
"""S4S's own recipes from 700 and 1,400 pairs are left to those who have the hours."""
EQUAL = {
    "s4s-alt": {"rounds": 2, "iterations": 4},
    "whole": {"iterations": 8},
}
"""How sixteen iterations of BFGS are shared out where there are several turns."""
ITERATIONS = 16
COST = ("parameters", "evaluations", "learning_seconds")


@lru_cache(maxsize=2)
def common_pairs(model: Model) -> tuple[Pairs, Pairs]:
    """Pairs of the model's teacher with its way."""

    made = partial(teacher_ways, model, model.teacher(), 0, None, False)
    return made("train", PAIRS), made("validation", PAIRS // 2)


def student_of(model: Model, method: str, nfe: int) -> Student:
    """The student of a row on the common grid, from its own start or the common one."""
    row, (start, grid) = METHODS[method], common_start(model)
    start = row.start or start
    return row.student(
        start=start,
        nfe=nfe,
        grid=model.grid(grid),
        order=row.order,
        lower_final=STARTS.get(start, False),
        schedule=model.schedule,
    )


def by_own_recipe(model: Model, method: str, nfe: int) -> Result:
    """As the row has it, from :data:`PAIRS` pairs."""
    start, grid = common_start(model)
    own = {"start": METHODS[method].start or start, "grid": METHODS[method].grid or grid}
    options = {**own, **AFFORDED.get(method, {})}
    counts = {"pairs": PAIRS, "validation_pairs": PAIRS // 2}
    return learn(model, nfe, method, progress=False, **counts, **options)


def on_equal_terms(model: Model, method: str, nfe: int, meter: Meter) -> Result:
    """The row's student and turns; pairs, end points, LPIPS and BFGS are those of all."""
    problem = Problem(meter, *common_pairs(model), model.embed)
    options = {"iterations": ITERATIONS, **EQUAL.get(method, {})}
    student = student_of(model, method, nfe)
    return learn_student(problem, student, method, "bfgs", progress=False, **options)


def method_cell(model: Model, nfe: int, terms: str, method: str, samples: int) -> dict:
    """Learn by one method, on its own or on equal terms, and judge."""
    common_pairs(model)  # which are nobody's own cost
    meter, row = Meter(model.denoise), METHODS[method]
    started = time.perf_counter()
    if terms == "own":
        result = by_own_recipe(replace(model, denoise=meter), method, nfe)
        meter.evaluations -= (PAIRS + PAIRS // 2) * own_teacher(model, row.teacher).nfe
    else:
        result = on_equal_terms(model, method, nfe, meter)
    return verdict(model, result, meter, started, {"method": method, "terms": terms}, samples)


def verdict(
    model: Model, result: Result, meter: Meter, started: float, names: dict[str, str], samples: int
) -> dict:
    """What a table has of a learned solver, and of the one that it started from."""
    seconds, student = time.perf_counter() - started, result.student
    row, moved = evaluate(model, result.solver, samples), {p for turn in result.turns for p in turn.parts}
    for parameter in student.parameters():
        parameter.data.zero_()
    before = evaluate(model, student.solver(), samples)
    return {
        "setting": model.name,
        "nfe": student.nfe,
        **names,
        "start": student.start,
        "parameters": sum(student.sizes(sorted(moved))),
        "evaluations": meter.evaluations,
        "learning_seconds": round(seconds, 1),
        "start_lpips": before["lpips"],
        "start_fd_teacher": before["fd_teacher"],
        "lpips_error": row["lpips_error"],
        "rmse": row["rmse"],
        **{key: row[key] for key in QUALITY},
        "validation_start": result.record["validation_start"],
        "validation": result.record["validation_best"],
        "kept": result.record["kept"],
    }


def every_method(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (5,),
    names: Sequence[str] = PEERS,
    samples: int = 500,
    device: str = "cpu",
) -> dict:
    """All methods, by their own recipes and on equal terms.

    Raises:
        InputError: an unknown setting, or a table that was made with other numbers.
    """
    budget = {"pairs": PAIRS, "samples": samples}
    table = Sweep(out, "s4s-nb study methods", ("setting", "nfe", "terms", "method"), budget)
    axes = (settings, nfes, ("equal", "own"), names)
    return table.fill(axes, device, lambda *key: method_cell(*key, samples=samples))


# ---------------------------------------------------------------- one choice at a time

UNCHANGED: dict[str, Any] = {"method": "s4s-alt", "optimiser": "gauss-newton", "rounds": 3, "iterations": 1}
IN_THE_TABLE = (("first", "scales", *TIMES), ("history",))
CHOICES: dict[str, dict[str, Any]] = {
    "S4S-Alt": UNCHANGED,
    "space: coefficients": UNCHANGED | {"turns": [COEFFICIENTS], "iterations": 2},
    "space: levels, offsets": UNCHANGED | {"turns": [TIMES], "iterations": 2},
    "space: whole table": UNCHANGED | {"turns": IN_THE_TABLE, "rounds": 2},
    "objective: trajectory": UNCHANGED | {"objective": "trajectory"},
    "objective: log": UNCHANGED | {"objective": "bns"},
    "embedding: states": UNCHANGED | {"embed": "states"},
    "embedding: classifier": UNCHANGED | {"embed": "classifier"},
    "optimiser: Adam": UNCHANGED | {"optimiser": "adam", "rounds": 2, "iterations": 6},
    "optimiser: BFGS": UNCHANGED | {"optimiser": "bfgs", "rounds": 2, "iterations": 3},
    "turns: all at once": UNCHANGED | {"turns": [(*COEFFICIENTS, *TIMES)], "rounds": 1, "iterations": 4},
}
"""S4S-Alt's row, and it with one entry changed; rounds and iterations such that evaluations are alike."""


def choice_cell(
    model: Model,
    nfe: int,
    choice: str,
    samples: int,
    method: str,
    objective: str = "end",
    embed: EmbeddingName = "own",
    **options: Any,
) -> dict:
    """Learn with one choice changed, and judge."""
    meter, pairs = Meter(model.denoise), common_pairs(model)
    problem = Problem(
        meter, *pairs, embedding_of(model, embed), objective=objective, schedule=model.schedule
    )
    student, started = student_of(model, "whole", nfe), time.perf_counter()
    result = learn_student(problem, student, method, progress=False, **options)
    return verdict(model, result, meter, started, {"choice": choice}, samples)


def choices(
    out: Path,
    settings: Sequence[str] = ("fashion", "faces-latent"),
    nfes: Sequence[int] = (5,),
    changes: Mapping[str, dict[str, Any]] = CHOICES,
    samples: int = 500,
    device: str = "cpu",
) -> dict:
    """One choice of S4S-Alt changed at a time, at about equal evaluations.

    Raises:
        InputError: an unknown setting, or a table that was made with other numbers.
    """
    budget = {"pairs": PAIRS, "samples": samples}
    table = Sweep(out, "s4s-nb study choices", ("setting", "nfe", "choice"), budget)

    def cell(model: Model, nfe: int, choice: str) -> dict:
        return choice_cell(model, nfe, choice, samples, **changes[choice])

    return table.fill((settings, nfes, changes), device, cell)


def methods_summary(table: dict) -> str:
    """Distances, and what was spent, a row a method or choice."""
    frame = pd.DataFrame(table["cells"])
    named = [key for key in ("terms", "method", "choice") if key in frame]
    columns = ["setting", *named, "start_lpips", "lpips", "rmse", "fd_teacher", *COST]
    return frame[columns].to_string(index=False, float_format=lambda value: f"{value:.3g}")

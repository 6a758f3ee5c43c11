"""The main job in one go: learn 5-evaluation solvers for a bundled model and compare them."""

import time
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import pandas as pd

from s4s_nb.atomic import check_writable
from s4s_nb.classic import AS_USED, make_solver
from s4s_nb.comparison import COLUMNS
from s4s_nb.families import make_student
from s4s_nb.files import write_json
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.models import Model
from s4s_nb.models.bundled import load, reference
from s4s_nb.opponents import side_by_side
from s4s_nb.pictures import save_figure
from s4s_nb.solvers import Solver

ROUNDS = 3
SIDE = 64
"""Of images in the LPIPS that it learns by: a third of the time of 128."""
TOLD = ("solver", "nfe", "rmse", "lpips", "fd_real", "fd_teacher", "seconds_per_100")
"""Columns of its table; the grid is the same in all rows."""


def learn_for(
    model: Model, nfe: int, grid: str, start: str, pairs: int
) -> tuple[dict[str, Solver], dict[str, float]]:
    """S4S around ``start``, and S4S-Alt from there: the solvers, and the seconds until each was there.

    Teacher pairs, half as many more to validate on, then five iterations of Gauss–Newton over the
    coefficients; and three rounds of one over the levels and one over the coefficients.
    """
    started = time.perf_counter()
    train, validation = model.pairs("train", pairs), model.pairs("validation", pairs // 2)
    problem = Problem(model.denoise, train, validation, model.embed)
    student = make_student(start, nfe, model.grid(grid), schedule=model.schedule)
    solvers, seconds = {}, {}
    for label, rounds in {"S4S": None, "S4S-Alt": ROUNDS}.items():
        solvers[label] = learn_student(problem, student, label.lower(), "gauss-newton", rounds).solver
        seconds[label] = round(time.perf_counter() - started, 1)
    return solvers, seconds


def tour(
    out: Path,
    model_name: str = "fashion",
    nfe: int = 5,
    grid: str = "logsnr",
    start: str = "dpmpp-2m",
    pairs: int = 80,
    samples: int = 500,
    device: str = "cpu",
) -> dict:
    """Learn, compare, and write ``tour.png``, ``tour.json`` and the learned solvers to ``out``.

    Raises:
        InputError: an unknown model or grid, or a folder that cannot be written to.
    """
    check_writable(*written(out))
    started = time.perf_counter()
    model = load(model_name, device, side=SIDE)
    learned, seconds = learn_for(model, nfe, grid, start, pairs)
    grids = {"S4S": grid, "S4S-Alt": f"{grid}, moved"}
    classical = [
        (
            {"solver": label, "kind": "classical", "grid": grid},
            make_solver(name, nfe, model.grid(grid), lower, model.schedule),
        )
        for label, (name, lower) in AS_USED.items()
    ]
    ours = [
        ({"solver": label, "kind": "learned", "grid": grids[label]}, solver)
        for label, solver in learned.items()
    ]
    comparison = side_by_side(model, classical + ours, samples)
    for row in comparison.rows:
        if row["kind"] == "learned":
            solver = learned[row["solver"]]
            record = {"model": model_name, "made_for": model.conventions}
            record |= {"grid": row["grid"], "quality": row}
            replace(solver, info=solver.info | record).save(out / f"{row['solver'].lower()}.safetensors")
    result = {
        "rows": comparison.rows,
        "floor_fd_real": reference(model_name).floor_distance(samples),
        "learning_seconds": seconds,
        "total_seconds": round(time.perf_counter() - started, 1),
    }
    write_json(out / "tour.json", result)
    save_figure(out / "tour.png", comparison.picture())
    return result


def written(out: Path) -> list[Path]:
    """The files that a tour writes."""
    return [out / name for name in ("tour.json", "tour.png", "s4s.safetensors", "s4s-alt.safetensors")]


def nearest(rows: pd.DataFrame, key: str) -> str:
    """The solver with the lowest of a column."""
    return str(min(rows[key].items(), key=itemgetter(1))[0])


def summary(result: dict) -> str:
    """The learned solvers against the best classic one of each column, and all against the real floor."""
    rows = pd.DataFrame(result["rows"]).set_index("solver")
    best, learned = rows[rows["kind"] == "classical"], rows[rows["kind"] == "learned"]
    lines = [
        f"{label} {COLUMNS[key]} {row[key]:.3g} is {row[key] / best[key].min():.2f} times that of the best"
        f" classic solver ({nearest(best, key)}, {best[key].min():.3g})."
        for label, row in learned.iterrows()
        for key in ("lpips", "fd_teacher")
    ]
    to_real = rows.loc[["teacher", *learned.index], "fd_real"]
    lines.append(
        f"FD to real: floor {result['floor_fd_real']:.3g} (real images against real images), "
        + ", ".join(f"{label} {value:.3g}" for label, value in to_real.items())
        + "."
    )
    return "\n".join(lines)

"""The studies: tables of results over settings, grids, families, NFE and optimisers, in data/results."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from inspect import signature
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd

from s4s_nb.atomic import check_writable
from s4s_nb.errors import InputError, choose
from s4s_nb.evaluate import evaluate
from s4s_nb.grids import GRIDS
from s4s_nb.learn.starts import STARTS, best_start
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.opponents import classical
from s4s_nb.pairs import Pairs
from s4s_nb.runtime import in_processes
from s4s_nb.studies.ablations import ablations, optimisers, paper, paper_summary, recipes_summary
from s4s_nb.studies.design_space import choices, every_method, methods_summary
from s4s_nb.studies.spaces import spaces, spaces_summary
from s4s_nb.studies.sweep import (
    HOME_NFE,
    QUALITY,
    WAYS,
    Budget,
    Sweep,
    learned_cell,
    pairs_for,
    pairs_of,
    problem_of,
)
from s4s_nb.studies.transfer import transfer, transfer_summary

SMALL = Budget(pairs=20, validation_pairs=20, iterations=3, samples=100)
MEDIUM = Budget(pairs=40, validation_pairs=20, iterations=5, samples=500, side=128)
COMPARED_AT_HOME = ("joint-lm", "joint-adam")
"""Ways to move everything at once that are tried at one NFE alone; BFGS's, the best, is made for all."""
DRAWS_ELSEWHERE = {"s4s-alt": 3, "joint-bfgs": 3}
"""How many draws of the pairs are learned from in a setting other than ``fashion``, which has all."""


# ---------------------------------------------------------------- does it improve everywhere?


def uniform(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (4, 5, 6, 8),
    grids: Sequence[str] = ("karras", "logsnr", "uniform"),
    budget: Budget = SMALL,
    device: str = "cpu",
) -> dict:
    """S4S against the solver it started from, in every setting, grid, family and NFE, on test noises.

    ``out`` is rewritten after every cell, and cells that it has are not made again; those of a setting
    share their pairs.

    Raises:
        InputError: an unknown setting, or a table that was made with another budget.
    """
    table = Sweep(out, "s4s-nb study uniform", ("setting", "grid", "family", "nfe"), asdict(budget))
    for name in settings:
        model, pairs = load(name, device, side=budget.side), None
        for _, grid, start, nfe in table.missing(product([name], grids, STARTS, nfes), name):
            pairs = pairs or pairs_of(model, budget)
            cell, _ = learned_cell(model, start, grid, nfe, pairs, budget)
            table.add(cell)
    return table.read()


def uniform_summary(table: dict) -> str:
    """Share of the cells that improved and median ratio, by setting, by NFE and in all."""
    frame = pd.DataFrame(table["cells"])
    frame["ratio"] = frame["lpips"] / frame["start_lpips"]
    frame["FD ratio"] = frame["fd_teacher"] / frame["start_fd_teacher"]
    rows = {name: row_of(part) for name, part in frame.groupby("setting", sort=False)}
    rows |= {f"{nfe} NFE": row_of(part) for nfe, part in frame.groupby("nfe")}
    rows["all"] = row_of(frame)
    return pd.DataFrame(rows).T.to_string(float_format=lambda value: f"{value:.3g}")


def row_of(part: pd.DataFrame) -> dict[str, int | float]:
    """One line of the summary."""
    return {
        "cells": len(part),
        "not worse": float((part["ratio"] <= 1).mean()),
        "median LPIPS ratio": median(part["ratio"]),
        "worst": float(part["ratio"].max()),
        "median FD ratio": median(part["FD ratio"]),
    }


# ---------------------------------------------------------------- method against method


def alt(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (5, 3, 4, 6, 7, 8, 10),
    methods: Sequence[str] = ("classical", *WAYS),
    grids: Sequence[str] = tuple(GRIDS),
    budget: Budget = MEDIUM,
    device: str = "cpu",
) -> dict:
    """S4S-Alt and all other methods, for every setting and NFE, beside the classical solvers of all grids;
    everything at once by Gauss–Newton and by Adam at 5 NFE only.

    They start from a solver of :data:`STARTS` on one of ``grids``, picked by
    :func:`s4s_nb.learn.starts.best_start`; what the first NFE of a setting chose, the others take over.
    The file of each, SETTING_METHOD_NFE.safetensors, is written beside ``out`` and has its cell as record.

    Raises:
        InputError: an unknown setting or grid, or a table that was made with another budget.
    """
    table = Sweep(out, "s4s-nb study alt", ("setting", "nfe", "method"), asdict(budget))
    for name in settings:
        model, start = load(name, device, side=budget.side), None
        draw = cache(partial(pairs_of, model, budget, 0))
        keys = product([name], nfes, methods)
        wanted = (key for key in keys if key[1] == HOME_NFE or key[2] not in COMPARED_AT_HOME)
        for _, nfe, method in table.missing(wanted, name):
            if method == "classical":
                table.add(*classical_cells(model, nfe, grids, budget))
                continue
            start = start or chosen_start(table, name) or start_for(model, nfe, draw(), grids, budget)
            family, grid = start
            pairs = draw(pairs_for(method))
            cell, solver = learned_cell(model, family, grid, nfe, pairs, budget, method)
            moved = "" if method == "s4s" else ", moved"
            names = {"model": name, "made_for": model.conventions}
            names |= {"grid": grid + moved, "side": budget.side}
            info = {**solver.info, **names, "quality": cell}
            replace(solver, info=info).save(out.with_name(f"{name}_{method}_{nfe}.safetensors"))
            table.add(cell)
    return table.read()


def chosen_start(table: Sweep, name: str) -> tuple[str, str] | None:
    """Family and grid of the learned cells that a setting has already."""
    learned = (c for c in table.read()["cells"] if c["setting"] == name and c["method"] in WAYS)
    return next(((cell["family"], cell["grid"]) for cell in learned), None)


def start_for(
    model: Model, nfe: int, pairs: tuple[Pairs, Pairs], grids: Sequence[str], budget: Budget
) -> tuple[str, str]:
    """The solver of :data:`STARTS` and the grid that a race on the pairs picks."""
    return best_start(problem_of(model, pairs, budget), model.grid, nfe, model.schedule, grids)[:2]


def classical_cells(model: Model, nfe: int, grids: Sequence[str], budget: Budget) -> Iterator[dict]:
    """The tour's classical solvers on every grid, each with the last level that suits it."""
    for names, solver in classical(model, nfe, grids):
        row = evaluate(model, solver, budget.samples)
        cell = {"setting": model.name, "grid": names["grid"], "end": float(solver.sigmas[-1])}
        cell |= {"family": names["solver"], "nfe": nfe, "method": "classical"}
        yield cell | {key: row[key] for key in QUALITY}


def alt_summary(table: dict) -> str:
    """Each learned solver over the best classical one of its grid and of all, which may be others for
    LPIPS and for the Fréchet distance."""
    frame, rows = pd.DataFrame(table["cells"]), []
    opponents = frame[frame["method"] == "classical"]
    for _, ours in frame[frame["method"] != "classical"].iterrows():
        peers = opponents[(opponents["setting"] == ours["setting"]) & (opponents["nfe"] == ours["nfe"])]
        same = peers[peers["grid"] == ours["grid"]]
        row = {key: ours[key] for key in ("setting", "nfe", "method", "family", "grid")}
        for key in ("lpips", "fd_teacher", "fd_teacher_limit"):
            ratios = {"on its grid": ours[key] / same[key].min(), "on all": ours[key] / peers[key].min()}
            row |= {key: ours[key], **{f"{key} {where}": ratio for where, ratio in ratios.items()}}
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3g}")


# ---------------------------------------------------------------- seed against seed


def seeds(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (5,),
    methods: Sequence[str] = ("s4s", "s4s-alt", "joint-lm", "joint-bfgs", "joint-adam"),
    count: int = 5,
    grids: Sequence[str] = tuple(GRIDS),
    budget: Budget = MEDIUM,
    device: str = "cpu",
) -> dict:
    """The same learning from ``count`` draws of the pairs, judged on the same test noises; in settings
    other than ``fashion`` from as many as :data:`DRAWS_ELSEWHERE` says.

    All start from the solver that a race finds with the pairs of seed 0.

    Raises:
        InputError: an unknown setting, or a table that was made with another budget.
    """
    table = Sweep(out, "s4s-nb study seeds", ("setting", "nfe", "seed", "method"), asdict(budget))
    for name in settings:
        model = load(name, device, side=budget.side)
        draw = cache(partial(pairs_of, model, budget))
        keys = product([name], nfes, range(count), methods)
        wanted = (key for key in keys if name == "fashion" or key[2] < DRAWS_ELSEWHERE.get(key[3], 0))
        for _, nfe, seed, method in table.missing(wanted, name):
            start = chosen_start(table, name) or start_for(model, nfe, draw(0), grids, budget)
            pairs = draw(seed, pairs_for(method))
            cell, _ = learned_cell(model, *start, nfe, pairs, budget, method)
            table.add(cell | {"seed": seed})
    return table.read()


def seeds_summary(table: dict) -> str:
    """Mean over the seeds of each measure, and how far the furthest is from it."""
    frame = pd.DataFrame(table["cells"])
    groups = frame.groupby(["setting", "nfe", "method"], sort=False)
    columns = {}
    for key in ("lpips", "fd_teacher"):
        columns[key] = groups[key].mean()
        columns[f"{key} ±"] = groups[key].agg(lambda values: (values / values.mean() - 1).abs().max())
    rows = pd.DataFrame(columns)
    return rows.to_string(float_format=lambda value: f"{value:.3g}")


STUDIES = {
    "uniform": (uniform, uniform_summary),
    "alt": (alt, alt_summary),
    "seeds": (seeds, seeds_summary),
    "transfer": (transfer, transfer_summary),
    "optimisers": (optimisers, recipes_summary),
    "ablations": (ablations, recipes_summary),
    "paper": (paper, paper_summary),
    "spaces": (spaces, spaces_summary),
    "methods": (every_method, methods_summary),
    "choices": (choices, methods_summary),
}


OF_LEVELS = ("alt", "seeds", "spaces", "methods", "choices")
"""Studies that learn levels, which a single step has none of."""


def study(name: str, out: Path | None, jobs: int = 1, **options) -> str:
    """Run a study by name, to runs/NAME.json or ``out``; returns its summary.

    jobs: how many settings are worked on at a time, each by a process of its own with its share of the
    cores. The cells are the same, but for what learning makes of rounding, and the seconds it took.

    Raises:
        InputError: an unknown study or setting, a file that cannot be written, or a table that was made
            with another budget.
    """
    run, summary = choose(STUDIES, name, "study")
    out = out or Path("runs") / f"{name}.json"
    settings = list(dict.fromkeys(options.get("settings", signature(run).parameters["settings"].default)))
    for one in settings:  # before hours of the others
        choose(SETTINGS, one, "model")
    if name in OF_LEVELS and min(options.get("nfes", (HOME_NFE,))) < 2:
        raise InputError(f"Study {name} learns levels, which takes two steps or more; leave NFE 1 out.")
    check_writable(out)
    if jobs > 1 and len(settings) > 1:
        in_processes([partial(run, out, **options | {"settings": [one]}) for one in settings], jobs)
    return summary(run(out, **options | {"settings": settings}))

"""Tables of results over settings, grids, families and NFE, made cell by cell and resumable."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd

from s4s_nb.errors import InputError
from s4s_nb.families import make_family
from s4s_nb.files import write_json
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.judge import judge
from s4s_nb.progress import bar
from s4s_nb.teachers import Pairs
from s4s_nb.zoo import SETTINGS, ImageModel, load_model

GRIDS = ("karras", "logsnr", "uniform")
STARTS = {"ipndm-3": False, "dpmpp-3m": True, "unipc-3-bh2": True, "dpm-2s": False}
"""Classic solvers that S4S starts from, and whether their order is lowered at the end as diffusers does."""
NFES = (4, 5, 6, 8)
QUALITY = ("lpips", "fd_teacher", "fd_real")


@dataclass(frozen=True)
class Budget:
    """What one cell may spend: the same for every cell, and written into the record."""

    pairs: int = 20
    validation_pairs: int = 20
    iterations: int = 3
    samples: int = 100
    batch: int = 10  # few pairs in one batch would keep a single core busy


def uniform(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = NFES,
    budget: Budget = Budget(),
    device: str = "cpu",
) -> dict:
    """S4S against the solver it started from, in every setting, grid, family and NFE, on test noises.

    ``out`` is rewritten after every cell, and cells that it has are not made again; those of a setting
    share their pairs.

    Raises:
        InputError: an unknown setting, or a table that was made with another budget.
    """
    table = {"command": "s4s-nb study uniform", "budget": asdict(budget), "cells": []}
    if out.exists():
        known = json.loads(out.read_text(encoding="utf-8"))
        if known["budget"] != table["budget"]:
            raise InputError(f"{out} was made with another budget, {known['budget']}; choose another file.")
        table = known
    done = {key_of(cell) for cell in table["cells"]}
    for name in settings:
        cells = [c for c in product([name], GRIDS, STARTS, nfes) if c not in done]
        if not cells:
            continue
        model = load_model(name, device)
        train, validation = (
            model.pairs(split, count)
            for split, count in (("train", budget.pairs), ("validation", budget.validation_pairs))
        )
        for _, grid, start, nfe in bar(cells, desc=name):
            table["cells"].append(cell_of(model, grid, start, nfe, train, validation, budget))
            write_json(out, table)
    return table


def key_of(cell: dict) -> tuple[str, str, str, int]:
    """What tells a cell from another."""
    return cell["setting"], cell["grid"], cell["family"], cell["nfe"]


def cell_of(
    model: ImageModel, grid: str, start: str, nfe: int, train: Pairs, validation: Pairs, budget: Budget
) -> dict:
    """Learn one solver, and judge it and its start on the same test noises."""
    started = time.perf_counter()
    family = make_family(start, nfe, model.grid(grid), lower_final=STARTS[start])
    learned = learn_gauss_newton(
        model.denoise,
        family,
        train,
        validation,
        model.embed,
        iterations=budget.iterations,
        batch=budget.batch,
        progress=False,
    )
    seconds = time.perf_counter() - started
    start_solver = family.table(family.zero)
    before, after = (judge(model, s, budget.samples)[0] for s in (start_solver, learned.solver))
    return {
        "setting": model.name,
        "grid": grid,
        "family": start,
        "nfe": nfe,
        "method": "s4s",
        "parameters": family.size,
        **{f"start_{key}": before[key] for key in QUALITY},
        **{key: after[key] for key in QUALITY},
        "start_validation": learned.history[0][1],
        "validation": learned.history[-1][1],
        "learning_seconds": round(seconds, 1),
    }


def summary(table: dict) -> str:
    """Share of the cells that improved and median ratio, in all and by setting."""
    frame = pd.DataFrame(table["cells"])
    frame["ratio"] = frame["lpips"] / frame["start_lpips"]
    frame["FD ratio"] = frame["fd_teacher"] / frame["start_fd_teacher"]
    rows = {name: row_of(part) for name, part in frame.groupby("setting", sort=False)}
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

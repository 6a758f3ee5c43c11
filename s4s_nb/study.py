"""The studies: tables of results over settings, grids, families, NFE and optimisers, in data/results."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor

from s4s_nb.alternate import METHODS
from s4s_nb.denoisers import Denoiser
from s4s_nb.errors import choose
from s4s_nb.families import linear_multistep_family
from s4s_nb.gauss_newton import learn_gauss_newton, mean_distance
from s4s_nb.grids import GRIDS
from s4s_nb.judge import judge
from s4s_nb.learn import learn_s4s
from s4s_nb.relaxed import radius_rule
from s4s_nb.tables import QUALITY, STARTS, Budget, Table, family_of, learned_cell, pairs_of
from s4s_nb.teachers import Pairs
from s4s_nb.tour import CLASSIC
from s4s_nb.zoo import SETTINGS, ImageModel, load_model

SMALL = Budget(pairs=20, validation_pairs=20, iterations=3, samples=100)
MEDIUM = Budget(pairs=40, validation_pairs=20, iterations=5, samples=500, pixels=2.0)


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
    table = Table(out, "s4s-nb study uniform", ("setting", "grid", "family", "nfe"), asdict(budget))
    for name in settings:
        model, pairs = load_model(name, device), None
        for _, grid, start, nfe in table.missing(product([name], grids, STARTS, nfes), name):
            pairs = pairs or pairs_of(model, budget)
            cell, _ = learned_cell(model, start, grid, nfe, pairs, budget)
            table.add(cell)
    return table.read()


def uniform_summary(table: dict) -> str:
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


# ---------------------------------------------------------------- the solvers of data/solvers


def solvers(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (5, 3, 4, 6, 7, 8, 10),
    methods: Sequence[str] = ("classical", *METHODS),
    grids: Sequence[str] = tuple(GRIDS),
    budget: Budget = MEDIUM,
    device: str = "cpu",
) -> dict:
    """Solvers learned by every method, for every setting and NFE, beside the classical ones of all grids.

    They start from the one of :data:`STARTS`, on the one of ``grids``, that is best on the validation
    pairs. The file of each, SETTING_METHOD_NFE.safetensors, is written beside ``out`` and has its cell
    as record.

    Raises:
        InputError: an unknown setting or grid, or a table that was made with another budget.
    """
    table = Table(out, "s4s-nb study solvers", ("setting", "nfe", "method"), asdict(budget))
    for name in settings:
        model, pairs, starts = replace(load_model(name, device), pixels=budget.pixels), None, {}
        for _, nfe, method in table.missing(product([name], nfes, methods), name):
            if method == "classical":
                table.add(*classical_cells(model, nfe, grids, budget))
                continue
            pairs = pairs or pairs_of(model, budget)
            if nfe not in starts:
                starts[nfe] = best_start(model, nfe, pairs[1], grids, budget.batch)
            start, grid = starts[nfe]
            cell, solver = learned_cell(model, start, grid, nfe, pairs, budget, method)
            names = {"method": method, "model": name, "grid": grid, "pixels": budget.pixels}
            info = {**solver.info, **names, "quality": cell}
            replace(solver, info=info).save(out.with_name(f"{name}_{method}_{nfe}.safetensors"))
            table.add(cell)
    return table.read()


def best_start(
    model: ImageModel, nfe: int, validation: Pairs, grids: Sequence[str], batch: int
) -> tuple[str, str]:
    """The solver of :data:`STARTS` and the grid whose end points are nearest to the teacher's."""

    def error(choice: tuple[str, str]) -> float:
        family = family_of(model, *choice, nfe)
        return mean_distance(model.denoise, family, family.zero, validation, model.embed, batch)

    return min(product(STARTS, grids), key=error)


def classical_cells(model: ImageModel, nfe: int, grids: Sequence[str], budget: Budget) -> Iterator[dict]:
    """The tour's classical solvers on every grid."""
    for grid, (label, (name, lower_final)) in product(grids, CLASSIC.items()):
        row, _ = judge(model, model.solver(name, nfe, grid, lower_final), budget.samples)
        names = {"setting": model.name, "grid": grid, "family": label, "nfe": nfe, "method": "classical"}
        yield names | {key: row[key] for key in QUALITY}


def solvers_summary(table: dict) -> str:
    """Each learned solver over the best classical one of its grid and of all, which may be others for
    LPIPS and for the Fréchet distance."""
    frame, rows = pd.DataFrame(table["cells"]), []
    classical = frame[frame["method"] == "classical"]
    for _, ours in frame[frame["method"] != "classical"].iterrows():
        peers = classical[(classical["setting"] == ours["setting"]) & (classical["nfe"] == ours["nfe"])]
        same = peers[peers["grid"] == ours["grid"]]
        row = {key: ours[key] for key in ("setting", "nfe", "method", "family", "grid")}
        for key in ("lpips", "fd_teacher"):
            ratios = {"on its grid": ours[key] / same[key].min(), "on all": ours[key] / peers[key].min()}
            row |= {key: ours[key], **{f"{key} {where}": ratio for where, ratio in ratios.items()}}
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3g}")


# ---------------------------------------------------------------- what learning costs


@dataclass
class Meter:
    """A denoiser that counts its evaluations: one a sample, and two more where a gradient is kept."""

    denoise: Denoiser
    evaluations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with self.lock:
            self.evaluations += len(x) * (3 if torch.is_grad_enabled() else 1)
        return self.denoise(x, sigma)


RECIPES = {
    "Gauss-Newton": {"pairs": 80, "iterations": 5},
    "Gauss-Newton, half the pairs": {"pairs": 40, "iterations": 4},
    "Adam, relaxed": {"pairs": 700, "epochs": 10, "relaxed": True},
    "Adam, hard": {"pairs": 700, "epochs": 10},
}
"""Two of ours, and S4S's: 700 pairs, 10 epochs of batches of 20, with and without its relaxed starts."""


def optimisers(
    out: Path,
    settings: Sequence[str] = ("fashion", "faces-latent"),
    nfes: Sequence[int] = (5,),
    recipes: dict[str, dict] = RECIPES,
    samples: int = 500,
    device: str = "cpu",
) -> dict:
    """What each recipe reaches from DPM-Solver++ 2M on the log-SNR grid, and for how many evaluations.

    Evaluations of the network: forward 1, backward 2. Settings must be unconditional.

    Raises:
        InputError: an unknown setting, or a table that was made with other recipes.
    """
    table = Table(out, "s4s-nb study optimisers", ("setting", "nfe", "optimiser"), {"recipes": recipes})
    for name in settings:
        model = load_model(name, device)
        for _, nfe, label in table.missing(product([name], nfes, recipes), name):
            table.add(recipe_cell(model, nfe, label, **recipes[label], samples=samples))
    return table.read()


def recipe_cell(
    model: ImageModel,
    nfe: int,
    label: str,
    pairs: int,
    samples: int,
    iterations: int = 0,
    epochs: int = 0,
    relaxed: bool = False,
) -> dict:
    """Learn by one recipe, Gauss-Newton's if it has iterations, and judge."""
    family = linear_multistep_family("dpmpp-2m", model.grid("logsnr")(nfe))
    train, validation = model.pairs("train", pairs), model.pairs("validation", 40)
    radius = radius_rule(family.size, train.starts[0].numel()) if relaxed else 0.0
    meter = Meter(model.labelled(None))
    started = time.perf_counter()
    if iterations:
        learn = partial(learn_gauss_newton, embed=model.embed, iterations=iterations)
    else:
        learn = partial(learn_s4s, distance=model.distance, epochs=epochs, radius=radius)
    learned = learn(meter, family, train, validation)
    seconds = time.perf_counter() - started
    row, _ = judge(model, learned.solver, samples)
    names = {"setting": model.name, "grid": "logsnr", "family": family.start, "nfe": nfe, "method": "s4s"}
    cost = {"evaluations": meter.evaluations, "learning_seconds": round(seconds, 1)}
    return {
        **names,
        "optimiser": label,
        "pairs": pairs,
        "radius": radius,
        **cost,
        "teacher_evaluations": (pairs + 40) * model.setting.teacher_nfe,
        **{key: row[key] for key in QUALITY},
        "history": learned.history,
    }


def optimisers_summary(table: dict) -> str:
    """Distances and costs, the latter also relative to the first Adam of the setting."""
    frame = pd.DataFrame(table["cells"])
    adam = frame[frame["optimiser"].str.startswith("Adam")].groupby("setting")["evaluations"].first()
    frame["share of Adam's"] = frame["evaluations"] / frame["setting"].map(adam)
    columns = ["setting", "optimiser", "lpips", "fd_teacher", "evaluations", "share of Adam's"]
    return frame[columns].to_string(index=False, float_format=lambda value: f"{value:.3g}")


STUDIES = {
    "uniform": (uniform, uniform_summary),
    "solvers": (solvers, solvers_summary),
    "optimisers": (optimisers, optimisers_summary),
}


def study(name: str, out: Path | None, **options) -> str:
    """Run a study by name, to runs/NAME.json or ``out``; returns its summary."""
    run, summary = choose(STUDIES, name, "study")
    return summary(run(out or Path("runs") / f"{name}.json", **options))

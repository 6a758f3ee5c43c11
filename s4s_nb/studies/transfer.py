"""Learned solvers where they were not learned: on other models, guidance weights and NFE."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor

from s4s_nb.classic import AS_USED, make_solver
from s4s_nb.evaluate import lpips_of, sample, target_of
from s4s_nb.files import data_file
from s4s_nb.grids import align_your_steps
from s4s_nb.learn.starts import STARTS
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.solvers import Solver
from s4s_nb.studies.sweep import HOME_NFE, Sweep

BUNDLED = ("s4s", "ld3", "s4s-alt")
OTHER_WEIGHTS = {"fashion-guided": (1.0, 1.5, 3.0, 4.0)}
"""Guidance weights beside the one that the solvers were learned at."""

Key = tuple[str, str, int]
"""Where a solver was learned, how, and for which NFE it is now."""


def transfer(
    out: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    nfes: Sequence[int] = (4, 6, 8),
    samples: int = 200,
    device: str = "cpu",
) -> dict:
    """LPIPS to the teacher of each place, of the bundled solvers of 5 NFE that were learned elsewhere.

    Places are the settings, and ``fashion-guided`` with other guidance weights; at the latter only its
    own solvers. In its home a setting's learned levels are also tried with other ``nfes``.

    Raises:
        InputError: an unknown setting, or a table that was made with other samples.
    """
    keys = ("setting", "guidance", "learned_on", "method", "nfe")
    table = Sweep(out, "s4s-nb study transfer", keys, {"samples": samples})
    for name in settings:
        home, weight_at_home = load(name, device), SETTINGS[name].guidance_scale
        own = own_solvers(home)
        all_of_them = own | solvers_from_elsewhere(name) | other_nfes(home, nfes)
        for weight in (weight_at_home, *OTHER_WEIGHTS.get(name, ())):
            at_home = weight == weight_at_home
            model = home if at_home else load(name, device, guidance_scale=weight)
            solvers = all_of_them if at_home else own
            for key in table.missing([(name, weight, *key) for key in solvers], name):
                cell = dict(zip(keys, key, strict=True))
                table.add(cell | distance_to(model, solvers[key[2:]], target_of(model, samples, 0).images))
    return table.read()


def own_solvers(model: Model) -> dict[Key, Solver]:
    """The setting's learned solvers, and the best classical one of ``results/alt.json`` by LPIPS."""
    rows = [cell for cell in alt_cells(model.name) if cell["method"] == "classical"]
    best = min(rows, key=lambda cell: cell["lpips"])
    start, lower_final = AS_USED[best["family"]]
    grid = model.grid(best["grid"], best.get("end"))  # tables of old have no last level
    classical = make_solver(start, HOME_NFE, grid, lower_final, model.schedule)
    return {(model.name, "classical", HOME_NFE): classical} | solvers_at_home(model.name)


def solvers_at_home(name: str) -> dict[Key, Solver]:
    """The bundled learned solvers of a setting."""
    files = {method: data_file(f"solvers/{name}_{method}_{HOME_NFE}.safetensors") for method in BUNDLED}
    return {(name, method, HOME_NFE): Solver.load(file) for method, file in files.items()}


def solvers_from_elsewhere(name: str) -> dict[Key, Solver]:
    """Those of the other settings that start at the same level: a table has its levels built in."""
    found = {}
    for other, setting in SETTINGS.items():
        if other != name and setting.sigma_max == SETTINGS[name].sigma_max:
            found |= solvers_at_home(other)
    return found


def other_nfes(model: Model, nfes: Sequence[int]) -> dict[Key, Solver]:
    """The classical solver that LD3 started from with other NFE, and with LD3's levels interpolated."""
    ld3 = next(cell for cell in alt_cells(model.name) if cell["method"] == "ld3")
    levels = solvers_at_home(model.name)[model.name, "ld3", HOME_NFE].sigmas
    grids = {"start": model.grid(ld3["grid"]), "ld3 levels": partial(align_your_steps, levels)}
    return {
        (model.name, label, nfe): make_solver(ld3["family"], nfe, grid, STARTS[ld3["family"]])
        for nfe in nfes
        for label, grid in grids.items()
    }


def alt_cells(name: str) -> list[dict]:
    """The cells of a setting at the home NFE in ``results/alt.json``."""
    cells = json.loads(data_file("results/alt.json").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if (cell["setting"], cell["nfe"]) == (name, HOME_NFE)]


def distance_to(model: Model, solver: Solver, target: Tensor) -> dict[str, float]:
    """Mean LPIPS and its standard error on the test noises."""
    return lpips_of(sample(model, solver, len(target), transfer=True), target)


def transfer_summary(table: dict) -> str:
    """LPIPS of every solver over that of the place's classical one; other NFE over the start's."""
    frame = pd.DataFrame(table["cells"])
    classical = frame["lpips"].where(frame["method"].isin(["classical", "start"]))
    place = [frame[key] for key in ("setting", "guidance", "nfe")]
    frame["ratio"] = frame["lpips"] / classical.groupby(place, dropna=False).transform("first")
    return frame.to_string(index=False, float_format=lambda value: f"{value:.3g}")

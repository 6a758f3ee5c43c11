"""The tables of results: every cell once, what is there is kept, and no cell is worse on validation."""

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from s4s_nb.distances import rmse
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate, target_of
from s4s_nb.families import LinearMultistep, make_student
from s4s_nb.files import data_file
from s4s_nb.grids import log_snr
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.starts import STARTS, student_at
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.multistep import ipndm_weights, linear_multistep
from s4s_nb.solvers import Solver
from s4s_nb.studies import design_space
from s4s_nb.studies.ablations import (
    ABLATIONS,
    ADAM,
    BASE,
    PAPER,
    SameEveryStep,
    optimisers,
    paper_summary,
    principal_axes,
    put_at_random,
    recipes_summary,
    root_mean_square,
)
from s4s_nb.studies.design_space import CHOICES, choices, every_method, methods_summary
from s4s_nb.studies.settings import (
    DRAWS_ELSEWHERE,
    alt,
    alt_summary,
    seeds,
    seeds_summary,
    study,
    uniform,
    uniform_summary,
)
from s4s_nb.studies.spaces import spaces, spaces_summary
from s4s_nb.studies.sweep import QUALITY, Budget, Sweep
from s4s_nb.studies.transfer import alt_cells, transfer, transfer_summary
from tests.problems import MIXTURE, noise, same_bits

TINY = Budget(pairs=2, validation_pairs=2, iterations=1, samples=4)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("nfe", [3, 4, 5, 8])
def test_every_family_keeps_its_evaluations(start, nfe):
    model = load("fashion")
    assert student_at(start, model.grid("logsnr"), nfe, model.schedule).solver().nfe == nfe


def test_a_study_goes_on_where_it_was_stopped(tmp_path):
    out = tmp_path / "uniform.json"
    make = partial(uniform, out, ["fashion"], [2], ["logsnr"])
    first = make(TINY)
    assert [cell["family"] for cell in first["cells"]] == list(STARTS)
    assert all(cell["validation"] <= cell["start_validation"] for cell in first["cells"])
    out.write_text(json.dumps(first | {"cells": first["cells"][1:]}))
    again = make(TINY)
    assert again["cells"][:3] == first["cells"][1:]
    made, known = again["cells"][3], first["cells"][0]
    assert made["family"] == known["family"]
    assert made["lpips"] == pytest.approx(known["lpips"], rel=1e-3)
    summary = uniform_summary(again)
    assert [row in summary for row in ("fashion", "2 NFE", "all")] == [True] * 3
    with pytest.raises(InputError, match="made by another budget"):
        make(Budget(pairs=3, validation_pairs=2, iterations=1, samples=4))


def test_spaces_begin_where_everything_at_once_has_ended(tmp_path):
    make = partial(spaces, tmp_path / "spaces.json", ["fashion"], counts=(2,), iterations=1, samples=4)
    table = make(names=("start", "whole table"))
    start, whole = table["cells"]
    assert whole["turns"][0]["before"] == pytest.approx(start["validation"], rel=1e-6)
    assert (start["parameters"], whole["parameters"]) == (20, 39)
    assert (start["iterations"], whole["iterations"]) == (1, 2)
    assert whole["evaluations"] > start["evaluations"] and whole["training"] < start["training"]
    assert "whole table" in spaces_summary(table)


def test_learned_solvers_are_written_with_their_record(tmp_path):
    methods = ["classical", "s4s", "s4s-alt", "joint-adam"]
    budget = replace(TINY, side=96)
    make = partial(alt, tmp_path / "alt.json", ["fashion"], grids=["logsnr", "karras"], budget=budget)
    table = make([5], methods)
    *classical, s4s, both, adam = learned = table["cells"]
    assert [cell["method"] for cell in learned[-3:]] == methods[1:]
    assert s4s["parameters"] + 8 == both["parameters"] == adam["parameters"]  # 4 levels, 4 of the model
    assert {(cell["method"], cell["grid"]) for cell in classical} == {
        ("classical", "logsnr"),
        ("classical", "karras"),
    }
    for cell in (s4s, both, adam):
        solver = Solver.load(tmp_path / f"fashion_{cell['method']}_5.safetensors")
        assert solver.nfe == 5 and solver.info["quality"] == cell and solver.info["start"] == cell["family"]
        assert solver.info["side"] == 96
    assert "joint-adam" in alt_summary(table)
    assert make([3], ["joint-adam"]) == table, "everything at once is compared at 5 NFE only"


def test_seeds_draw_other_pairs_and_start_from_the_same_solver(tmp_path):
    methods = ["s4s", "joint-bfgs"]
    make = partial(seeds, tmp_path / "seeds.json", ["fashion"], [2], methods, 2, ["logsnr"], TINY)
    table = make()
    cells = table["cells"]
    assert [(cell["seed"], cell["method"]) for cell in cells] == [(s, m) for s in (0, 1) for m in methods]
    assert len({round(cell["start_lpips"], 4) for cell in cells}) == 1  # one start, the same test noises
    assert [cell["pairs"] for cell in cells] == [2, 8, 2, 8]  # BFGS takes four times as many
    assert len({round(cell["start_validation"], 4) for cell in cells}) == 4
    assert "joint-bfgs" in seeds_summary(table)
    assert make() == table


def test_the_bundled_draws_are_all_that_the_command_makes(tmp_path, monkeypatch):
    monkeypatch.delattr("s4s_nb.studies.settings.learned_cell")  # nothing is left to learn
    copy = tmp_path / "seeds.json"
    copy.write_bytes(data_file("results/seeds.json").read_bytes())
    cells = seeds(copy)["cells"]
    draws = Counter((cell["setting"], cell["method"]) for cell in cells)
    assert all(
        draws[name, method] == (5 if name == "fashion" else count)
        for name in SETTINGS
        for method, count in DRAWS_ELSEWHERE.items()
    )
    assert len(draws) == 5 + 2 * 5
    starts = {(cell["setting"], cell["family"], cell["grid"]) for cell in cells}
    assert len(starts) == len(SETTINGS), "all draws of a setting start from one solver"


def test_a_transferred_solver_is_judged_where_it_is_used(tmp_path):
    make = partial(transfer, tmp_path / "transfer.json", ["fashion"], [4], samples=4)
    cells = make()["cells"]
    found = {(cell["learned_on"], cell["method"], cell["nfe"]): cell["lpips"] for cell in cells}
    model = load("fashion")
    for method in ("s4s", "s4s-alt"):
        alone = evaluate(model, find_solver(model, method, 5, "karras"), 4)
        assert found["fashion", method, 5] == pytest.approx(alone["lpips"], rel=1e-3)
    start = next(c for c in alt_cells("fashion") if c["method"] == "ld3")
    classical = find_solver(model, start["family"], 4, start["grid"], STARTS[start["family"]])
    assert found["fashion", "start", 4] == pytest.approx(evaluate(model, classical, 4)["lpips"], rel=1e-3)
    assert {origin for origin, *_ in found} == {n for n, s in SETTINGS.items() if s.sigma_max == 80}
    assert make()["cells"] == cells


def test_another_guidance_weight_has_another_teacher():
    home, heavier = load("fashion-guided"), load("fashion-guided", guidance_scale=4.0)
    stored = target_of(home, 2, 0).images
    assert rmse(stored, home.images(home.pairs("test", 2).targets)).max() < 0.01
    assert rmse(stored, target_of(heavier, 2, 0).images).min() > 0.01


def test_the_summary_compares_with_the_classical_solver_of_the_place():
    place = {"setting": "a", "guidance": None, "learned_on": "a"}
    rows = [("s4s", 5, 0.1), ("classical", 5, 0.2), ("start", 8, 0.4), ("ld3 levels", 8, 0.1)]
    cells = [place | {"method": m, "nfe": n, "lpips": v, "lpips_error": 0.0} for m, n, v in rows]
    ratios = [line.split()[-1] for line in transfer_summary({"cells": cells}).splitlines()[1:]]
    assert ratios == ["0.5", "1", "1", "0.25"]


def test_optimisers_are_compared_by_what_the_network_was_asked(tmp_path):
    recipes = {
        "Gauss-Newton": {"pairs": 2, "iterations": 1},
        "Adam": {"pairs": 2, "epochs": 1, "relaxed": 1.0},
    }
    table = optimisers(tmp_path / "optimisers.json", ["fashion"], [2], recipes, samples=4)
    newton, adam = table["cells"]
    # Validation: 40 pairs at the start, after the epoch and at the end; training: 2 pairs, forward and
    # backward; 2 steps each. By 3 evaluations the run tells its network from another, by 2 that it keeps to
    # its contract. The gradient is checked on 2 pairs, and its memory measured on 3 samples.
    assert adam["evaluations"] == (3 * 40 + 2 * 3) * 2 + 3 + 2 + 2 * (2 + 3) + 3 * 3
    # Five tries, start and end are validated; parameters of step 1 cost one evaluation, step 2's none.
    assert newton["evaluations"] == 7 * 40 * 2 + 2 * (2 + 1) + 3 + 2
    assert adam["radius"] > 0 == newton["radius"]
    assert "Gauss-Newton" in recipes_summary(table)


def test_every_ablation_differs_from_the_base_in_one_thing():
    for label, recipe in ABLATIONS.items():
        base = ADAM if label.startswith("Adam") else BASE
        changed = [key for key in recipe if recipe[key] != base.get(key)]
        assert len(changed) == (label not in ("base", "Adam")), label


def test_an_ablation_is_what_it_says(tmp_path):
    one = {"pairs": 2, "iterations": 1}
    recipes = {"order 2": {"order": 2}, "sums of one": {"consistent": True}, "error": {"squared": True}}
    recipes = {label: one | change for label, change in recipes.items()}
    second, consistent, squared = optimisers(tmp_path / "a.json", ["fashion"], [3], recipes, samples=4)[
        "cells"
    ]
    assert second["parameters"] == 1 + 2 + 2
    assert consistent["parameters"] == (1 + 2 + 3) - 3
    model = load("fashion")
    x = model.starts("test", 3)
    e = root_mean_square(x)
    assert torch.allclose((e[0] - e[1:]).norm(dim=1), rmse(x[:1].expand(2, -1, -1, -1), x[1:]), rtol=1e-5)
    validation = model.pairs("validation", 40)
    problem = Problem(model.denoise, validation, validation, root_mean_square)
    student = LinearMultistep("dpmpp-2m", model.grid("logsnr")(3))
    start = problem.distance(student, student.zero(("coefficients",)), ("coefficients",))
    assert squared["history"][0][1] == pytest.approx(start, rel=1e-5)


def test_an_unknown_study_is_named():
    with pytest.raises(InputError, match="uniform, alt, seeds, transfer, optimisers, ablations"):
        study("everything", None)


def test_settings_side_by_side_make_the_same_table(tmp_path):
    options = {"settings": ["fashion", "faces"], "nfes": [2], "grids": ["logsnr"], "budget": TINY}
    study("uniform", tmp_path / "two.json", jobs=2, **options)
    study("uniform", tmp_path / "one.json", **options)
    two, one = (json.loads((tmp_path / f"{n}.json").read_text())["cells"] for n in ("two", "one"))
    assert [(c["setting"], c["family"]) for c in two] == [(c["setting"], c["family"]) for c in one]
    for key, rel in {"start_lpips": 1e-3, "lpips": 3e-2}.items():  # learning magnifies rounding
        assert [c[key] for c in two] == pytest.approx([c[key] for c in one], rel=rel)


# ---------------------------------------------------------------- what else may lie in the file

SWEEP = Sweep(Path(), "s4s-nb study alt", ("setting", "nfe", "method"), {"pairs": 4})
CELL = {"setting": "fashion", "nfe": 5, "method": "s4s", "lpips": 0.1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"command": "s4s-nb study seeds"}, "made by another command"),
        ({"budget": {"pairs": 5}}, "made by another budget"),
        ({"cells": None}, "has cells that are not those"),
        ({"cells": [CELL, {"setting": "fashion"}]}, "has cells that are not those"),
        ({"cells": [CELL | {"lpips": None}]}, "has cells that are not those"),
        ({"cells": [CELL | {"nfe": [5]}]}, "has cells that are not those"),
        ({"cells": [CELL | {"setting": "elsewhere"}]}, "has cells that are not those"),
        ({"more": 1}, "is no table"),
    ],
)
def test_a_table_of_another_kind_is_refused(change, sentence, tmp_path):
    """Guards studies that take each other's cells as done."""
    table = replace(SWEEP, out=tmp_path / "table.json")
    table.add(CELL)
    assert table.read()["cells"] == [CELL]
    table.out.write_text(json.dumps(table.read() | change))
    before = table.out.read_bytes()
    for call in (table.read, partial(table.add, CELL | {"nfe": 6})):
        with pytest.raises(InputError, match=sentence):
            call()
    assert table.out.read_bytes() == before


def test_two_studies_on_one_table_write_each_cell_once(tmp_path):
    one, other = (replace(SWEEP, out=tmp_path / "table.json") for _ in range(2))
    keys = [("fashion", nfe, "s4s") for nfe in (3, 4, 5, 6)]
    made = []
    mine, theirs = one.missing(keys, "one"), other.missing(keys, "other")
    for _ in range(2):  # both take the first, then each what the other has left
        for left in (mine, theirs):
            setting, nfe, method = next(left)
            made.append((nfe, {"setting": setting, "nfe": nfe, "method": method, "lpips": len(made)}))
        for table, (_, cell) in zip((one, other), made[-2:], strict=True):
            table.add(cell)
    assert [cell["nfe"] for cell in one.read()["cells"]] == [3, 4]
    assert [cell["lpips"] for cell in one.read()["cells"]] == [0, 2], "the first to write is kept"
    classical = [CELL | {"method": "classical", "lpips": 0.1 * k} for k in range(3)]
    one.add(*classical)
    other.add(*classical)
    assert len(one.read()["cells"]) == 5, "several cells of one key are written together"


# ---------------------------------------------------------------- the paper's ablations


def test_constant_coefficients_are_the_same_in_every_step_and_none_of_them_is_the_classic_solver():
    sigmas = log_snr(5, 80.0, 0.002)
    here, free = SameEveryStep("ipndm-3", sigmas), make_student("ipndm-3", 5, lambda n: sigmas)
    assert here.coefficients.numel() == 3 and same_bits(here.solver(), free.solver())
    here.move(torch.tensor([0.1, -0.2, 0.3]).double(), ("coefficients",))
    moved = torch.zeros(5, 5).double()
    for i, j in product(range(5), range(5)):
        if 0 <= i - j < 3:
            moved[i, j] = (0.1, -0.2, 0.3)[i - j]
    expected = linear_multistep(sigmas, ipndm_weights(sigmas, 3) + moved, "noise")
    assert torch.allclose(here.solver().B, expected.B, rtol=1e-12)


def test_a_random_start_has_standard_normal_weights():
    weights = []
    for seed in range(40):
        student = make_student("ipndm-3", 5, lambda n: log_snr(n, 80.0, 0.002))
        put_at_random(student, seed)
        weights += (student.classic(student.sigmas)[student.weights.moved] + student.coefficients).tolist()
    assert abs(torch.tensor(weights).mean()) < 0.15 and abs(torch.tensor(weights).std() - 1) < 0.1


def test_principal_axes_are_those_of_the_covariance():
    runs = noise(9, 4) * torch.tensor([5, 2, 1, 1])
    at, shares = principal_axes(runs)
    values, vectors = torch.linalg.eigh(torch.cov(runs.T))
    expected = (runs - runs.mean(0)) @ vectors.flip(1)[:, :2]
    assert torch.allclose(at.abs(), expected.abs(), atol=1e-9)
    assert torch.allclose(shares, values.flip(0)[:2] / values.sum())


def test_the_papers_ablations_run_and_are_told(tmp_path, monkeypatch):
    """On the exact mixture, which has no images to judge."""
    own = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, name="fashion")
    module = sys.modules["s4s_nb.studies.ablations"]
    monkeypatch.setattr(sys.modules["s4s_nb.studies.sweep"], "load", lambda name, device: own)
    monkeypatch.setattr(module, "evaluate", lambda *_: dict.fromkeys(QUALITY, 0.1))
    recipes = {name: recipe | {"pairs": 8, "iterations": 2} for name, recipe in PAPER.items()}
    table = optimisers(tmp_path / "paper.json", ["fashion"], [4], recipes, samples=4, name="paper")
    cells = {cell["recipe"]: cell for cell in table["cells"]}
    parameters = {name: cell["parameters"] for name, cell in cells.items()}
    assert parameters["the same coefficients in every step"] == 3 and parameters["iPNDM"] == 9
    assert parameters["single-step"] > parameters["single-step, rows that sum to one"]
    begun = {name: cell["history"][0][1] for name, cell in cells.items()}
    assert begun["random start"] > begun["iPNDM"] != begun["iPNDM, run 1"], "of other pairs"
    assert begun["the same coefficients in every step"] == begun["iPNDM"]
    told = paper_summary(table)
    assert "Coefficients of 4 runs" in told and all(name in told for name in PAPER)


def test_methods_are_compared_on_their_own_and_on_equal_terms(tmp_path, monkeypatch):
    """On equal terms only the student and its turns differ; each cell says what it learned and spent."""
    monkeypatch.setattr(design_space, "PAIRS", 4)
    monkeypatch.setattr(design_space, "ITERATIONS", 1)
    monkeypatch.setitem(design_space.AFFORDED, "gs", {"iterations": 1, "size": 2})
    design_space.common_pairs.cache_clear()
    table = every_method(tmp_path / "methods.json", ["fashion"], (2,), ("s4s", "gs"), samples=4)
    design_space.common_pairs.cache_clear()
    monkeypatch.setattr(design_space, "method_cell", None)  # what is there is not made again
    assert every_method(tmp_path / "methods.json", ["fashion"], (2,), ("s4s", "gs"), samples=4) == table
    cells = {(cell["method"], cell["terms"]): cell for cell in table["cells"]}
    assert [*cells] == [("s4s", "equal"), ("gs", "equal"), ("s4s", "own"), ("gs", "own")]
    assert cells["s4s", "equal"]["parameters"] == 3  # two steps of order 3
    assert cells["gs", "equal"]["parameters"] == 4 + 1 + 1 + 1  # history, first level, levels, offsets
    assert cells["gs", "own"]["start"] == "dpmpp-3m" and cells["s4s", "own"]["start"] == "ipndm-3"
    assert all(cell["evaluations"] > 0 and cell["rmse"] > 0 for cell in cells.values())
    assert "s4s" in methods_summary(table)


def test_a_choice_differs_from_the_row_in_one_thing():
    """In what its name says; and in how rounds and iterations share out the same evaluations."""
    row = CHOICES["S4S-Alt"]
    kinds = {
        "space": {"turns"},
        "objective": {"objective"},
        "embedding": {"embed"},
        "optimiser": {"optimiser"},
        "turns": {"turns"},
    }
    for name, other in CHOICES.items():
        changed = {key for key in {*row, *other} if row.get(key) != other.get(key)}
        assert name == "S4S-Alt" or changed - {"rounds", "iterations"} == kinds[name.split(":")[0]]


def test_one_choice_changed_is_learned_and_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(design_space, "PAIRS", 4)
    design_space.common_pairs.cache_clear()
    few = {
        name: CHOICES[name] | {"rounds": 1, "iterations": 1} for name in ("S4S-Alt", "embedding: states")
    }
    table = choices(tmp_path / "choices.json", ["fashion"], (2,), few, samples=4)
    design_space.common_pairs.cache_clear()
    assert [cell["choice"] for cell in table["cells"]] == [*few]
    one, other = table["cells"]
    assert one["parameters"] == other["parameters"] == 3 + 1 + 1
    assert one["validation_start"] != other["validation_start"]  # another distance
    assert one["start_lpips"] == other["start_lpips"]

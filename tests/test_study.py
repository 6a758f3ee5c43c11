"""The tables of results: every cell once, what is there is kept, and no cell is worse on validation."""

import json
from functools import partial

import pytest

from s4s_nb.errors import InputError
from s4s_nb.solvers import Solver
from s4s_nb.study import optimisers, solvers, solvers_summary, study, uniform, uniform_summary
from s4s_nb.tables import STARTS, Budget, family_of
from s4s_nb.zoo import load_model

TINY = Budget(pairs=2, validation_pairs=2, iterations=1, samples=4)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("nfe", [3, 4, 5, 8])
def test_every_family_keeps_its_evaluations(start, nfe):
    family = family_of(load_model("fashion"), start, "logsnr", nfe)
    assert family.table(family.zero).nfe == nfe


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
    assert "fashion" in uniform_summary(again)
    with pytest.raises(InputError, match="another budget"):
        make(Budget(pairs=3, validation_pairs=2, iterations=1, samples=4))


def test_learned_solvers_are_written_with_their_record(tmp_path):
    methods = ["classical", "s4s", "s4s-alt"]
    table = solvers(tmp_path / "solvers.json", ["fashion"], [3], methods, ["logsnr", "karras"], TINY)
    *classical, s4s, alt = table["cells"]
    assert (s4s["method"], alt["method"]) == ("s4s", "s4s-alt")
    assert s4s["parameters"] + 4 == alt["parameters"]  # two inner levels, two model levels
    assert {(cell["method"], cell["grid"]) for cell in classical} == {
        ("classical", "logsnr"),
        ("classical", "karras"),
    }
    for cell in (s4s, alt):
        solver = Solver.load(tmp_path / f"fashion_{cell['method']}_3.safetensors")
        assert solver.nfe == 3 and solver.info["quality"] == cell and solver.info["start"] == cell["family"]
    assert "s4s-alt" in solvers_summary(table)


def test_optimisers_are_compared_by_what_the_network_was_asked(tmp_path):
    recipes = {
        "Gauss-Newton": {"pairs": 2, "iterations": 1},
        "Adam": {"pairs": 2, "epochs": 1, "relaxed": True},
    }
    table = optimisers(tmp_path / "optimisers.json", ["fashion"], [2], recipes, samples=4)
    newton, adam = table["cells"]
    # Validation: 40 pairs, before and after; training: 2 pairs, forward and backward; 2 steps each.
    assert adam["evaluations"] == (2 * 40 + 2 * 3) * 2
    # Five tries and the start are validated; parameters of step 1 cost one evaluation, step 2's none.
    assert newton["evaluations"] == 6 * 40 * 2 + 2 * (2 + 1)
    assert adam["radius"] > 0 == newton["radius"]


def test_an_unknown_study_is_named():
    with pytest.raises(InputError, match="uniform, solvers, optimisers"):
        study("everything", None)

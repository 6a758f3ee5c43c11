"""The tables of results: every cell once, what is there is kept, and no cell is worse on validation."""

import json

import pytest

from s4s_nb import study
from s4s_nb.errors import InputError
from s4s_nb.families import make_family
from s4s_nb.grids import log_snr
from s4s_nb.study import Budget, summary, uniform

TINY = Budget(pairs=2, validation_pairs=2, iterations=1, samples=4)


def grid(steps):
    return log_snr(steps, 10.0, 0.01)


def test_every_family_is_found_by_its_start_and_keeps_its_evaluations():
    for start, lower in study.STARTS.items():
        for nfe in study.NFES:
            family = make_family(start, nfe, grid, lower_final=lower)
            assert family.table(family.zero).nfe == nfe


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "GRIDS", ("logsnr",))
    out = tmp_path / "uniform.json"
    first = uniform(out, ["fashion"], [2], TINY)
    assert [cell["family"] for cell in first["cells"]] == list(study.STARTS)
    short = first | {"cells": first["cells"][1:]}
    out.write_text(json.dumps(short))
    again = uniform(out, ["fashion"], [2], TINY)
    key = study.key_of
    assert [key(c) for c in again["cells"][:3]] == [key(c) for c in short["cells"]]
    assert key(again["cells"][3]) == key(first["cells"][0])
    assert again["cells"][3]["lpips"] == pytest.approx(first["cells"][0]["lpips"], rel=1e-3)
    assert "fashion" in summary(again)
    with pytest.raises(InputError, match="another budget"):
        uniform(out, ["fashion"], [2], Budget(pairs=3))

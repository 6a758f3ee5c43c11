"""The learned solvers in data/: their records say how they were learned, and are those of the whole run."""

import pytest

from s4s_nb.files import data_file, manifest
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.optimiser import OPTIMISERS
from s4s_nb.models.bundled import SETTINGS
from s4s_nb.solvers import Solver

FILES = [name for name in manifest() if name.startswith("solvers/")]
NAMED = {"joint-bfgs": ("joint", "BFGS"), "whole": ("whole", "BFGS"), "s4s-alt-adam": ("s4s-alt", "Adam")}
"""Files that are called by method and optimiser; the others are of Gauss–Newton."""


@pytest.mark.parametrize("file", FILES)
def test_the_record_of_a_bundled_solver_is_that_of_its_whole_run(file):
    place, way, nfe = file.removeprefix("solvers/").removesuffix(".safetensors").split("_")
    solver = Solver.load(data_file(file))
    record, turns = solver.info, solver.info["turns"]
    assert (record["method"], record["optimiser"]) == NAMED.get(way, (way, "Gauss-Newton"))
    assert record["method"] in METHODS and record["optimiser"] in {o.title for o in OPTIMISERS.values()}
    assert solver.nfe == int(nfe)
    assert record["model"] == ("fashion" if place == "tour" else place) and record["model"] in SETTINGS
    assert record["validation_start"] == turns[0]["before"] > 0
    assert record["validation_best"] == turns[-1]["after"] <= record["validation_start"]
    assert ("moved" in record["grid"]) == (record["method"] != "s4s")

"""S4S's own recipe: its numbers, one radius and one set of moved starts, and LD3's grid to begin with."""

import pytest
import torch

from s4s_nb.learn import learn
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.optimiser import OPTIMISERS
from s4s_nb.learn.relaxed import RelaxedStarts, radius_rule
from s4s_nb.models import Model
from s4s_nb.pairs import Pairs
from tests.problems import MIXTURE, problem, same_bits, student

PAPERS = ("s4s-paper", "s4s-alt-paper")


def model(**other) -> Model:
    return Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, name="mixture", **other)


def test_numbers_are_those_of_the_papers_appendix():
    s4s, alt = (METHODS[name] for name in PAPERS)
    assert (s4s.pairs, s4s.validation, s4s.latent_pairs, s4s.batches) == (700, 200, 600, 20)
    assert (alt.pairs, alt.validation, alt.latent_pairs, alt.batches) == (1400, 400, 1000, 40)
    assert alt.rounds == 8 and OPTIMISERS[s4s.optimiser].whole == 10
    assert (alt.start, alt.begins, alt.held) == ("ipndm-3", "ld3", "noise")


@pytest.mark.parametrize(("method", "size"), [("s4s-paper", 12), ("s4s-alt-paper", 12 + 4 + 4)])
def test_the_radius_is_of_all_that_moves_and_starts_stay_moved_from_half_to_half(method, size, monkeypatch):
    made, project = [], RelaxedStarts.__post_init__

    def counted(self):
        made.append(self)
        project(self)

    monkeypatch.setattr(RelaxedStarts, "__post_init__", counted)
    options = {"rounds": 2, "iterations": 1, "size": 20, "progress": False}
    result = learn_student(problem(), student("ipndm-3"), method, **options)
    assert result.record["radius"] == pytest.approx(radius_rule(size, 2))
    assert len(made) == 1 and made[0].boundary_share > 0
    assert learn_student(problem(), student(), method, radius=0.0, **options).record["radius"] == 0
    by_newton = learn_student(problem(), student(), method, "gauss-newton", iterations=1, progress=False)
    assert by_newton.record["radius"] == 0


def test_alternation_begins_on_the_grid_that_ld3_learns(tmp_path):
    options = {"pairs": 12, "rounds": 1, "iterations": 1, "progress": False}
    result = learn(model(), 4, "s4s-alt-paper", out=tmp_path / "alt.safetensors", **options)
    begun = result.record["begun_by"]
    assert begun["method"] == "ld3" and begun["optimiser"] == "RMSprop, SGD" and begun["pairs"] == 12
    assert begun["validation_best"] < begun["validation_start"]
    assert result.record["validation_start"] == pytest.approx(begun["validation_best"], rel=1e-9)
    assert result.record["grid"] == "logsnr, moved" and result.record["model_levels"] == "noise"
    assert result.record["validation_pairs"] == 6
    own = options | {"iterations": 7, "optimiser": "ld3", "start": "ipndm-3", "grid": "logsnr"}
    ld3 = learn(model(), 4, "ld3", held="noise", **own)
    assert ld3.record["validation_best"] == pytest.approx(begun["validation_best"], rel=1e-9)
    again = learn(model(), 4, "s4s-alt-paper", out=tmp_path / "alt.safetensors", **options)
    assert same_bits(again.solver, result.solver)


def test_numbers_of_pairs_are_the_papers_in_pixels_and_in_latents(monkeypatch):
    asked = []

    class Enough(Exception):
        pass

    def counting(self, split, count, first=0, progress=True):
        asked.append(count)
        if split == "validation":
            raise Enough
        return Pairs(torch.zeros(1, 2), torch.zeros(1, 2))

    monkeypatch.setattr(Model, "pairs", counting)
    for own in (model(), model(decode=lambda x: 2 * x)):
        for method in PAPERS:
            with pytest.raises(Enough):
                learn(own, 3, method, grid="logsnr", progress=False)
    assert asked == [700, 200, 1400, 400, 600, 200, 1000, 400]

"""A free first answer: what it stands for, what it spares, and that learning, files and judges know it."""

from dataclasses import replace

import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate
from s4s_nb.first import FreeFirst
from s4s_nb.grids import log_snr
from s4s_nb.learn import learn
from s4s_nb.learn.gauss_newton import normal_equations
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.methods import METHODS
from s4s_nb.levels import decoupled
from s4s_nb.models import FIRST_NOISES, Model
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.solvers import Solver, solve, trajectory
from s4s_nb.student import PARTS
from tests.problems import F64, GRID, MIXTURE, noise, problem, same_bits, student

MEAN = FreeFirst(torch.tensor([[0.1, -0.2]], dtype=F64), noises=4)


def of_classes(x, sigma, label):
    """Two mixtures, one the other mirrored."""
    sign = (1 - 2 * label.to(x))[:, None]
    return sign * MIXTURE(sign * x, sigma)


def model(**other) -> Model:
    given = {"denoise": MIXTURE, "shape": (2,), "sigma_max": 10.0, "sigma_min": 0.01, "name": "mixture"}
    return Model(**given | other)


def classes() -> Model:
    return model(
        denoise=of_classes, conditions=lambda split, n, first: {"label": torch.arange(first, first + n) % 2}
    )


@pytest.mark.parametrize("name", ["ipndm-3", "unipc-3-bh2", "dpm-2s"])
def test_it_is_what_a_denoiser_would_have_said_at_first_and_is_not_asked(name):
    table, counted, x = make_solver(name, 6, GRID), Counted(MIXTURE), 10 * noise(5)
    asked = []

    def first_known(x, sigma):
        asked.append(1)
        return MEAN.means.expand_as(x) if len(asked) == 1 else MIXTURE(x, sigma)

    known = table.with_first(MEAN)
    assert torch.equal(solve(counted, x, known), solve(first_known, x, table))
    assert (counted.nfe, known.nfe, known.steps) == (5, 5, 6) and known.name == f"{name} (5 + 1)"
    assert known.info["free_first"] == {"noises": 4, "by": None} and known.digest != table.digest
    own = FreeFirst(MIXTURE(x[:1], table.sigmas[0]))
    assert torch.allclose(
        solve(MIXTURE, x[:1], table.with_first(own)), solve(MIXTURE, x[:1], table), rtol=1e-12
    )


def test_a_solver_keeps_it_where_its_levels_are_decoupled():
    table = make_solver("euler", 4, GRID).with_first(MEAN)
    assert decoupled(table, table.model_sigmas).first is MEAN


def test_derivatives_know_that_nothing_moves_it():
    given, here = problem(train=8), student("dpmpp-2m", 4, free_first=MEAN)
    by = 0.1 * noise(1, sum(here.sizes()))[0]
    for parts in (PARTS, ("coefficients",)):
        at = by[: sum(here.sizes(parts))]
        exact = normal_equations(given, here, at, parts, "tangents")
        for one, other in zip(exact, normal_equations(given, here, at, parts, "differences"), strict=True):
            assert (one - other).norm() < 0.01 * one.norm()
        value, slope = given.value_and_gradient(here, at, parts)
        step = torch.zeros_like(at)
        step[0] = 1e-6
        ahead, behind = (given.value_and_gradient(here, at + s, parts)[0] for s in (step, -step))
        assert slope[0] == pytest.approx((ahead - behind) / 2e-6, rel=1e-4) and value > 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_with_it_for_one_evaluation_less(method):
    counted = Counted(MIXTURE)
    row, first = METHODS[method], model().first_answer()
    options = {"grid": lambda n: log_snr(n, 10.0, 0.01), "order": row.order, "free_first": first}
    here = row.student(start=row.start or "ipndm-3", nfe=5, **options)
    result = learn_student(
        problem(train=12, denoise=counted),
        here,
        method,
        "gauss-newton",
        rounds=1,
        iterations=2,
        progress=False,
    )
    assert result.record["kept"] == "learned" and result.record["free_first"]["noises"] == FIRST_NOISES
    assert result.solver.first is here.free_first and result.solver.nfe == 4
    counted.nfe = 0
    solve(counted, 10 * noise(3), result.solver)
    assert counted.nfe == 4


def test_a_state_with_another_first_answer_is_of_another_run(tmp_path):
    state = {"state_file": tmp_path / "state.safetensors", "progress": False, "iterations": 1}
    learn_student(problem(train=4), student("euler", 3, free_first=MEAN), "s4s", **state)
    for other in (None, replace(MEAN, means=MEAN.means + 0.1)):
        with pytest.raises(InputError, match="another run"):
            learn_student(problem(train=4), student("euler", 3, free_first=other), "s4s", **state)


def test_the_mean_is_of_the_models_own_answers_one_a_class():
    own, sigma = model(), torch.tensor(10.0, dtype=F64)
    expected = MIXTURE(own.starts("train", FIRST_NOISES), sigma).mean(0)
    assert torch.allclose(own.first_answer().means[0], expected, atol=1e-6)
    two = classes()
    known, starts = two.first_answer(), two.starts("train", FIRST_NOISES)
    assert known.by == "label" and known.means.shape == (2, 2)
    for label in (0, 1):
        labels = torch.full((FIRST_NOISES,), label)
        assert torch.allclose(known.means[label], of_classes(starts, sigma, labels).mean(0), atol=1e-6)
    prompts = model(
        denoise=lambda x, sigma, prompt: MIXTURE(x + prompt, sigma),
        conditions=lambda split, n, first: {"prompt": torch.ones(n, 2)},
    ).first_answer()
    assert prompts.by is None and len(prompts.means) == 1


def test_files_judges_and_samplers_know_it(tmp_path):
    two, file = classes(), tmp_path / "five.safetensors"
    result = learn(
        two, 3, "s4s", start="ipndm-3", grid="logsnr", free_first=True, pairs=8, out=file, progress=False
    )
    again = Solver.load(file)
    assert again.first is not None and again.first.by == "label" and again.nfe == 3 and again.steps == 4
    assert same_bits(again, result.solver) and torch.equal(again.first.means, result.solver.first.means)
    x, labels = 10 * noise(4), {"label": torch.tensor([1, 0, 0, 1])}
    ends = solve(of_classes, x, again, labels)
    for k in range(4):
        one = solve(of_classes, x[k : k + 1], again, {"label": labels["label"][k : k + 1]})
        assert torch.allclose(ends[k], one[0])
    row = evaluate(two, again, samples=8)
    assert row["nfe"] == 3 and "(3 + 1)" in again.name
    classic = find_solver(two, "ipndm-3", 3, "logsnr", free_first=True)
    assert classic.nfe == 3 and torch.allclose(classic.first.means, again.first.means)


def test_bad_input_is_named(tmp_path):
    table = make_solver("euler", 3, GRID)
    two = table.with_first(FreeFirst(torch.zeros(2, 2), by="label"))
    for cond in ({}, {"label": torch.zeros(4)}, {"label": torch.zeros(3, dtype=torch.long)}):
        with pytest.raises(InputError, match="chosen by label, a class a sample"):
            trajectory(of_classes, 10 * noise(4), two, cond)
    with pytest.raises(InputError, match="2 classes alone"):
        trajectory(of_classes, 10 * noise(1), two, {"label": torch.tensor([2])})
    with pytest.raises(InputError, match=r"of shape \(2,\), the states of \(3,\)"):
        solve(MIXTURE, noise(4, 3), table.with_first(MEAN))
    with pytest.raises(InputError, match="is as it was made"):
        find_solver(model(), "teacher", 5, "karras", free_first=True)
    file = tmp_path / "bad.safetensors"
    replace(two, info={}).save(file)
    with pytest.raises(InputError, match="without its record"):
        Solver.load(file)


@pytest.mark.parametrize("method", [name for name in METHODS if not name.endswith("-paper")])
def test_every_row_learns_so_by_its_own_recipe(method):
    """Objectives along the teacher's way, with gradients stopped or not, take the stored answer too."""
    few = {"pairs": 4, "iterations": 1, "progress": False, "grid": "logsnr"}
    result = learn(model(), 3, method, free_first=True, start=METHODS[method].start or "ipndm-3", **few)
    assert result.solver.nfe == 3 and result.solver.steps == 4
    assert torch.isfinite(torch.tensor(result.record["validation_best"]))

"""The designer: PLMS at first, a table for every sample, DLMS's stop-gradients, files, refusals."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.designed import POOLED, Designed, pooled, watching
from s4s_nb.distilled import Distilled
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate, sample
from s4s_nb.grids import uniform_t
from s4s_nb.learn import learn
from s4s_nb.learn import problem as module
from s4s_nb.learn.designer import designer, load_designed
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.objectives import ways_of
from s4s_nb.learn.problem import Problem
from s4s_nb.models import Model
from s4s_nb.models.bundled import load
from s4s_nb.pairs import run
from s4s_nb.runtime import on_threads
from s4s_nb.schedules import VPLinear
from s4s_nb.solvers import Solver, solve
from tests.problems import F64, MIXTURE, noise, problem

VP = VPLinear()
GRID = uniform_t(5, 10.0, 0.01, VP)


def each(x: Tensor, sigma: Tensor) -> Tensor:
    """The mixture with one level a sample, or one for all."""
    if sigma.ndim == 0:
        return MIXTURE(x, sigma)
    return torch.cat([MIXTURE(x[k : k + 1], sigma[k]) for k in range(len(x))])


MIXED = Model(each, shape=(2,), sigma_max=10.0, sigma_min=0.01, schedule=VP)


def built(model: Model = MIXED, moved: float = 0.0, nfe: int = 5, **how):
    """A student, its weights moved at random."""
    how = {"bottleneck": model is not MIXED, **how}
    grid = lambda n: uniform_t(n, model.sigma_max, model.sigma_min, VP)  # noqa: E731
    student = designer(model, **how)(grid=grid, nfe=nfe, schedule=model.schedule)
    student.move(moved * noise(1, student.coefficients.numel(), seed=5)[0], ("coefficients",))
    return student


@pytest.mark.parametrize("high_order", [True, False])
def test_at_zero_it_is_the_table_that_it_begins_as(high_order):
    student, x = built(high_order=high_order), 10 * noise(7)
    table = Distilled(GRID, high_order=high_order).solver()
    expected = solve(MIXTURE, x, table)
    assert torch.allclose(solve(each, x, student.solver()), expected, rtol=1e-9)
    levels, states = student.solver().follow(each, x)
    assert torch.allclose(levels, GRID[:, None].expand(-1, 7), rtol=1e-9) and len(states) == 6
    assert torch.allclose(student.solver().B, table.B)
    assert 7_000 < student.coefficients.numel() < 11_000


def test_every_sample_has_a_table_of_its_own():
    """Against a loop over samples written here, with the network's middle seen by a hook of its own."""
    model = load("fashion")
    solver, x = built(model, 0.3, nfe=3).solver(), model.starts("test", 3)
    assert isinstance(solver, Designed) and solver.watched is not None
    seen = []
    handle = solver.watched.register_forward_hook(lambda *a: seen.append(a[2]))
    levels, states = solver.follow(model.denoise, x)
    assert (levels[1:3].std(1) > 1e-4 * levels[1:3].mean(1)).all(), "levels differ between samples"
    for k in range(3):
        state, sigma, asked, outputs = x[k : k + 1], torch.tensor([80.0], dtype=F64), None, []
        for i in range(3):
            seen.clear()
            outputs.append(model.denoise(state, (sigma if asked is None else asked)[0]))
            h = torch.nn.functional.adaptive_avg_pool2d(seen[-1].mean(1)[:, None], POOLED).flatten(1)
            design = torch.func.functional_call(solver.design, solver.weights, (h.double(), sigma, i))
            a, after, scale = design
            assert a.shape == (1, i + 1) and float(a.sum()) == pytest.approx(1)
            assert 0.8 < float(scale) < 1.2 and float(after) < float(sigma)
            mixed = sum(float(a[0, j]) * outputs[i - j] for j in range(i + 1))
            ratio = float(after / sigma)
            state, sigma, asked = ratio * state + (1 - ratio) * mixed, after, scale * after
        assert torch.allclose(states[-1][k], state[0], atol=2e-4)
        assert float(levels[-1, k]) == pytest.approx(model.sigma_min)
    handle.remove()


def test_batches_side_by_side_see_their_own_features():
    model = load("fashion")
    solver, x = built(model, 0.3, nfe=2).solver(), model.starts("test", 6)
    whole = solve(model.denoise, x, solver)
    assert not solver.watched._forward_hooks
    with on_threads(2):
        parts = run(model.denoise, x, solver, batch=1)
    assert torch.allclose(parts, whole, atol=2e-4)


def test_features_are_those_of_the_last_call():
    module = torch.nn.Identity()
    with watching(module) as seen:
        module(torch.zeros(1, 4, 7, 7))
        module(torch.ones(2, 4, 7, 7))
        assert torch.equal(pooled(seen[0]), torch.ones(2, POOLED**2))
    with watching(None) as seen:
        assert seen == []
    assert not module._forward_hooks


def test_stopped_gradients_are_those_of_algorithm_1():
    """A state's gradient, by hand: what is older is held, and its own level."""
    student, x = built(moved=0.2), 10 * noise(4)
    solver = student.solver()
    weights = {name: w.detach().clone().requires_grad_() for name, w in solver.weights.items()}
    moving = replace(solver, weights=weights)
    levels, states = moving.follow(each, x, cut=True)
    plain = solver.follow(each, x)
    assert torch.allclose(levels, plain[0]) and all(map(torch.allclose, states, plain[1]))

    def outputs_of(count: int) -> list[Tensor]:
        found, sigma, asked = [], plain[0][0], plain[0][0]
        for i in range(count):
            kappa = (VP.alpha(sigma) / VP.alpha(asked))[:, None]
            found.append(each(kappa * plain[1][i], asked))
            _, sigma, asked = solver.row(plain[1][i], found, none, plain[0][i], i)
        return found

    none, i = torch.zeros(4, POOLED**2, dtype=F64), 2
    outputs = outputs_of(i)
    state, sigma, asked = moving.row(plain[1][i - 1], outputs, none, plain[0][i - 1], i - 1)
    kappa = (VP.alpha(sigma) / VP.alpha(asked))[:, None]
    outputs.append(each(kappa * state, asked))
    after, _, _ = moving.row(state, outputs, none, sigma, i, hold=True)
    expected = torch.autograd.grad(after.square().sum(), [*weights.values()], allow_unused=True)
    found = torch.autograd.grad(states[i + 1].square().sum(), [*weights.values()], allow_unused=True)
    assert sum(e is not None for e in expected) >= 4
    for e, f in zip(expected, found, strict=True):
        assert (e is None and f is None) or torch.allclose(e, f, rtol=1e-6, atol=1e-9)


ABLATIONS = [{}, {"scale": False}, {"learn_levels": False}, {"high_order": False}]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_it_learns_and_ablations_take_away_what_they_say(ablation):
    how = {"pairs": 20, "iterations": 12, "size": 5, "ema": 0.0, "learning_rate": 3e-2, "progress": False}
    result = learn(MIXED, 4, "dlms", student=designer(MIXED, bottleneck=False, **ablation), **how)
    assert result.record["kept"] == "learned" and result.record["family"] == "designer"
    assert result.record["objective"] == "dlms"
    levels, _ = result.solver.follow(each, MIXED.starts("test", 3))
    moved = not torch.allclose(levels, result.student.sigmas[:, None].expand(-1, 3), rtol=1e-9)
    assert moved == ablation.get("learn_levels", True)
    _, _, scale = torch.func.functional_call(
        result.solver.design, result.solver.weights, (torch.zeros(3, 64).double(), levels[1], 1)
    )
    assert bool((scale == 1).all()) == (not ablation.get("scale", True))


@pytest.mark.parametrize("name", ["fashion", "faces-latent"])
def test_it_runs_on_pixels_and_latents_from_learning_to_samples(name, tmp_path):
    model = load(name, side=64)
    how = {"pairs": 4, "validation_pairs": 2, "iterations": 1, "size": 2, "progress": False}
    result = learn(model, 2, "dlms", student=designer(model), out=tmp_path / "own.safetensors", **how)
    again = load_designed(tmp_path / "own.safetensors", model)
    images = sample(model, result.solver, 4)
    assert torch.equal(sample(model, again, 4), images) and images.shape[0] == 4
    assert again.info == result.solver.info and again.digest == result.solver.digest
    assert evaluate(model, again, 4)["nfe"] == 2
    with pytest.raises(InputError, match="not a solver file"):
        Solver.load(tmp_path / "own.safetensors")


def test_what_it_cannot_be_asked_for_is_said(tmp_path):
    with pytest.raises(InputError, match="learns a table, and a designer has none"):
        learn_student(problem(), built(), "s4s", "gauss-newton", progress=False)
    with pytest.raises(InputError, match="learns a table"):
        learn(MIXED, 3, "dlms", student=designer(MIXED, False), optimiser="bfgs", objective="end", pairs=4)
    with pytest.raises(InputError, match="bottleneck of a U-Net"):
        designer(load("faces-flow"))
    with pytest.raises(InputError, match="bottleneck of a U-Net"):
        designer(MIXED)
    plain = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01)
    with pytest.raises(InputError, match="one level a sample"):
        designer(plain, bottleneck=False)
    Distilled(GRID).solver().save(tmp_path / "table.safetensors")
    with pytest.raises(InputError, match="not a designer's file"):
        load_designed(tmp_path / "table.safetensors", MIXED)


def test_a_stopped_learning_goes_on_with_the_same_bits(tmp_path):
    def learned(stop: int | None = None):
        left = [stop]

        def asked(x: Tensor, sigma: Tensor) -> Tensor:
            if left[0] is not None and x.requires_grad:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return each(x, sigma)

        model = Model(asked, shape=(2,), sigma_max=10.0, sigma_min=0.01, schedule=VP, name="m")
        how = {"pairs": 8, "iterations": 3, "size": 4, "progress": False, "out": tmp_path / "d.safetensors"}
        return learn(model, 3, "dlms", student=designer(MIXED, bottleneck=False), **how)

    with pytest.raises(KeyboardInterrupt):
        learned(stop=14)
    assert (tmp_path / "d.work" / "dlms.safetensors").exists()
    again = learned()
    for file in tmp_path.glob("d.work/dlms*"):
        file.unlink()
    whole = learned()
    assert again.history == whole.history and again.solver.digest == whole.solver.digest


def test_evaluating_again_in_backward_gives_the_same_gradient(monkeypatch):
    """Guards features that come out of an evaluation whose activations are not kept."""
    model, slopes = load("fashion-guided", side=64), []
    pairs = ways_of(
        model.denoise, model.starts("train", 2), make_teacher(model), model.condition("train", 2)
    )
    student = built(model, 0.1, nfe=2)
    for most in (2**40, 1):
        monkeypatch.setattr(module, "ACTIVATION_BYTES", most)
        given = Problem(model.denoise, pairs, pairs, lambda x: x.flatten(1), objective="trajectory")
        by = student.zero(("coefficients",)).requires_grad_()
        given.loss(student.moved(by, ("coefficients",)), pairs).backward()
        slopes.append(by.grad)
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-7 * float(slopes[0].abs().max()))
    assert slopes[0].any()


def make_teacher(model: Model) -> Solver:
    return make_solver("euler", 4, model.grid("uniform"))

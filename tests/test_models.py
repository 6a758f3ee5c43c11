"""Bundled settings: one loop, one set of tables and one judge for all, and the same noise everywhere."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from s4s_nb.classic import make_solver
from s4s_nb.distances import lpips_distance
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate, judged
from s4s_nb.families import LinearMultistep
from s4s_nb.files import manifest
from s4s_nb.learn.gauss_newton import normal_equations
from s4s_nb.learn.problem import Problem
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load, load_network, reference
from s4s_nb.models.named_solvers import find_solver, learned_solvers
from s4s_nb.pairs import Pairs, part_of, run
from s4s_nb.solvers import solve
from tests.problems import MIXTURE

NAMES = list(SETTINGS)
CONDITIONAL = [name for name in NAMES if SETTINGS[name].guidance_scale is not None]
COEFFICIENTS = ("coefficients",)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_runs_every_kind_of_solver(name):
    model = load(name)
    calls = 1 if SETTINGS[name].guidance_scale in (None, 1) else 2
    for solver in ("euler", "ipndm-3", "unipc-2-bh2", "dpm-2s"):
        row, images = judged(model, make_solver(solver, 4, model.grid("logsnr")), samples=4)
        assert row["nfe"] == 4 * calls
        assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_evaluations_come_closer_to_the_teacher(name):
    model = load(name)
    few, many = (evaluate(model, make_solver("dpmpp-2m", n, model.grid("karras")), 4) for n in (4, 24))
    assert many["lpips"] < 0.5 * few["lpips"] and many["rmse"] < 0.5 * few["rmse"]


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_teacher_is_what_the_teacher_draws(name):
    """Also: sample k depends neither on the batch nor on the samples beside it, label included."""
    model = load(name)
    chosen = torch.tensor([0, 7])
    starts, cond = model.starts("test", 8)[chosen], part_of(model.condition("test", 8), chosen)
    ends = run(model.denoise, starts, model.teacher(), cond)
    stored = reference(name).teacher[chosen]
    assert (model.images(ends) - stored).square().mean().sqrt() < 0.02  # stored in half precision
    assert model.reference is not None and torch.equal(model.reference.teacher, reference(name).teacher)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_reach_the_network(name):
    model = load(name)
    x, sigma = model.starts("test", 3), torch.tensor(5.0, dtype=torch.float64)
    label = model.condition("test", 3)["label"]
    classes = model.network.call.classes
    assert label.tolist() == [0, 1, 2] and classes > 2
    moved = model.denoise(x, sigma, label=(label + 1) % classes)
    assert (model.denoise(x, sigma, label=label) - moved).abs().max() > 0.01


@pytest.mark.parametrize("name", CONDITIONAL)
def test_guidance_is_between_the_conditional_and_the_unconditional_prediction(name):
    """D = D_u + w (D_c − D_u), each at the network; at weight 1 the unconditional one is not asked."""
    model, plain = load(name), load(name, guidance_scale=1.0)
    x, sigma, cond = model.starts("test", 3), torch.tensor(5.0).double(), model.condition("test", 3)
    without = {"label": torch.full((3,), model.network.call.classes)}
    w = SETTINGS[name].guidance_scale or 0.0
    d_c, d_u = (plain.denoise(x, sigma, **c) for c in (cond, without))
    assert plain.network.nfe == 2
    assert model.denoise(x, sigma, **cond).allclose(d_u + w * (d_c - d_u), atol=1e-5)
    assert model.network.nfe == 2 and not d_c.allclose(d_u, atol=1e-3)
    assert load(name, guidance_scale=1.0).reference is None, "only as bundled has it a stored teacher"


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_the_identity_at_the_last_level_and_bounded_at_the_first(name):
    model = load(name)
    cond = model.condition("test", 2)
    images = run(model.denoise, model.starts("test", 2), model.teacher(), cond)
    first, last = (torch.tensor(sigma).double() for sigma in (model.sigma_max, model.sigma_min))
    assert (model.denoise(images, last, **cond) - images).abs().mean() < 3 * model.sigma_min + 0.01
    assert model.denoise(model.starts("test", 2), first, **cond).abs().max() < 5


@pytest.mark.parametrize(("derivatives", "tolerance"), [("differences", 0.08), ("tangents", 1e-3)])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_least_squares_is_that_of_backpropagation(name, derivatives, tolerance):
    """Jᵀr = ½ ∇ Σ ‖e(x) − e(y)‖²; the embedding of a latent setting goes through the decoder."""
    model = load(name, side=64)
    student = LinearMultistep("dpmpp-2m", model.grid("logsnr")(3), order=2)
    starts, cond = model.starts("train", 2), model.condition("train", 2)
    targets = run(model.denoise, starts, make_solver("dpmpp-2m", 12, model.grid("karras")), cond)
    zero = student.zero(COEFFICIENTS).requires_grad_()
    ends = solve(model.denoise, starts, student.moved(zero, COEFFICIENTS), cond)
    (0.5 * (model.embed(ends) - model.embed(targets)).square().sum()).backward()
    pairs = Pairs(starts, targets, cond)
    problem = Problem(model.denoise, pairs, pairs, model.embed)
    with sdpa_kernel(SDPBackend.MATH):
        _, gradient = normal_equations(problem, student, zero.detach(), COEFFICIENTS, derivatives)
    assert zero.grad is not None
    assert (gradient - zero.grad).norm() < tolerance * zero.grad.norm()


@pytest.mark.parametrize("name", ["fashion", "faces-latent"])
@pytest.mark.parametrize("side", [64, 128])
def test_the_distance_is_that_of_its_embedding_at_its_side(name, side):
    model = load(name, side=side)
    x, y = (0.5 * torch.randn(2, 2, *model.shape, generator=torch.Generator().manual_seed(0))).unbind()
    enlarged = [F.interpolate(model.decode(z), size=(side, side), mode="bilinear") for z in (x, y)]
    apart = (model.embed(x) - model.embed(y)).square().sum(1)
    assert apart.allclose(lpips_distance()(*enlarged), rtol=1e-4)
    other = lpips_distance(side=192 - side)(*map(model.decode, (x, y)))
    assert not apart.allclose(other, rtol=1e-2)


def test_learned_solvers_are_had_by_name():
    for name in NAMES:
        model, learned = load(name), learned_solvers(name)
        for (method, nfe), file in learned.items():
            solver = find_solver(model, method, nfe, "logsnr")
            assert solver.nfe == nfe and solver.info["model"] == name, file
            assert solver.sigmas[0] == model.sigma_max
        assert ("s4s", 5) in learned
    with pytest.raises(InputError, match="bundled for fashion at NFE .* not at 99"):
        find_solver(load("fashion"), "s4s", 99, "logsnr")
    with pytest.raises(InputError, match="Unknown"):
        find_solver(load("fashion"), "s5s", 5, "logsnr")
    assert find_solver(load("fashion"), "teacher", 5, "logsnr").nfe == 60


def test_everything_in_the_manifest_fits_the_budget():
    assert sum(entry["bytes"] for entry in manifest().values()) < 60e6


def test_labels_are_neither_forgotten_nor_ignored():
    conditional, plain = load("fashion-guided"), load("fashion")
    sigma = torch.tensor(5.0).double()
    with pytest.raises(InputError, match="takes a label a sample"):
        conditional.denoise(conditional.starts("test", 1), sigma)
    with pytest.raises(InputError, match="takes no label"):
        plain.denoise(plain.starts("test", 1), sigma, label=torch.tensor([0]))


def test_a_guidance_weight_is_for_guided_models():
    with pytest.raises(InputError, match="fashion is unconditional"):
        load("fashion", guidance_scale=2.0)
    with pytest.raises(InputError, match="Unknown model 'mnist'"):
        load("mnist")


def test_networks_loaded_within_inference_mode_still_pass_gradients():
    load_network.cache_clear()
    lpips_distance.cache_clear()
    with torch.inference_mode():
        model = load("fashion", side=64)
        lpips_distance(side=64)
    x = model.starts("train", 1).requires_grad_()
    sigma = torch.tensor(80.0, dtype=torch.float64)
    model.embed(model.denoise(x, sigma)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


# ---------------------------------------------------------------- anybody's model


def test_a_model_of_ones_own_needs_its_denoiser_its_shape_and_its_levels():
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01)
    assert model.reference is None and not model.has_images and model.condition("test", 3) == {}
    assert model.teacher().nfe == 60 and model.teacher(refine=2).nfe == 120
    pairs = model.pairs("train", 4, first=2, progress=False)
    assert torch.equal(pairs.starts, model.starts("train", 6)[2:])
    assert pairs.targets.allclose(run(MIXTURE, pairs.starts, model.teacher()))
    assert model.network.nfe == 2 + 60  # after two looks, counted at its denoiser
    assert torch.equal(model.embed(pairs.targets), pairs.targets)  # the numbers themselves
    own = make_solver("euler", 3, model.grid("karras"))
    assert replace(model, teacher_solver=own).teacher() is own


def test_conditions_of_ones_own_are_drawn_by_the_number_of_the_sample():
    def drawn(split: str, count: int, first: int):
        return {"shift": torch.arange(first, first + count).double()[:, None]}

    def denoise(x, sigma, shift):
        return MIXTURE(x - shift, sigma) + shift

    model = Model(denoise, shape=(2,), sigma_max=10.0, sigma_min=0.01, conditions=drawn)
    pairs = model.pairs("train", 30, first=3, progress=False)  # more than a batch
    assert pairs.cond["shift"].flatten().tolist() == list(range(3, 33))
    alone = run(lambda x, s: MIXTURE(x - 7, s) + 7, pairs.starts[4:5], model.teacher())
    assert pairs.targets[4:5].allclose(alone)


@pytest.mark.parametrize("levels", [(0.01, 10.0), (10.0, 0.0), (1.0, 1.0)])
def test_a_model_is_sampled_from_high_to_low(levels):
    with pytest.raises(InputError, match="sigma_max down to sigma_min > 0"):
        Model(MIXTURE, (2,), *levels)

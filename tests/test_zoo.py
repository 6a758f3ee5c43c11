"""Bundled settings: one loop, one set of tables and one judge for all, and the same noise everywhere."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from s4s_nb.classic import make_solver
from s4s_nb.distances import lpips_distance
from s4s_nb.errors import InputError
from s4s_nb.families import linear_multistep_family
from s4s_nb.files import manifest
from s4s_nb.gauss_newton import normal_equations
from s4s_nb.judge import judge, reference
from s4s_nb.solvers import sample
from s4s_nb.teachers import Pairs, bound, run
from s4s_nb.zoo import SETTINGS, load_model, load_network

NAMES = list(SETTINGS)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_runs_every_kind_of_solver(name):
    model = load_model(name)
    calls = 1 if model.setting.guidance_scale in (None, 1) else 2
    for solver in ("euler", "ipndm-3", "unipc-2-bh2", "dpm-2s"):
        row, images = judge(model, make_solver(solver, 4, model.grid("logsnr")), samples=4)
        assert row["nfe"] == 4 * calls
        assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_evaluations_come_closer_to_the_teacher(name):
    model = load_model(name)
    few, many = (judge(model, make_solver("dpmpp-2m", n, model.grid("karras")), 4)[0] for n in (4, 24))
    assert many["lpips"] < 0.5 * few["lpips"] and many["rmse"] < 0.5 * few["rmse"]


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_teacher_is_what_the_teacher_draws(name):
    """Also: sample k depends neither on the batch nor on the samples beside it, label included."""
    model = load_model(name)
    chosen = torch.tensor([0, 7])
    starts, labels = model.starts("test", 8)[chosen], model.labels(8)
    labels = None if labels is None else labels[chosen]
    ends = run(model.denoise, starts, model.teacher(), labels)
    stored = reference(name).teacher[chosen]
    assert (model.images(ends) - stored).square().mean().sqrt() < 0.02  # stored in half precision


@pytest.mark.parametrize("name", [name for name in NAMES if SETTINGS[name].guidance_scale is not None])
def test_labels_reach_the_network(name):
    model = load_model(name)
    x, sigma = model.starts("test", 3), torch.tensor(5.0, dtype=torch.float64)
    labels = model.labels(3)
    assert labels is not None
    moved = model.given((labels + 1) % model.classes)(x, sigma)
    assert (model.given(labels)(x, sigma) - moved).abs().max() > 0.01
    assert bound(model.denoise, labels)(x, sigma).allclose(model.given(labels)(x, sigma))


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_the_identity_at_the_last_level_and_bounded_at_the_first(name):
    model = load_model(name)
    s = model.setting
    images = run(model.denoise, model.starts("test", 2), model.teacher(), model.labels(2))
    denoise = bound(model.denoise, model.labels(2))
    assert (
        denoise(images, torch.tensor(s.sigma_min).double()) - images
    ).abs().mean() < 3 * s.sigma_min + 0.01
    assert denoise(model.starts("test", 2), torch.tensor(s.sigma_max).double()).abs().max() < 5


@pytest.mark.parametrize(("derivatives", "tolerance"), [("differences", 0.08), ("tangents", 1e-3)])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_least_squares_is_that_of_backpropagation(name, derivatives, tolerance):
    """Jᵀr = ½ ∇ Σ ‖e(x) − e(y)‖²; the embedding of a latent setting goes through the decoder."""
    model = load_model(name)
    family = linear_multistep_family("dpmpp-2m", model.grid("logsnr")(3), order=2)
    starts, labels = model.starts("train", 2), model.labels(2)
    targets = run(model.denoise, starts, make_solver("dpmpp-2m", 12, model.grid("karras")), labels)
    zero = family.zero.requires_grad_()
    ends = sample(bound(model.denoise, labels), starts, family.table(zero))
    (0.5 * (model.embed(ends) - model.embed(targets)).square().sum()).backward()
    pairs = Pairs(starts, targets, labels)
    with sdpa_kernel(SDPBackend.MATH):
        _, gradient = normal_equations(
            model.denoise, family, zero.detach(), pairs, model.embed, derivatives
        )
    assert zero.grad is not None
    assert (gradient - zero.grad).norm() < tolerance * zero.grad.norm()


@pytest.mark.parametrize("name", ["fashion", "faces-latent"])
@pytest.mark.parametrize("side", [64, 128])
def test_the_distance_is_that_of_its_embedding_at_its_side(name, side):
    model = replace(load_model(name), side=side)
    x, y = torch.randn(2, 2, *model.setting.shape, generator=torch.Generator().manual_seed(0)).unbind()
    enlarged = [F.interpolate(model.decode(z), size=(side, side), mode="bilinear") for z in (x, y)]
    assert model.distance(x, y).allclose(lpips_distance()(*enlarged), rtol=1e-4)
    apart = (model.embed(x) - model.embed(y)).square().sum(1)
    assert apart.allclose(model.distance(x, y), rtol=1e-4)


def test_learned_solvers_are_had_by_name():
    for name in NAMES:
        model = load_model(name)
        for (method, nfe), file in model.learned().items():
            solver = model.solver(method, nfe, "logsnr")
            assert solver.nfe == nfe and solver.info["model"] == name, file
            assert (solver.sigmas[0], solver.info["method"]) == (model.setting.sigma_max, method)
        assert ("s4s", 5) in model.learned()
    with pytest.raises(InputError, match="bundled for fashion at NFE .* not at 99"):
        load_model("fashion").solver("s4s", 99, "logsnr")
    with pytest.raises(InputError, match="Unknown"):
        load_model("fashion").solver("s5s", 5, "logsnr")


def test_everything_in_the_manifest_fits_the_budget():
    assert sum(entry["bytes"] for entry in manifest().values()) < 60e6


def test_labels_are_neither_forgotten_nor_ignored():
    conditional, plain = load_model("fashion-guided"), load_model("fashion")
    with pytest.raises(InputError, match="pass a label"):
        bound(conditional.denoise, None)
    with pytest.raises(InputError, match="takes no labels"):
        bound(plain.denoise, torch.tensor([0]))


def test_networks_loaded_within_inference_mode_still_pass_gradients():
    load_network.cache_clear()
    lpips_distance.cache_clear()
    with torch.inference_mode():
        model = load_model("fashion")
        lpips_distance()
    x = model.starts("train", 1).requires_grad_()
    sigma = torch.tensor(80.0, dtype=torch.float64)
    model.embed(bound(model.denoise, None)(x, sigma)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0

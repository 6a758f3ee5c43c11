"""Families: the classic solver at zero, as many parameters as the papers say, exactness, gradients."""

from functools import partial

import pytest
import torch

from s4s_nb.classic import MULTISTEP, UNIPC, make_solver
from s4s_nb.errors import InputError
from s4s_nb.families import (
    Family,
    linear_multistep_family,
    predictor_corrector_family,
    single_step_family,
)
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.grids import karras, log_snr, uniform_t
from s4s_nb.learn import end_point_loss
from s4s_nb.schedules import VPLinear
from s4s_nb.solvers import sample
from tests.problems import F64
from tests.test_learn import MIXTURE, distance, pairs

GRIDS = {
    "karras": lambda n: karras(n, 80.0, 0.002),
    "log-SNR": lambda n: log_snr(n, 80.0, 0.002),
    "uniform": lambda n: uniform_t(n, 80.0, 0.002, VPLinear()),
}
MULTI = [name for name in MULTISTEP if name not in ("ab4", "ipndm-4")]
STARTS = [*MULTI, *UNIPC, "heun", "dpm-2s", "dpm-3s"]


def family_of(start: str, nfe: int, grid, **options) -> Family:
    """The family that a classic solver belongs to."""
    if start in UNIPC:
        return predictor_corrector_family(start, grid(nfe), **options)
    if start in MULTISTEP:
        return linear_multistep_family(start, grid(nfe), **options)
    return single_step_family(start, nfe, grid, **options)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("nfe", [1, 3, 5, 8])
@pytest.mark.parametrize("start", STARTS)
def test_zero_parameters_are_the_classic_solver(start, nfe, grid):
    family = family_of(start, nfe, GRIDS[grid])
    learned = family.table(torch.zeros(family.size, dtype=F64))
    classic = make_solver(start, nfe, GRIDS[grid])
    for key in ("sigmas", "A", "B"):
        ours, theirs = getattr(learned, key), getattr(classic, key)
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("start", ["dpmpp-2m", "unipc-3-bh2"])
def test_the_start_may_have_its_order_lowered_at_the_end(start):
    grid = GRIDS["karras"]
    family = family_of(start, 5, grid, lower_final=True)
    classic = make_solver(start, 5, grid, lower_final=True)
    assert torch.equal(family.table(torch.zeros(family.size, dtype=F64)).B, classic.B)
    assert not torch.equal(classic.B, make_solver(start, 5, grid).B)


@pytest.mark.parametrize("nfe, order, count", [(3, 3, 6), (5, 3, 12), (10, 3, 27), (5, 5, 15)])
def test_parameter_count_of_linear_multistep(nfe, order, count):
    """m = kN − k(k−1)/2, and N fewer where the coefficients sum to 1."""
    grid = GRIDS["karras"](nfe)
    assert linear_multistep_family("ipndm-3", grid, order).size == count
    assert linear_multistep_family("ipndm-3", grid, order, consistent=True).size == count - nfe


@pytest.mark.parametrize("nfe", [3, 5, 8])
def test_parameter_count_of_predictor_corrector(nfe):
    """2m + N − 1 − k."""
    m = linear_multistep_family("ipndm-3", GRIDS["karras"](nfe)).size
    assert family_of("unipc-3-bh2", nfe, GRIDS["karras"]).size == 2 * m + nfe - 1 - 3


@pytest.mark.parametrize(
    "start, nfe, count", [("heun", 4, 6), ("dpm-2s", 4, 8), ("dpm-2s", 5, 9), ("dpm-3s", 6, 16)]
)
def test_parameter_count_of_single_step(start, nfe, count):
    """s(s + 1)/2 weights a step of s stages, and its nodes."""
    assert family_of(start, nfe, GRIDS["karras"]).size == count


def test_a_start_with_more_history_than_the_family_is_refused():
    for start in ("ipndm-4", "unipc-3-bh1"):
        with pytest.raises(InputError, match="higher order"):
            family_of(start, 5, GRIDS["karras"], order=2)


def test_a_single_step_family_needs_a_level_above_zero():
    with pytest.raises(InputError, match="above 0"):
        single_step_family(
            "dpm-2s", 4, lambda n: torch.cat([karras(n - 1, 80.0, 0.1), torch.zeros(1).double()])
        )


@pytest.mark.parametrize("start", ["dpmpp-3m", "exp-ab3", "unipc-3-bh2", "unipc-2-bh1"])
def test_a_consistent_data_form_is_exact_on_a_constant_denoiser(start):
    """D = d everywhere: x_N = d + (σ_N/σ_0)(x_0 − d), whatever the parameters."""
    grid = GRIDS["log-SNR"]
    family = family_of(start, 5, grid, consistent=True)
    parameters = torch.randn(family.size, dtype=F64, generator=torch.Generator().manual_seed(0))
    x, d = torch.tensor([[80.0, -40.0]], dtype=F64), torch.tensor([[0.5, 2.0]], dtype=F64)
    end = sample(lambda x, sigma: d, x, family.table(parameters))
    assert (end - (d + 0.002 / 80 * (x - d))).abs().max() < 1e-10
    free = family_of(start, 5, grid)
    parameters = torch.full((free.size,), 0.1, dtype=F64)
    assert (sample(lambda x, sigma: d, x, free.table(parameters)) - end).abs().max() > 1e-3


@pytest.mark.parametrize("start", ["ipndm-3", "deis-2", "heun", "dpm-2s", "dpm-3s"])
def test_a_consistent_noise_form_is_exact_on_a_constant_noise(start):
    """ε = e everywhere: x_N = x_0 + (σ_N − σ_0) e, whatever the coefficients (nodes at rest)."""
    grid = GRIDS["log-SNR"]
    options = {"nodes": False} if start not in MULTISTEP else {}
    family = family_of(start, 5, grid, consistent=True, **options)
    parameters = torch.randn(family.size, dtype=F64, generator=torch.Generator().manual_seed(0))
    x, e = torch.tensor([[3.0, -1.0]], dtype=F64), torch.tensor([[0.5, 2.0]], dtype=F64)
    end = sample(lambda x, sigma: x - sigma * e, x, family.table(parameters))
    assert (end - (x + (0.002 - 80) * e)).abs().max() < 1e-8


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "unipc-3-bh2", "heun", "dpm-2s", "dpm-3s"])
def test_gradient_in_the_parameters(start, consistent):
    """Against central differences, at a point away from the classic solver."""
    family = family_of(start, 4, partial(log_snr, sigma_max=10.0, sigma_min=0.01), consistent=consistent)
    data = pairs("train", 6)
    generator = torch.Generator().manual_seed(0)
    point = 0.1 * torch.randn(family.size, generator=generator, dtype=F64)

    def loss(parameters):
        return end_point_loss(MIXTURE, family.table(parameters), data, distance)

    learned = point.clone().requires_grad_()
    loss(learned).backward()
    h, numeric = 1e-6, torch.zeros_like(point)
    for k, direction in enumerate(torch.eye(family.size, dtype=F64)):
        numeric[k] = (loss(point + h * direction) - loss(point - h * direction)) / (2 * h)
    assert learned.grad is not None
    assert (learned.grad - numeric).abs().max() < 1e-5 * numeric.abs().max()


@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "unipc-3-bh2", "heun", "dpm-2s", "dpm-3s"])
def test_every_family_improves_on_unseen_noise(start):
    family = family_of(start, 4, partial(log_snr, sigma_max=10.0, sigma_min=0.01))
    learned = learn_gauss_newton(
        MIXTURE, family, pairs("train", 100), pairs("validation", 50), lambda x: x, progress=False
    )
    test = pairs("test", 200)
    classic = family.table(torch.zeros(family.size, dtype=F64))
    before, after = (end_point_loss(MIXTURE, s, test, distance) for s in (classic, learned.solver))
    assert after < 0.9 * before

"""Families: the classic solver at zero, moved levels, parameter counts, exactness, gradients."""

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
from s4s_nb.grids import GRIDS, karras, log_snr, make_grid
from s4s_nb.learn import end_point_loss
from s4s_nb.multistep import linear_multistep, polynomial_weights
from s4s_nb.schedules import Flow, VPLinear
from s4s_nb.solvers import Solver, sample
from tests.problems import F64, to_zero
from tests.test_learn import MIXTURE, distance, pairs

RANGES = {"VE": (80.0, 0.002, VPLinear()), "flow": (1000.0, 0.005, Flow())}  # those of bundled models
MULTI = [name for name in MULTISTEP if name not in ("ab4", "ipndm-4")]
STARTS = [*MULTI, *UNIPC, "heun", "dpm-2s", "dpm-3s"]
A_START_OF_EACH_KIND = ["ipndm-3", "dpmpp-3m", "flow-ab3", "unipc-3-bh2", "heun", "dpm-2s", "dpm-3s"]


def steps_of(grid: str, range_: str = "VE"):
    """steps → levels."""
    high, low, schedule = RANGES[range_]
    return lambda steps: make_grid(grid, steps, high, low, schedule)


def family_of(start: str, nfe: int, grid, **options) -> Family:
    """The family that a classic solver belongs to."""
    if start in UNIPC:
        return predictor_corrector_family(start, grid(nfe), **options)
    if start in MULTISTEP:
        return linear_multistep_family(start, grid(nfe), **options)
    return single_step_family(start, nfe, grid, **options)


def at_zero(family: Family, sigmas=None) -> Solver:
    """A family's table with all parameters zero."""
    return family.table(family.zero, sigmas)


def same(one: Solver, other: Solver) -> bool:
    """Whether two tables agree to 1e-12."""
    pairs_of = ((getattr(one, key), getattr(other, key)) for key in ("sigmas", "A", "B"))
    return all((a - b).abs().max() <= 1e-12 * b.abs().max() for a, b in pairs_of)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize("start", STARTS)
def test_zero_parameters_are_the_classic_solver(start, range_, grid):
    levels = steps_of(grid, range_)
    for nfe in (1, 3, 8):
        assert same(at_zero(family_of(start, nfe, levels)), make_solver(start, nfe, levels))


@pytest.mark.parametrize("start", MULTI + list(UNIPC))
def test_zero_parameters_are_the_classic_solver_to_a_last_level_of_0(start):
    def levels(n):
        return to_zero(karras(n - 1, 80.0, 0.002))

    assert same(at_zero(family_of(start, 5, levels)), make_solver(start, 5, levels))


MOVED = steps_of("karras")
REFERENCE = steps_of("logsnr")


@pytest.mark.parametrize("start", STARTS)
def test_a_residual_is_the_classic_solver_wherever_the_levels_move(start):
    family = family_of(start, 6, REFERENCE)
    moved = MOVED(len(family.sigmas) - 1)
    assert same(at_zero(family, moved), make_solver(start, 6, MOVED))


@pytest.mark.parametrize("start", ["ipndm-3", "ab3", "dpmpp-3m", "flow-ab3", "unipc-3-bh2"])
def test_residual_and_absolute_coefficients(start):
    """One family on its own grid, two on moved levels, but for iPNDM, whose weights are fixed numbers."""
    residual, absolute = (family_of(start, 6, REFERENCE, absolute=held) for held in (False, True))
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(residual.size, generator=generator, dtype=F64)
    assert same(absolute.table(parameters), residual.table(parameters))
    moved = MOVED(6)
    assert same(absolute.table(parameters, moved), residual.table(parameters, moved)) == (
        start == "ipndm-3"
    )
    assert same(at_zero(absolute, moved), make_solver(start, 6, MOVED)) == (start == "ipndm-3")


def test_absolute_coefficients_are_those_of_the_reference_grid():
    absolute = family_of("ab3", 6, REFERENCE, absolute=True)
    held = linear_multistep(MOVED(6), polynomial_weights(REFERENCE(6), 3, lambda s: s), "noise")
    assert same(at_zero(absolute, MOVED(6)), held)


@pytest.mark.parametrize("start", ["dpmpp-2m", "unipc-3-bh2", "dpm-2s"])
def test_levels_unlike_the_family_s_own_are_refused(start):
    family = family_of(start, 6, REFERENCE)
    n = len(family.sigmas) - 1
    for levels in (MOVED(n + 1), MOVED(1), to_zero(MOVED(n - 1))):
        with pytest.raises(InputError, match=f"needs {n + 1} levels that end above 0"):
            at_zero(family, levels)
    with pytest.raises(InputError, match="fall strictly"):
        at_zero(family, MOVED(n).flip(0))
    with pytest.raises(InputError, match=f"has {family.size} parameters; got {family.size + 1}"):
        family.table(torch.zeros(family.size + 1, dtype=F64))


@pytest.mark.parametrize("start", ["dpmpp-2m", "unipc-3-bh2"])
def test_the_start_may_have_its_order_lowered_at_the_end(start):
    grid = steps_of("karras")
    family = family_of(start, 5, grid, lower_final=True)
    classic = make_solver(start, 5, grid, lower_final=True)
    assert torch.equal(family.table(family.zero).B, classic.B)
    assert not torch.equal(classic.B, make_solver(start, 5, grid).B)


COUNTS = {3: 6, 4: 9, 5: 12, 6: 15, 7: 18, 8: 21, 10: 27}
"""m = kN − k(k−1)/2 for k = 3."""


@pytest.mark.parametrize("nfe", COUNTS)
@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "flow-ab3"])
def test_parameter_count_of_linear_multistep(start, nfe):
    """m, and N fewer where the coefficients sum to 1; N(N+1)/2 with the whole history."""
    grid = steps_of("karras")
    assert family_of(start, nfe, grid).size == COUNTS[nfe]
    assert family_of(start, nfe, grid, consistent=True).size == COUNTS[nfe] - nfe
    assert family_of(start, nfe, grid, order=nfe).size == nfe * (nfe + 1) // 2


@pytest.mark.parametrize("nfe", COUNTS)
def test_parameter_count_of_predictor_corrector(nfe):
    """2m + N − 1 − k, and one fewer in each of the 2N − 1 rows that sum to 1."""
    count = 2 * COUNTS[nfe] + nfe - 1 - 3
    assert family_of("unipc-3-bh2", nfe, steps_of("karras")).size == count
    assert family_of("unipc-3-bh2", nfe, steps_of("karras"), consistent=True).size == count - (2 * nfe - 1)


@pytest.mark.parametrize(
    "start, nfe, count", [("heun", 4, 6), ("dpm-2s", 4, 8), ("dpm-2s", 5, 9), ("dpm-3s", 6, 16)]
)
def test_parameter_count_of_single_step(start, nfe, count):
    """s(s + 1)/2 weights a step of s stages, and its nodes."""
    assert family_of(start, nfe, steps_of("karras")).size == count


def test_a_start_with_more_history_than_the_family_is_refused():
    for start in ("ipndm-4", "unipc-3-bh1"):
        with pytest.raises(InputError, match="higher order"):
            family_of(start, 5, steps_of("karras"), order=2)


def test_a_single_step_family_needs_a_level_above_zero():
    with pytest.raises(InputError, match="above 0"):
        single_step_family("dpm-2s", 4, lambda n: to_zero(karras(n - 1, 80.0, 0.1)))


@pytest.mark.parametrize(
    "start", ["ipndm-3", "dpmpp-3m", "exp-ab3", "flow-ab3", "flow-ab1", "unipc-3-bh2", "unipc-2-bh1"]
)
def test_a_consistent_family_is_exact_on_a_constant_denoiser(start):
    """D = d everywhere: x_N = d + (σ_N/σ_0)(x_0 − d), whatever the parameters and the form."""
    grid = steps_of("logsnr")
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
    grid = steps_of("logsnr")
    options = {"nodes": False} if start not in MULTISTEP else {}
    family = family_of(start, 5, grid, consistent=True, **options)
    parameters = torch.randn(family.size, dtype=F64, generator=torch.Generator().manual_seed(0))
    x, e = torch.tensor([[3.0, -1.0]], dtype=F64), torch.tensor([[0.5, 2.0]], dtype=F64)
    end = sample(lambda x, sigma: x - sigma * e, x, family.table(parameters))
    assert (end - (x + (0.002 - 80) * e)).abs().max() < 1e-8


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("start", A_START_OF_EACH_KIND)
def test_gradient_of_the_table_in_parameters_and_levels(start, consistent):
    """Against finite differences, every entry, away from the classic solver and from the family's grid."""
    family = family_of(start, 4, partial(log_snr, sigma_max=10.0, sigma_min=0.01), consistent=consistent)
    generator = torch.Generator().manual_seed(0)
    point = 0.1 * torch.randn(family.size, generator=generator, dtype=F64)
    levels = karras(len(family.sigmas) - 1, 10.0, 0.01)

    def entries(parameters, moved):
        table = family.table(parameters, moved)
        return torch.cat([table.A.flatten(), table.B.flatten(), table.sigmas])

    at = (point.requires_grad_(), levels.requires_grad_())
    assert torch.autograd.gradcheck(entries, at, eps=1e-7, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("start", A_START_OF_EACH_KIND)
def test_gradient_of_a_loss_in_the_parameters(start, consistent):
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


@pytest.mark.parametrize("start", A_START_OF_EACH_KIND)
def test_every_family_improves_on_unseen_noise(start):
    family = family_of(start, 4, partial(log_snr, sigma_max=10.0, sigma_min=0.01))
    learned = learn_gauss_newton(
        MIXTURE, family, pairs("train", 100), pairs("validation", 50), lambda x: x, progress=False
    )
    test = pairs("test", 200)
    classic = family.table(family.zero)
    before, after = (end_point_loss(MIXTURE, s, test, distance) for s in (classic, learned.solver))
    assert after < 0.9 * before

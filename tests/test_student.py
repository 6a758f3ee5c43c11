"""Students: a classic solver to the bit at zero, gradients of every part, and moves that stay."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4s_nb.classic import MULTISTEP, UNIPC, make_solver
from s4s_nb.denoisers import from_noise
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.grids import GRIDS, karras, make_grid
from s4s_nb.levels import LOG, SHARES
from s4s_nb.schedules import Flow, VPCosine, VPLinear
from s4s_nb.single_step import LADDERS
from s4s_nb.solvers import solve
from s4s_nb.student import PARTS
from tests.problems import F64, TABLE, noise, same_bits, student, to_zero

VP = VPLinear()
CLOCKS = {
    "log": LOG,
    "sigma": (lambda s: s, lambda s: s),
    "native": (VP.time, VP.level),
    "cosine": (VPCosine().time, VPCosine().level),
    "flow": (Flow().time, Flow().level),
}
RANGES = {"VE": (80.0, 0.002, VP), "flow": (1000.0, 0.005, Flow())}  # those of bundled models
A_START_OF_EACH = ["ipndm-3", "dpmpp-3m", "deis-3", "unipc-3-bh2", "heun", "dpm-2s", "dpm-3s"]
STARTS = [*(name for name in MULTISTEP if name not in ("ab4", "ipndm-4")), *UNIPC, *LADDERS]


def grid_of(name: str, range_: str = "VE"):
    """steps → levels."""
    high, low, native = RANGES[range_]
    return lambda steps: make_grid(name, steps, high, low, native)


@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize("start", STARTS)
def test_zero_is_the_classic_solver_to_the_bit_on_every_grid_by_every_clock_and_kind(start, range_):
    """Guards that what a clock rounds does not show where nothing moves."""
    for name in GRIDS:
        for nfe in (1, 8):
            grid = grid_of(name, range_)
            assert same_bits(student(start, nfe, grid).solver(), make_solver(start, nfe, grid))
    grid = grid_of("uniform", range_)
    classic = make_solver(start, 5, grid, schedule=VPCosine())
    for clock in CLOCKS.values():
        for kind in SHARES:
            here = student(start, 5, grid, clock=clock, kind=kind, schedule=VPCosine(), held="noise")
            assert same_bits(here.solver(), classic)


@pytest.mark.parametrize("start", [name for name in STARTS if name not in LADDERS])
def test_zero_is_the_classic_solver_to_a_last_level_of_0(start):
    """There log σ is infinite, so the levels stay; σ itself can still move them."""

    def grid(n):
        return to_zero(karras(n - 1, 80.0, 0.002))

    fixed, free = (student(start, 5, grid, clock=clock) for clock in (LOG, CLOCKS["sigma"]))
    for here in (fixed, free):
        assert same_bits(here.solver(), make_solver(start, 5, grid))
    assert not fixed.levels.numel() and not fixed.offsets.numel()
    with pytest.raises(InputError, match="no levels and no offsets"):
        fixed.sizes(("levels", "offsets"))
    moved = free.moved(torch.full((4,), 0.3, dtype=F64), ("levels",))
    assert moved.sigmas[-1] == 0 and (moved.sigmas[1:-1] != free.sigmas[1:-1]).all()


def test_moves_add_up_and_stay():
    """Guards in-place moves: those of a turn must be what the next turn starts from."""
    here = student("unipc-3-bh2")
    first, second = (0.1 * noise(1, sum(here.sizes()), seed=seed)[0] for seed in (1, 2))
    there = here.moved(first + second, PARTS)
    here.move(first, PARTS)
    assert torch.allclose(here.moved(second, PARTS).B, there.B, rtol=1e-12)
    assert not same_bits(here.solver(), there)
    here.move(second, PARTS)
    assert torch.allclose(here.solver().B, there.B, rtol=1e-12)
    assert torch.allclose(here.solver().model_sigmas, there.model_sigmas, rtol=1e-12)


def test_a_moved_solver_has_gradients_in_the_move_alone():
    here = student()
    by = here.zero(("levels",)).requires_grad_()
    here.moved(by, ("levels",)).B.square().sum().backward()
    assert by.grad is not None and by.grad.any()
    assert all(p.grad is None for p in here.parameters())


def test_wrong_names_and_numbers_are_refused_in_a_sentence():
    here = student()
    with pytest.raises(InputError, match="coefficients, levels, offsets"):
        here.zero(("times",))
    with pytest.raises(InputError, match="coefficients and levels of this student are 16 numbers; got 15"):
        here.moved(torch.zeros(15, dtype=F64), ("coefficients", "levels"))
    with pytest.raises(InputError, match="offsets of this student are 4 numbers; got 5"):
        here.move(torch.zeros(5, dtype=F64), ("offsets",))
    with pytest.raises(InputError, match="no levels and no offsets"):
        student("dpmpp-1", 1).zero(("levels", "offsets"))
    with pytest.raises(InputError, match="no offsets"):
        student(width=0.0).zero(("levels", "offsets"))


@pytest.mark.parametrize("start", ["dpmpp-2m", "unipc-3-bh2", "dpm-2s"])
def test_levels_unlike_the_student_s_own_are_refused(start):
    here, grid = student(start, 6), grid_of("karras")
    n = len(here.sigmas) - 1
    for levels in (grid(n + 1), grid(1), to_zero(grid(n - 1))):
        with pytest.raises(InputError, match=f"needs {n + 1} levels that end above 0"):
            here.table(levels)
    with pytest.raises(InputError, match="fall strictly"):
        here.table(grid(n).flip(0))


# ---------------------------------------------------------------- levels and offsets


@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_model_levels_keep_their_place(offsets):
    table = student().moved(torch.tensor(offsets, dtype=F64), ("offsets",))
    assert table.model_sigmas[0] == table.sigmas[0]
    gaps = (table.model_sigmas / table.sigmas[:-1]).log().abs()
    assert (gaps <= 0.5 * table.sigmas.log().diff().abs().min() + 1e-12).all()


@pytest.mark.parametrize("held", ["data", "noise"])
@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "unipc-3-bh2", "dpm-2s"])
def test_gradients_through_schedule_coefficients_and_network_time(start, held):
    """In all parts at once, on a process whose network sees its native time."""
    here = student(start, 5, schedule=VP, held=held)
    starts = 10 * noise(5)

    def network(x, t):  # nonlinear in state and time
        return torch.tanh(x + 3 * t) + 0.1 * x

    denoise = from_noise(network, VP)

    def loss(p):
        return solve(denoise, starts, here.moved(p, PARTS)).square().sum()

    size = sum(here.sizes())
    p = (0.1 * noise(1, size)[0]).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(p), p)
    for k in range(size):
        step = torch.zeros(size, dtype=F64)
        step[k] = 1e-6
        slope = (loss(p.detach() + step) - loss(p.detach() - step)) / 2e-6
        assert slope == pytest.approx(float(gradient[k]), rel=1e-5, abs=1e-5 * float(gradient.abs().max()))


@given(
    st.sampled_from(A_START_OF_EACH),
    st.sampled_from(list(CLOCKS)),
    st.sampled_from(list(SHARES)),
    st.lists(st.sampled_from([0.0, 8.0, -8.0, 36.0, -37.0, 1e3, -1e3, math.inf, math.nan]), min_size=3),
)
@settings(max_examples=60)
def test_extreme_parameters_give_a_finite_table_or_count_as_blown_up(start, clock, kind, extremes):
    """Guards learners, which take nothing but a blown-up solver for an infinite distance."""
    here = student(start, 5, clock=CLOCKS[clock], kind=kind, schedule=VP)
    size = sum(here.sizes())
    by = torch.tensor((extremes * size)[:size], dtype=F64)
    try:
        table = here.moved(by, PARTS)
    except DivergedError:
        return
    assert all(torch.isfinite(getattr(table, key)).all() for key in TABLE)
    assert (table.sigmas.diff() <= 0).all() and (table.model_sigmas > 0).all()


@pytest.mark.parametrize("start", ["unipc-3-bh2", "unipc-2-bh1", "dpmpp-3m", "deis-3"])
@pytest.mark.parametrize("gap", [1e-16, 2e-16])
def test_levels_with_one_logarithm_count_as_blown_up_or_are_told_apart(start, gap):
    levels = grid_of("logsnr")(6)
    levels[1] = levels[0] * (1 - gap)
    try:
        table = make_solver(start, 6, lambda n: levels)
    except (DivergedError, InputError) as error:
        assert isinstance(error, DivergedError) or levels[1] == levels[0]
    else:
        assert torch.isfinite(table.B).all()


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("part", ["levels", "offsets"])
def test_levels_that_are_no_numbers_count_as_blown_up_in_every_clock(clock, part):
    here = student("dpmpp-3m", 5, clock=CLOCKS[clock], schedule=VP)
    with pytest.raises(DivergedError):
        here.moved(torch.full((4,), math.nan, dtype=F64), (part,))


def test_levels_that_run_together_count_as_blown_up():
    """Guards the one error that learners take for an infinite distance."""
    for by in (torch.tensor([0.0, -800.0, 0.0, 0.0]), torch.full((4,), torch.nan)):
        with pytest.raises(DivergedError, match="run together"):
            student().moved(by.double(), ("levels",))

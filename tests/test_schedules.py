"""Noise schedules: exact inverses with gradients, and the lists that diffusers ships."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4s_nb.errors import InputError
from s4s_nb.schedules import VE, Flow, VPCosine, VPDiscrete, VPLinear
from tests.problems import F64

SCHEDULES = {
    "VE": VE(),
    "VP linear": VPLinear(),
    "VP cosine": VPCosine(),
    "flow": Flow(),
    **{f"VP discrete {k}": VPDiscrete.from_betas(k) for k in ("linear", "scaled_linear", "cosine")},
}


@pytest.mark.parametrize("name", SCHEDULES)
@given(exponent=st.floats(-3, 3))
def test_time_and_level_are_inverses(name, exponent):
    """From σ = 10⁻³ to 10³, also between and beyond the entries of a discrete list."""
    schedule, sigma = SCHEDULES[name], torch.tensor(10.0**exponent, dtype=F64)
    assert schedule.level(schedule.time(sigma)).item() == pytest.approx(sigma.item(), rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_maps_have_their_gradient(name):
    schedule = SCHEDULES[name]
    sigma = torch.tensor([0.02, 0.7, 5.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(schedule.time, sigma)
    time = schedule.time(sigma).detach().requires_grad_()
    assert torch.autograd.gradcheck(schedule.level, time)


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_is_that_of_the_process(name):
    sigma = torch.logspace(-3, 3, 13, dtype=F64)
    alpha = SCHEDULES[name].alpha(sigma)
    invariant = {"VE": alpha, "flow": alpha + alpha * sigma}.get(name, alpha**2 + (alpha * sigma) ** 2)
    assert torch.allclose(invariant, torch.ones_like(sigma), rtol=1e-12)


def test_vp_linear_near_zero_time_keeps_its_digits():
    """σ̃² = ∫β + …: no cancellation in 1/α² − 1."""
    t = torch.tensor(1e-8, dtype=F64)
    assert VPLinear().level(t).item() == pytest.approx((0.1e-8) ** 0.5, rel=1e-6)
    u0, u = (torch.pi / 2 * (v + 0.008) / 1.008 for v in (0, 1e-8))
    first_order = (2 * torch.tan(torch.tensor(u0, dtype=F64)) * (u - u0)).sqrt()
    assert VPCosine().level(t).item() == pytest.approx(first_order.item(), rel=1e-5)


@pytest.mark.parametrize(
    "ours, theirs",
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")],
)
def test_discrete_lists_are_those_of_diffusers(ours, theirs):
    diffusers = pytest.importorskip("diffusers")
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if ours == "scaled_linear" else {}
    other = diffusers.DDPMScheduler(beta_schedule=theirs, **ends).alphas_cumprod.double()
    schedule = VPDiscrete.from_betas(ours)
    # diffusers multiplies 1,000 float32 factors.
    assert torch.allclose(schedule.alphas_cumprod, other, rtol=2e-4)
    t = torch.tensor([0.0, 17.0, 999.0], dtype=F64)
    bar = schedule.alphas_cumprod[t.long()]
    assert torch.allclose(schedule.level(t), ((1 - bar) / bar).sqrt(), rtol=1e-12)


def test_an_unknown_list_names_the_known_ones():
    with pytest.raises(InputError, match="scaled_linear"):
        VPDiscrete.from_betas("sigmoid")


def test_discrete_times_take_levels_in_single_precision():
    schedule = VPDiscrete.from_betas("linear")
    t = schedule.time(torch.tensor([0.5, 20.0]))
    assert (schedule.level(t) - torch.tensor([0.5, 20.0])).abs().max() < 1e-5


# ---------------------------------------------------------------- ends of schedules

LINEAR = VPDiscrete.from_betas("linear").alphas_cumprod


def without_snr(bar: torch.Tensor) -> torch.Tensor:
    """The list with zero terminal SNR (Lin et al. 2024, algorithm 1)."""
    root = torch.as_tensor(bar).sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_list_may_end_without_any_signal(dtype):
    """All its finite levels are right, the last is infinite, and times in between come back."""
    bar = without_snr(LINEAR).to(dtype)
    assert bar[-1] == 0
    schedule, t = VPDiscrete(bar), torch.arange(999, dtype=F64)
    expected = ((1 - bar.double()) / bar.double()).sqrt()[:-1]
    assert torch.allclose(schedule.level(t), expected, rtol=1e-12)
    assert schedule.level(torch.tensor([999.0])) == torch.inf
    between = torch.linspace(0, 998.999, 4001, dtype=F64)
    levels = schedule.level(between)
    assert torch.isfinite(levels).all() and (levels.diff() > 0).all()
    assert torch.allclose(schedule.time(levels), between, rtol=0, atol=1e-8)
    assert schedule.time(torch.tensor(1e12)).item() == pytest.approx(999, abs=1e-6)
    inside = torch.tensor([500.3, 998.0, 998.4], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(schedule.level, inside[[0, 2]].detach().requires_grad_())
    assert torch.isfinite(torch.autograd.grad(schedule.level(inside).sum(), inside)[0]).all()
    with pytest.raises(InputError, match="run to 999"):
        schedule.level(torch.tensor(999.5))


@pytest.mark.parametrize("convert", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.float])
def test_a_list_may_be_of_any_kind(convert):
    schedule = VPDiscrete(convert(LINEAR))
    t = torch.tensor([0.0, 3.5, 998.0], dtype=F64)
    assert torch.allclose(schedule.level(t), VPDiscrete(LINEAR).level(t), rtol=1e-3)
    assert schedule.level(torch.tensor([7])).dtype == F64, "an integer timestep is one"


@pytest.mark.parametrize(
    "bar",
    [
        LINEAR.flip(0),
        2 * LINEAR,
        LINEAR - 0.5,
        [1.0, 0.5, 0.1],
        [0.9, 0.9, 0.1],
        [0.9, float("nan"), 0.1],
        [0.9],
        [],
        np.array(0.9),
        np.ones((2, 2)),
        [0.5, 0.0],
    ],
    ids=str,
)
def test_what_is_no_list_of_a_process_is_refused_in_a_sentence(bar):
    with pytest.raises(InputError, match="alphas_cumprod (must fall strictly|needs two entries)"):
        VPDiscrete(bar)
    with pytest.raises(InputError, match="must fall strictly"):
        VPDiscrete.from_betas("linear", steps=1)


def test_a_list_goes_on_beyond_its_ends_with_the_outermost_slope():
    schedule = VPDiscrete(LINEAR)
    t = torch.tensor([-7.0, -3.0, 1003.0, 1007.0], dtype=F64)
    levels = schedule.level(t).log()
    inner = schedule.level(torch.tensor([0.0, 1.0, 998.0, 999.0], dtype=F64)).log()
    for (a, b), (c, d) in zip(levels.split(2), inner.split(2), strict=True):
        assert (b - a) / 4 == pytest.approx(float(d - c), rel=1e-9)
    assert torch.allclose(schedule.time(levels.exp()), t, atol=1e-9)
    assert schedule.time(torch.tensor(0.0)) == -torch.inf


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sigma", [-1.0, -1e-9, float("nan"), float("inf")])
def test_what_is_no_level_is_refused(name, sigma):
    for part in (SCHEDULES[name].time, SCHEDULES[name].alpha):
        with pytest.raises(InputError, match="A level is a finite number"):
            part(torch.tensor([1.0, sigma]))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [-0.5, 1.5, float("nan"), float("inf")])
def test_no_time_is_silently_wrong(name, t):
    """It is refused, or its level is finite, positive and has this very time."""
    schedule, t = SCHEDULES[name], torch.tensor([0.5, t], dtype=F64)
    try:
        levels = schedule.level(t)
    except InputError as error:
        assert "Times of this process" in str(error)
    else:
        extends = name.startswith("VP discrete") or t[1] == 1.5
        assert extends and (levels > 0).all()
        assert torch.isfinite(t).all() == torch.isfinite(levels).all()
        assert not torch.isfinite(t).all() or torch.allclose(schedule.time(levels), t)


@pytest.mark.parametrize("name", ["VP cosine", "flow"])
def test_the_level_of_nothing_but_noise_is_infinite(name):
    for one in (torch.ones(1, dtype=F64), torch.ones(1), torch.tensor([1])):
        assert SCHEDULES[name].level(one) == torch.inf
    near = 1 - 2.0**-20  # exact in both precisions
    wide, narrow = (SCHEDULES[name].level(torch.tensor(near, dtype=d)) for d in (F64, torch.float32))
    assert narrow.item() == pytest.approx(wide.item(), rel=1e-5) and wide > 1e5


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.float32])
def test_coarse_numbers_are_taken_as_single_precision(name, dtype):
    one = torch.tensor([1], dtype=dtype)
    found = [part(one) for part in (SCHEDULES[name].time, SCHEDULES[name].alpha, SCHEDULES[name].level)]
    exact = [
        part(torch.ones(1, dtype=F64))
        for part in (SCHEDULES[name].time, SCHEDULES[name].alpha, SCHEDULES[name].level)
    ]
    for ours, other in zip(found, exact, strict=True):
        assert ours.dtype in (torch.float32, F64)
        assert ours.item() == pytest.approx(other.item(), rel=1e-6)


@pytest.mark.parametrize("ends", [(20.0, 0.1), (-0.1, 20.0), (0.0, 20.0), (0.1, float("nan"))])
def test_a_linear_beta_rises_from_above_0(ends):
    with pytest.raises(InputError, match="rises from beta_min > 0"):
        VPLinear(*ends)


@pytest.mark.parametrize("s", [-0.1, float("nan"), float("inf")])
def test_the_offset_of_a_cosine_is_not_negative(s):
    with pytest.raises(InputError, match="offset s"):
        VPCosine(s)
    assert VPCosine(0.0).level(torch.tensor(0.5, dtype=F64)).item() == pytest.approx(1)

"""Noise schedules: exact inverses with gradients, and the lists that diffusers ships."""

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

"""Learnable levels: exact at zero and at the ends, monotone, of two meanings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import from_noise
from s4s_nb.errors import InputError
from s4s_nb.grids import GRIDS, make_grid
from s4s_nb.levels import SHARES, Levels, decoupled
from s4s_nb.schedules import VE, VPLinear
from s4s_nb.solvers import solve
from tests.problems import F64, GRID, noise
from tests.test_student import CLOCKS

VP = VPLinear()


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", GRIDS)
def test_zero_is_the_reference_and_ends_never_move(kind, clock, name):
    reference = make_grid(name, 6, 80.0, 0.002, VP)
    levels = Levels(reference, CLOCKS[clock], kind)
    at_zero = levels(torch.zeros(levels.size, dtype=F64))
    assert torch.equal(at_zero, reference)
    moved = levels(noise(1, levels.size)[0])
    assert torch.equal(moved[[0, -1]], reference[[0, -1]])


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.sampled_from(list(SHARES)))
def test_a_grid_stays_a_grid(theta, kind):
    levels = Levels(GRID(5), kind=kind)(torch.tensor(theta, dtype=F64))
    assert (levels.diff() < 0).all()


@pytest.mark.parametrize("kind", SHARES)
def test_every_grid_can_be_reached(kind):
    """θ can be found for any target, here by the inverse of each map."""
    target = GRID(5) * torch.tensor([1, 1.3, 0.6, 1.1, 0.8, 1], dtype=F64)
    levels = Levels(GRID(5), kind=kind)
    theta = torch.zeros(4, dtype=F64)
    for _ in range(50):  # Newton
        J = torch.autograd.functional.jacobian(lambda t: levels(t).log()[1:-1], theta)
        theta = theta - torch.linalg.solve(J, (levels(theta) / target).log()[1:-1])
    assert torch.allclose(levels(theta), target, rtol=1e-10)


def test_a_clock_that_is_infinite_at_an_end_is_refused():
    with pytest.raises(InputError, match="another clock"):
        Levels(torch.tensor([10.0, 1.0, 0.0], dtype=F64))
    with pytest.raises(InputError, match="softmax, sticks"):
        Levels(GRID(3), kind="linear")


def test_what_an_offset_means():
    """Against the papers' own arithmetic, one Euler step of a noise-predicting VP network."""
    sigma, s = torch.tensor([3.0, 1.0], dtype=F64), torch.tensor([2.5], dtype=F64)

    def network(x, t):
        return torch.tanh(x) * (1 + t)

    solver = make_solver("dpmpp-1", 1, lambda _: sigma)
    x = 3 * noise(4)
    native, t = VP.alpha(sigma[0]) * x, VP.time(s[0])
    eps = network(native, t)  # only the time moved
    held_noise = decoupled(solver, s, VP, "noise")
    expected = x + (sigma[1] - sigma[0]) * eps
    assert torch.allclose(solve(from_noise(network, VP), x, held_noise), expected, atol=1e-12)
    held_data = decoupled(solver, s, VP, "data")
    image = VP.alpha(sigma[0]) / VP.alpha(s[0]) * x - s[0] * eps
    expected = sigma[1] / sigma[0] * x + (1 - sigma[1] / sigma[0]) * image
    assert torch.allclose(solve(from_noise(network, VP), x, held_data), expected, atol=1e-12)
    ours = decoupled(solver, s)  # the state stays, whatever the network makes of it
    image = from_noise(network, VP)(x, s[0])
    expected = sigma[1] / sigma[0] * x + (1 - sigma[1] / sigma[0]) * image
    assert torch.allclose(solve(from_noise(network, VP), x, ours), expected, atol=1e-12)
    assert torch.equal(decoupled(solver, s, VE()).kappa, ours.kappa)
    with pytest.raises(InputError, match="data, noise"):
        decoupled(solver, s, held="score")

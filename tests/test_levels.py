"""Learnable levels: exact at zero and at the ends, monotone, of two meanings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import from_noise
from s4s_nb.errors import InputError
from s4s_nb.grids import GRIDS, make_grid
from s4s_nb.levels import SHARES, Levels, decoupled, solver_on
from s4s_nb.schedules import VE, VPLinear
from s4s_nb.solvers import solve
from tests.problems import F64, GRID, MIXTURE, noise, same_bits
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


# ---------------------------------------------------------------- anybody's levels


def ld3_sampler(x: torch.Tensor, levels: list[float], asked: list[float]) -> torch.Tensor:
    """iPNDM of order 3 as LD3's code runs it for EDM: ε from the level that is asked, steps in σ."""
    weights, past = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12]}, []
    for i in range(len(levels) - 1):
        s = torch.tensor(asked[i], dtype=F64)
        past.insert(0, (x - MIXTURE(x, s)) / s)
        mixed = sum(w * eps for w, eps in zip(weights[min(i + 1, 3)], past, strict=False))
        x = x + (levels[i + 1] - levels[i]) * mixed
    return x


def test_levels_that_ld3_learned_give_its_samples():
    """Its two lists as its files have them: as long as each other, the last of those to ask at idle."""
    levels = [10.0, 9.53 / 8, 3.99 / 8, 1.142 / 8, 0.2425 / 8, 0.01]
    asked = [10.0, 1.05 * levels[1], 0.96 * levels[2], 1.02 * levels[3], levels[4], 0.01]
    solver, x = solver_on("ipndm-3", levels, asked), 10 * noise(8)
    assert torch.allclose(solve(MIXTURE, x, solver), ld3_sampler(x, levels, asked), rtol=1e-12)
    assert torch.allclose(solve(MIXTURE, x, solver_on("ipndm-3", levels)), ld3_sampler(x, levels, levels))
    other = solver_on("ipndm-3", levels, asked, held="data")
    assert not torch.allclose(solve(MIXTURE, x, other), ld3_sampler(x, levels, asked), rtol=1e-4)


def test_anybodys_levels_for_every_kind_of_solver():
    sigmas = torch.tensor([10.0, 1.0, 0.3, 0.01], dtype=F64)
    for name, nfe in (("dpmpp-2m", 3), ("unipc-3-bh2", 3), ("dpm-2s", 6)):
        here = solver_on(name, sigmas.tolist(), lower_final=name != "dpm-2s")
        assert same_bits(here, make_solver(name, nfe, lambda n: sigmas, lower_final=name != "dpm-2s"))
    for asked in ([1.0, 0.5], [10.0, 1.0, 0.5, 0.1, 0.05]):
        with pytest.raises(InputError, match="asks its model 3 times on 4 levels; got"):
            solver_on("euler", sigmas, asked)
    with pytest.raises(InputError, match="fall strictly"):
        solver_on("euler", [1.0, 2.0])

"""DMN and GITS: the bound and the costs against their definitions, the searches against brute force."""

from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.computed_grids import FINE, cheapest_path, dmn, dmn_bound, output_weights, step_costs
from s4s_nb.errors import InputError
from s4s_nb.grids import karras, log_snr
from s4s_nb.learn import learn
from s4s_nb.models import CHORDS, Model, chord_costs
from s4s_nb.multistep import polynomial_weights
from s4s_nb.solvers import trajectory
from tests.problems import F64, GRID, MIXTURE, noise


def bound(sigmas: Tensor, latent: bool = False) -> float:
    return dmn_bound(-sigmas.log().numpy(), latent)


def model(**other) -> Model:
    return Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, name="mixture", **other)


# ---------------------------------------------------------------- DMN


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
def test_weights_of_outputs_are_those_of_exponential_adams_bashforth(steps):
    """An independent way to them: Gauss-Legendre quadrature of the Lagrange polynomials."""
    sigmas = karras(steps, 80.0, 0.002)
    weights = polynomial_weights(sigmas, 3, torch.log, form="data", lower_final=True)
    expected = (1 / sigmas).diff()[:, None] * weights
    J = torch.from_numpy(output_weights(-sigmas.log().numpy()))
    assert torch.allclose(J, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_the_bound_of_two_steps_is_known():
    """Each step of order 1: σ_0 (1/σ_1 − 1/σ_0) + σ_1 (1/σ_2 − 1/σ_1), least at the geometric mean."""
    sigmas = torch.tensor([80.0, 3.0, 0.002], dtype=F64)
    assert bound(sigmas) == pytest.approx(80 / 3 - 1 + 3 / 0.002 - 1)
    e = sigmas**2 / (1 + sigmas**2).sqrt()
    latent = e[0] * (1 / 3 - 1 / 80) + e[1] * (500 - 1 / 3)
    assert bound(sigmas, latent=True) == pytest.approx(float(latent))
    assert dmn(2, 80.0, 0.002)[1].item() == pytest.approx(0.4, rel=1e-4)


def test_the_bound_of_many_steps_adds_before_it_takes_sizes():
    """Written out once more, row by row."""
    for steps in (3, 7):
        sigmas = karras(steps, 80.0, 0.002)
        rows = torch.from_numpy(output_weights(-sigmas.log().numpy())) * sigmas[:-1]
        own = sorted({0, 1, 2, steps - 1})
        expected = sum(float(rows[i].norm()) for i in own)
        expected += float(rows[[i for i in range(steps) if i not in own]].sum(0).abs().sum())
        assert bound(sigmas) == pytest.approx(expected)


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("steps", [3, 5])
def test_no_grid_around_or_among_many_has_a_smaller_bound(steps, latent):
    found = dmn(steps, 80.0, 0.002, latent)
    least = bound(found, latent)
    assert [found[0], found[-1]] == pytest.approx([80.0, 0.002], rel=1e-12)
    for scale in (1e-3, 1e-2, 1e-1, 1.0):
        for shift in scale * noise(60, steps - 1):
            moved = torch.cat([found[:1], found[1:-1] * shift.exp(), found[-1:]])
            if (moved.diff() < 0).all():
                assert bound(moved, latent) > least * (1 - 1e-6)
    assert least < 0.5 * bound(log_snr(steps, 80.0, 0.002), latent)


@pytest.mark.filterwarnings("ignore:delta_grad")  # once it has arrived
def test_the_search_of_dmns_code_ends_at_the_same_levels():
    """scipy's trust-constr over the λ_i, which keep their order, from the log-SNR grid."""
    lam = -log_snr(4, 80.0, 0.002).log().numpy()
    order = np.eye(4, 3) - np.eye(4, 3, -1)
    ends = np.array([lam[0], 0, 0, -lam[-1]])
    theirs = minimize(
        lambda inner: dmn_bound(np.concatenate([lam[:1], inner, lam[-1:]])),
        lam[1:-1],
        method="trust-constr",
        constraints=[LinearConstraint(order, ends, np.inf)],
    )
    assert dmn(4, 80.0, 0.002)[1:-1].tolist() == pytest.approx(np.exp(-theirs.x).tolist(), rel=1e-3)


# ---------------------------------------------------------------- GITS


def test_a_cost_is_the_bend_of_one_euler_step_over_that_of_the_path():
    """From the definition, with the projection written out, one sample and one pair at a time."""
    starts, fine = 10 * noise(5, 3), make_solver("ipndm-4", 6, GRID)

    def denoise(x, sigma):
        return torch.tanh(x / (1 + sigma)) * torch.cos(x.flip(1) / (2 + sigma))

    costs = step_costs(denoise, starts, fine)
    states, outputs = trajectory(denoise, starts, fine)
    for i, j in combinations(range(7), 2):
        apart = []
        for k in range(5):
            chord = states[-1][k] - states[0][k]

            def bend(x, k=k, chord=chord):
                way = x - states[0][k]
                return (way - (way @ chord) / (chord @ chord) * chord).norm()

            slope = (states[i][k] - outputs[i][k]) / fine.sigmas[i]
            jump = states[i][k] + (fine.sigmas[j] - fine.sigmas[i]) * slope
            apart.append(bend(jump) - bend(states[j][k]))
        assert costs[i, j] == pytest.approx(float(torch.stack(apart).mean()), rel=1e-6, abs=1e-9)
    assert costs.tril().isinf().logical_or(costs.tril() == 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("coefficient", [1.0, 1.15])
def test_the_path_is_the_cheapest_of_all(steps, coefficient):
    costs = torch.full((8, 8), torch.inf, dtype=F64)
    for i, j in combinations(range(8), 2):
        costs[i, j] = noise(1, 1, seed=8 * i + j).item()  # of either sign, as GITS's are

    def price(path) -> float:
        return sum(coefficient**k * float(costs[a, b]) for k, (a, b) in enumerate(pairwise(path)))

    paths = [(0, *inner, 7) for inner in combinations(range(1, 7), steps - 1)]
    assert tuple(cheapest_path(costs, steps, coefficient)) == min(paths, key=price)


def test_straight_paths_cost_nothing_wherever_they_are_cut():
    """One clean image for all: every path is its chord, and an Euler step is exact."""
    costs = step_costs(lambda x, sigma: torch.ones_like(x), 10 * noise(4), make_solver("euler", 5, GRID))
    assert costs.triu(1).abs().max() < 1e-12


def test_levels_that_gits_published_are_among_those_it_chooses_from():
    """80, 10.9836, … of the example in GITS's README are levels of Karras's grid of 60 steps."""
    fine = karras(FINE, 80.0, 0.002)
    for level in (80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002):
        assert (fine - level).abs().min() < 6e-5


# ---------------------------------------------------------------- of a model


def test_a_model_has_them_by_name():
    own = model()
    fine = own.fine_levels(0.03)
    grid = own.grid("gits", end=0.03)(4)
    assert set(grid.tolist()) <= set(fine.tolist()) and grid[-1].item() == pytest.approx(0.03)
    path = cheapest_path(chord_costs(own, 0.03), 4)
    assert torch.equal(grid, fine[path]) and torch.equal(own.grid("dmn")(4), dmn(4, 10.0, 0.01))
    latent = model(decode=lambda x: 2 * x)
    assert torch.equal(latent.grid("dmn")(4), dmn(4, 10.0, 0.01, True))


def test_costs_are_asked_for_once_and_do_not_depend_on_the_batches():
    own = model()
    nfe = own.network.nfe
    grid = own.grid("gits")
    assert own.network.nfe == nfe, "nothing is asked before the grid is wanted"
    grid(3)
    asked = own.network.nfe
    assert asked - nfe == FINE * -(-CHORDS // 20) + 2  # two of them look at the denoiser
    own.grid("gits")(5)
    assert own.network.nfe == asked
    karras_here = partial(karras, sigma_max=10.0, sigma_min=0.01)
    whole = step_costs(MIXTURE, own.starts("train", CHORDS), make_solver("ipndm-4", FINE, karras_here))
    assert torch.allclose(chord_costs(own, 0.01).triu(1), whole.triu(1), rtol=1e-4, atol=1e-6)


def test_solvers_are_learned_from_them():
    result = learn(model(), 3, "s4s", start="ipndm-3", grid="gits", pairs=4, progress=False)
    assert result.record["grid"] == "gits" and torch.equal(result.solver.sigmas, model().grid("gits")(3))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="1 to 60 steps; got 61"):
        model().grid("gits")(61)
    with pytest.raises(InputError, match="at least one step"):
        dmn(0, 80.0, 0.002)
    with pytest.raises(InputError, match="choose one of: karras, logsnr, uniform, quadratic, dmn, gits"):
        model().grid("ddim")

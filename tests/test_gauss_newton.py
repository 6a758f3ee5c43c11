"""Gauss–Newton on the exact mixture: its Jacobian is autograd's, and it beats Adam's start and end."""

from functools import partial

import pytest
import torch

from s4s_nb.denoisers import Counted
from s4s_nb.families import linear_multistep_family, predictor_corrector_family, single_step_family
from s4s_nb.gauss_newton import learn_gauss_newton, mean_distance, normal_equations
from s4s_nb.grids import log_snr
from s4s_nb.learn import learn_s4s
from s4s_nb.sensitivities import end_point_tangents
from s4s_nb.solvers import sample, trajectory
from tests.problems import noise
from tests.test_learn import MIXTURE, distance, pairs

FAMILY = linear_multistep_family("dpmpp-3m", log_snr(5, 10.0, 0.01))
ZERO = FAMILY.zero


def embed(x):
    return x


def test_tangents_are_those_of_autograd_for_every_family():
    grid = partial(log_snr, sigma_max=10.0, sigma_min=0.01)
    families = (
        linear_multistep_family("ipndm-3", grid(5)),
        linear_multistep_family("dpmpp-3m", grid(5), consistent=True),
        predictor_corrector_family("unipc-3-bh2", grid(5)),
        single_step_family("dpm-3s", 7, grid),  # its nodes move the model's levels too
        single_step_family("heun", 6, grid),
    )
    starts = 10 * noise(7)
    for family in families:
        p = 0.05 * noise(family.size, 1).flatten()
        J = torch.autograd.functional.jacobian(lambda q, f=family: sample(MIXTURE, starts, f.table(q)), p)
        ends, tangents = end_point_tangents(MIXTURE, starts, family, p)
        assert torch.equal(ends, sample(MIXTURE, starts, family.table(p)))
        assert (tangents - J.movedim(-1, 0)).abs().max() < 1e-12 * J.abs().max()


def test_a_parameter_costs_nothing_before_its_step():
    asked = []

    def denoise(x, sigma):
        asked.append(x.shape)
        return MIXTURE(x, sigma)

    end_point_tangents(denoise, 10 * noise(4), FAMILY, ZERO)
    assert len(asked) == 5  # one call a step: every tangent shares it


@pytest.mark.parametrize(("derivatives", "tolerance"), [("differences", 0.05), ("tangents", 1e-12)])
def test_normal_equations_are_those_of_autograd(derivatives, tolerance):
    data = pairs("train", 20)

    def residual(p):
        return (sample(MIXTURE, data.starts, FAMILY.table(p)) - data.targets).flatten()

    J, r = torch.autograd.functional.jacobian(residual, ZERO), residual(ZERO)
    JJ, Jr = normal_equations(MIXTURE, FAMILY, ZERO, data, embed, derivatives)
    assert (JJ - J.T @ J).abs().max() < tolerance * (J.T @ J).abs().max()
    assert (Jr - J.T @ r).abs().max() < tolerance * (J.T @ r).abs().max()


def test_known_beginnings_spare_evaluations_and_change_nothing():
    counted = Counted(MIXTURE)
    data, moved = pairs("train", 5), ZERO.clone()
    moved[-1] = 0.3  # the last step's oldest weight
    states, outputs = trajectory(counted, data.starts, FAMILY.table(ZERO))
    counted.nfe = 0
    again, _ = trajectory(counted, data.starts, FAMILY.table(moved), (states[:5], outputs[:5]))
    assert counted.nfe == 0
    assert torch.equal(again[-1], sample(MIXTURE, data.starts, FAMILY.table(moved)))


def test_it_learns_more_in_five_iterations_than_adam_in_eighty_updates():
    train, validation, test = pairs("train", 200), pairs("validation", 100), pairs("test", 200)
    newton = learn_gauss_newton(MIXTURE, FAMILY, train, validation, embed, progress=False)
    adam = learn_s4s(
        MIXTURE, FAMILY, train, validation, distance, epochs=8, learning_rate=3e-2, progress=False
    )
    start, by_newton, by_adam = (
        mean_distance(MIXTURE, FAMILY, p, test, embed) for p in (ZERO, newton.parameters, adam.parameters)
    )
    assert by_newton < by_adam < start


def test_tangents_of_many_batches_are_those_of_one():
    """Forward mode has one level for all threads of a process, so its batches must not run side by side."""
    data = pairs("train", 40), pairs("validation", 20)
    options = {"iterations": 2, "derivatives": "tangents", "progress": False}
    one, many = (
        learn_gauss_newton(MIXTURE, FAMILY, *data, embed, batch=size, **options).parameters
        for size in (40, 2)
    )
    assert (one - many).abs().max() < 1e-8


def test_the_validation_distance_never_rises():
    learned = learn_gauss_newton(
        MIXTURE, FAMILY, pairs("train", 40), pairs("validation", 40), embed, progress=False
    )
    values = [value for _, value in learned.history]
    assert values == sorted(values, reverse=True) and len(values) > 1
    assert learned.solver.info["validation_best"] == values[-1]

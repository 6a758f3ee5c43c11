"""Gauss–Newton on the exact mixture: its Jacobian is autograd's, and it beats Adam's start and end."""

import torch

from s4s_nb.denoisers import Counted
from s4s_nb.families import linear_multistep_family
from s4s_nb.gauss_newton import learn_gauss_newton, mean_distance, normal_equations
from s4s_nb.grids import log_snr
from s4s_nb.learn import learn_s4s
from s4s_nb.solvers import sample, trajectory
from tests.problems import F64
from tests.test_learn import MIXTURE, distance, pairs

FAMILY = linear_multistep_family("dpmpp-3m", log_snr(5, 10.0, 0.01))
ZERO = torch.zeros(FAMILY.size, dtype=F64)


def embed(x):
    return x


def test_normal_equations_are_those_of_autograd():
    data = pairs("train", 20)

    def residual(p):
        return (sample(MIXTURE, data.starts, FAMILY.table(p)) - data.targets).flatten()

    J = torch.autograd.functional.jacobian(residual, ZERO)
    JJ, Jr = normal_equations(MIXTURE, FAMILY, ZERO, data, embed)
    assert (JJ - J.T @ J).abs().max() < 0.05 * (J.T @ J).abs().max()
    assert (Jr - J.T @ residual(ZERO)).abs().max() < 0.05 * (J.T @ residual(ZERO)).abs().max()


def test_known_beginnings_spare_evaluations_and_change_nothing():
    counted = Counted(MIXTURE)
    data, moved = pairs("train", 5), ZERO.clone()
    moved[-1] = 0.3  # the last step's oldest weight
    states, outputs = trajectory(counted, data.starts, FAMILY.table(ZERO))
    counted.nfe = 0
    again, _ = trajectory(counted, data.starts, FAMILY.table(moved), (states[:5], outputs[:5]))
    assert counted.nfe == 0
    assert torch.equal(again[-1], sample(MIXTURE, data.starts, FAMILY.table(moved)))


def test_it_learns_more_in_nine_iterations_than_adam_in_eighty_updates():
    train, validation, test = pairs("train", 200), pairs("validation", 100), pairs("test", 200)
    newton = learn_gauss_newton(MIXTURE, FAMILY, train, validation, embed, progress=False)
    adam = learn_s4s(
        MIXTURE, FAMILY, train, validation, distance, epochs=8, learning_rate=3e-2, progress=False
    )
    start, by_newton, by_adam = (
        mean_distance(MIXTURE, FAMILY, p, test, embed) for p in (ZERO, newton.parameters, adam.parameters)
    )
    assert by_newton < by_adam < start


def test_the_validation_distance_never_rises():
    learned = learn_gauss_newton(
        MIXTURE, FAMILY, pairs("train", 40), pairs("validation", 40), embed, progress=False
    )
    values = [value for _, value in learned.history]
    assert values == sorted(values, reverse=True) and len(values) > 1
    assert learned.solver.info["validation_best"] == values[-1]

"""First order on the exact mixture: improvement, best state kept, momentum, patience."""

import pytest
import torch

from s4s_nb.errors import InputError
from s4s_nb.learn.adam import FIRST_ORDER
from s4s_nb.learn.loop import learn_student
from tests.problems import MIXTURE, held_out, problem, same_bits, student

ABSURD = 3.0
"""A learning rate with which no epoch is better than the start."""


def learn(here=None, given=None, **options):
    options = {"method": "s4s", "optimiser": "adam", "progress": False} | options
    return learn_student(given or problem(), here or student(), **options)


@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m"])
def test_learning_beats_the_classic_start_on_unseen_noise(start):
    here = student(start)
    before = held_out(here.solver())
    result = learn(here, problem(train=200, validation=100), iterations=10, learning_rate=3e-2)
    assert held_out(result.solver) < 0.9 * before


def test_the_best_validated_state_is_kept():
    """With an absurd learning rate the start is the best state, and comes back untouched."""
    here, given = student(), problem(train=20)
    start = here.solver()
    result = learn(here, given, iterations=3, learning_rate=ABSURD)
    values = [value for _, _, value in result.history]
    assert values[0] == min(values) and len(values) == 4
    assert result.turns[0].after == result.record["validation_best"] == min(values)
    assert same_bits(result.solver, start)


def test_the_best_epoch_is_kept_and_not_the_last():
    """Guards the return to it: after the second epoch of these the distance rises."""
    given = problem()
    result = learn(student("dpmpp-2m", 4), given, iterations=3, learning_rate=2e-2)
    values = [value for _, _, value in result.history]
    assert min(values) == values[1] < values[-1]
    assert float(given.distances(result.solver).mean()) == pytest.approx(values[1], rel=1e-12)


def test_sgd_learns_too_and_goes_on_with_its_momentum(tmp_path):
    given = {"train": 40, "validation": 40}
    options = {"iterations": 4, "learning_rate": 0.1, "rule": "SGD"}
    whole = learn(given=problem(**given), **options)
    values = [value for _, _, value in whole.history]
    assert min(values) < 0.9 * values[0]
    assert whole.record["rule"] == "SGD"
    left = 3 + 10 + 2 * 20 + 5  # identity, start, two epochs and their validations, an update of the third

    def interrupted(x, sigma):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return MIXTURE(x, sigma)

    options["state_file"] = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learn(given=problem(denoise=interrupted, **given), **options)
    again = learn(given=problem(**given), **options)
    assert again.history == whole.history and same_bits(again.solver, whole.solver)
    with pytest.raises(InputError, match="Unknown rule of first order 'LBFGS'"):
        learn(rule="LBFGS")


def test_patience_ends_a_learning_that_gains_nothing():
    """With an absurd learning rate no epoch is better than the start; two of them are enough to see it."""
    result = learn(given=problem(train=20), iterations=6, patience=2, learning_rate=ABSURD)
    assert len(result.history) == 3
    assert not result.student.coefficients.any()


def test_a_gradient_that_is_no_number_is_named():
    def rooted(x):  # slope 0 · ∞ at 0
        return torch.cat([x, (0 * x.sum(1, keepdim=True)).abs().sqrt()], dim=1)

    with pytest.raises(InputError, match="gradient of the embedding is not what differences"):
        learn(given=problem(train=4, validation=4, embed=rooted))


def test_a_loss_that_is_no_number_is_named():
    with pytest.raises(InputError, match="The loss became inf at update 0"):
        learn(given=problem(train=4, validation=4, embed=lambda x: 1e200 * x))


# ---------------------------------------------------------------- rules and running means


def test_lion_steps_by_the_sign_of_its_momentum():
    """Against algorithm 2 of Chen et al. 2023, written out."""
    given, here, parts = problem(train=20), student(), ("coefficients",)
    result = learn(here, given, iterations=3, size=20, rule="Lion", learning_rate=1e-3, cosine=False)
    by, momentum = here.zero(parts), torch.zeros(12).double()
    fresh, values = student(), [result.history[0][2]]
    for _ in range(3):
        moving = by.clone().requires_grad_()
        (slope,) = torch.autograd.grad(given.loss(fresh.moved(moving, parts), given.train), moving)
        slope = slope * min(1, 1 / (float(slope.norm()) + 1e-6))
        by = by - 1e-3 * (0.9 * momentum + 0.1 * slope).sign()
        momentum = 0.99 * momentum + 0.01 * slope
        values.append(given.distance(fresh, by, parts))
    assert [value for _, _, value in result.history] == pytest.approx(values, rel=1e-9)
    assert result.record["rule"] == "Lion" and result.record["cosine"] is False


@pytest.mark.parametrize("rule", FIRST_ORDER)
def test_every_rule_learns(rule):
    rate = {"SGD": 0.1, "RMSprop": 1e-3, "Lion": 5e-3}.get(rule, 1e-2)
    result = learn(iterations=4, rule=rule, learning_rate=rate)
    assert min(value for _, _, value in result.history) < 0.95 * result.history[0][2]


def test_a_running_mean_is_validated_and_goes_on_with_the_same_bits(tmp_path):
    """Two updates an epoch: the mean is 0.9 of itself and 0.1 of the parameters after each."""
    options = {"iterations": 3, "size": 20, "ema": 0.9, "learning_rate": 2e-2}
    averaged = learn(**options)
    plain = learn(**{**options, "ema": 0.0})
    assert averaged.history[-1][2] != plain.history[-1][2]
    left = 3 + 10 + 2 * 15 + 5

    def interrupted(x, sigma):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return MIXTURE(x, sigma)

    options["state_file"] = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learn(given=problem(denoise=interrupted), **options)
    again = learn(**options)
    assert again.history == averaged.history and same_bits(again.solver, averaged.solver)
    for share in (1.0, -0.1):
        with pytest.raises(InputError, match="running mean"):
            learn(ema=share)

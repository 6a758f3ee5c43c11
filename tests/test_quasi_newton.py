"""BFGS on the exact mixture: its gradient is autograd's, its metric Gauss–Newton's, and both pay."""

import pytest
import torch

from s4s_nb.errors import InputError
from s4s_nb.families import Family
from s4s_nb.gauss_newton import learn_gauss_newton, mean_distance
from s4s_nb.quasi_newton import DAMPING, learn_bfgs, metric, value_and_gradient
from s4s_nb.solvers import sample
from s4s_nb.teachers import Pairs
from tests.problems import noise
from tests.test_gauss_newton import FAMILY, ZERO, embed
from tests.test_learn import MIXTURE, pairs


def learn(family=FAMILY, train=40, validation=40, **options):
    given = pairs("train", train), pairs("validation", validation)
    return learn_bfgs(MIXTURE, family, *given, embed, progress=False, **options)


def test_the_gradient_is_that_of_all_pairs_at_once():
    data, at = pairs("train", 25), 0.05 * noise(FAMILY.size, 1).flatten()

    def mean(p):
        return (sample(MIXTURE, data.starts, FAMILY.table(p)) - data.targets).square().sum(1).mean()

    value, *gradient = value_and_gradient(MIXTURE, FAMILY, data, embed, 10, at)
    assert value == pytest.approx(float(mean(at)), rel=1e-12)
    expected = torch.autograd.functional.jacobian(mean, at)
    assert (torch.stack(gradient) - expected).abs().max() < 1e-10 * expected.abs().max()


def test_the_metric_is_the_damped_inverse_of_gauss_newton():
    data = pairs("train", 20)
    J = torch.autograd.functional.jacobian(
        lambda p: (sample(MIXTURE, data.starts, FAMILY.table(p)) - data.targets).flatten(), ZERO
    )
    hessian = 2 / len(data) * (J.T @ J)
    found = torch.linalg.inv(metric(MIXTURE, FAMILY, data, embed, batch=5))
    expected = hessian + DAMPING * torch.diag(hessian.diag())
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_it_goes_further_down_the_training_pairs_than_gauss_newton():
    train, validation = pairs("train", 40), pairs("validation", 40)
    newton = learn_gauss_newton(MIXTURE, FAMILY, train, validation, embed, progress=False)
    by_newton, by_bfgs = (
        mean_distance(MIXTURE, FAMILY, learned.parameters, train, embed) for learned in (newton, learn())
    )
    assert by_bfgs < by_newton


def test_the_metric_spares_gradients(monkeypatch):
    with_metric = learn(iterations=8)
    monkeypatch.setattr("s4s_nb.quasi_newton.metric", lambda *_: torch.eye(FAMILY.size).double())
    without = learn(iterations=8)
    reached = [
        mean_distance(MIXTURE, FAMILY, learned.parameters, pairs("train", 40), embed)
        for learned in (with_metric, without)
    ]
    assert reached[0] < 0.9 * reached[1]
    assert with_metric.solver.info["gradients"] <= without.solver.info["gradients"]


def test_the_validation_pairs_may_send_it_back_to_its_start():
    validation = pairs("validation", 20)
    ends = sample(MIXTURE, validation.starts, FAMILY.table(ZERO))
    satisfied = Pairs(validation.starts, ends)  # nothing can be better than the start there
    learned = learn_bfgs(MIXTURE, FAMILY, pairs("train", 20), satisfied, embed, progress=False)
    assert torch.equal(learned.parameters, ZERO)
    assert learned.solver.info["validation_best"] == learned.history[0][1] < learned.history[1][1]


def test_where_the_solver_blows_up_the_search_turns_back():
    def table(p, sigmas):
        if p.abs().max() > 0.15:
            raise InputError("blown up")
        return FAMILY.table(p)

    fenced = Family(FAMILY.name, FAMILY.start, FAMILY.size, FAMILY.sigmas, table)
    value = value_and_gradient(MIXTURE, fenced, pairs("train", 5), embed, 5, ZERO + 1)
    assert value[0] == torch.inf and not value[1:].any()
    learned = learn(fenced, iterations=5)
    assert learned.parameters.abs().max() <= 0.15
    assert learned.history[-1][1] < learned.history[0][1]


def test_it_stops_and_goes_on_with_the_same_bits(tmp_path):
    whole, left = learn(iterations=6, batch=40), 17

    def stopping(x, sigma):
        nonlocal left
        left -= x.requires_grad
        if left < 0:
            raise KeyboardInterrupt
        return MIXTURE(x, sigma)

    state = tmp_path / "state.safetensors"
    given = pairs("train", 40), pairs("validation", 40), embed
    with pytest.raises(KeyboardInterrupt):
        learn_bfgs(stopping, FAMILY, *given, iterations=6, batch=40, state_file=state, progress=False)
    assert state.exists()
    resumed = learn_bfgs(MIXTURE, FAMILY, *given, iterations=6, batch=40, state_file=state, progress=False)
    assert torch.equal(resumed.parameters, whole.parameters) and resumed.history == whole.history
    with pytest.raises(InputError, match="another run"):
        learn_bfgs(MIXTURE, FAMILY, *given, iterations=7, state_file=state, progress=False)


def test_it_takes_pairs_to_learn():
    with pytest.raises(InputError, match="at least one"):
        learn_bfgs(MIXTURE, FAMILY, pairs("train", 2)[:0], pairs("validation", 2), embed)

"""BFGS on the exact mixture: its metric is Gauss–Newton's, it pays, and it turns back where it must."""

import pytest
import torch

from s4s_nb.errors import DivergedError, InputError
from s4s_nb.families import LinearMultistep
from s4s_nb.learn import bfgs
from s4s_nb.learn.bfgs import DAMPING, metric
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.pairs import Pairs
from s4s_nb.solvers import solve
from tests.problems import GRID, MIXTURE, identity, pairs, problem, student

COEFFICIENTS = ("coefficients",)


def learn(given=None, here=None, **options):
    options = {"method": "s4s", "optimiser": "bfgs", "progress": False} | options
    return learn_student(given or problem(validation=40), here or student(), **options)


def on_train(solver, count: int = 40) -> float:
    """Mean distance on the training pairs."""
    return float(problem().loss(solver, pairs("train", count)))


def test_the_metric_is_the_damped_inverse_of_gauss_newton():
    here, data = student(), pairs("train", 20)
    zero = here.zero(COEFFICIENTS)
    J = torch.autograd.functional.jacobian(
        lambda p: (solve(MIXTURE, data.starts, here.moved(p, COEFFICIENTS)) - data.targets).flatten(), zero
    )
    hessian = 2 / len(data) * (J.T @ J)
    found = torch.linalg.inv(metric(problem(train=20, batch=5), here, zero, COEFFICIENTS))
    expected = hessian + DAMPING * torch.diag(hessian.diag())
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_it_goes_further_down_the_training_pairs_than_gauss_newton():
    assert on_train(learn().solver) < on_train(learn(optimiser="gauss-newton").solver)


def test_the_metric_spares_gradients(monkeypatch):
    kept = []

    def counting(*arguments):
        kept.append(arguments)
        return own(*arguments)

    own = Problem.value_and_gradient
    monkeypatch.setattr(Problem, "value_and_gradient", counting)
    with_metric, gradients = learn(iterations=8), len(kept)
    kept.clear()
    monkeypatch.setattr(bfgs, "metric", lambda *_: torch.eye(12).double())
    without = learn(iterations=8)
    assert on_train(with_metric.solver) < 0.9 * on_train(without.solver)
    assert gradients <= len(kept)


def test_the_validation_pairs_may_send_it_back_to_its_start():
    validation, start = pairs("validation", 20), student().solver()
    ends = solve(MIXTURE, validation.starts, start)
    satisfied = Pairs(validation.starts, ends)  # nothing can be better than the start there
    result = learn(Problem(MIXTURE, pairs("train", 20), satisfied, identity))
    assert not result.student.coefficients.any()
    values = [value for _, _, value in result.history]
    assert result.record["validation_best"] == values[0] < values[1]


class Fenced(LinearMultistep):
    """A student that blows up far from its start."""

    def on(self, sigmas):
        if self.coefficients.abs().max() > 0.15:
            raise DivergedError("blown up")
        return super().on(sigmas)


@pytest.mark.filterwarnings("error")
def test_where_the_solver_blows_up_the_search_turns_back_without_a_warning():
    fenced, given = Fenced("dpmpp-3m", GRID(5)), problem(validation=40)
    value, gradient = given.value_and_gradient(fenced, fenced.zero(COEFFICIENTS) + 1, COEFFICIENTS)
    assert value == torch.inf and not gradient.any()
    result = learn(given, fenced, iterations=5)
    assert 0 < result.student.coefficients.abs().max() <= 0.15
    assert result.history[-1][2] < result.history[0][2]


def test_it_stops_and_goes_on_with_the_same_bits(tmp_path):
    whole, left = learn(problem(batch=40), iterations=6), 17

    def stopping(x, sigma):
        nonlocal left
        left -= x.requires_grad
        if left < 0:
            raise KeyboardInterrupt
        return MIXTURE(x, sigma)

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learn(problem(batch=40, denoise=stopping), iterations=6, state_file=state)
    assert state.exists()
    resumed = learn(problem(batch=40), iterations=6, state_file=state)
    assert torch.equal(resumed.student.coefficients, whole.student.coefficients)
    assert resumed.history == whole.history
    with pytest.raises(InputError, match="another run"):
        learn(problem(batch=40), iterations=7, state_file=state)


def test_the_record_says_what_a_turn_has_spent():
    (turn,) = learn(iterations=3).record["turns"]
    assert turn["steps"] == 3 and 4 <= turn["gradients"] <= 12  # one at the start, one or more a step
    assert "gradients" not in learn(optimiser="gauss-newton", iterations=1).record["turns"][0]


def test_where_the_search_along_the_line_gives_up_halves_of_a_step_go_on(monkeypatch):
    monkeypatch.setattr(bfgs, "line_search", lambda *_: (None,) * 6)
    record = learn(iterations=4).record
    assert record["turns"][0]["steps"] == 4 and record["kept"] == "learned"
    assert record["validation_best"] < record["validation_start"]

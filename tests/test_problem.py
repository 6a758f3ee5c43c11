"""A problem: means over pairs, batch by batch, with their conditions; and which failures are infinite."""

import pytest
import torch

from s4s_nb.denoisers import guided
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.learn import problem as module
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.pairs import Pairs
from s4s_nb.solvers import solve
from s4s_nb.student import PARTS
from tests.problems import F64, MIXTURE, identity, noise, pairs, problem, same_bits, student

COEFFICIENTS = ("coefficients",)
QUICK = {"iterations": 2, "progress": False}
EVERY_WAY = [("s4s", "gauss-newton"), ("joint", "bfgs"), ("s4s", "adam"), ("ld3", "adam")]


# ---------------------------------------------------------------- values and gradients


def test_distances_are_those_of_the_end_points_whatever_the_batch():
    data, solver = pairs("validation", 20), student().solver()
    expected = (solve(MIXTURE, data.starts, solver) - data.targets).square().sum(1)
    for batch in (1, 7, 50):
        given = problem(batch=batch)
        assert torch.allclose(given.distances(solver), expected, rtol=1e-12)
        assert torch.allclose(given.pair_distances(solver, data), expected, rtol=1e-12)
        assert float(given.loss(solver, data)) == pytest.approx(float(expected.mean()), rel=1e-12)


@pytest.mark.parametrize("start", ["dpmpp-3m", "dpm-2s"])
@pytest.mark.parametrize("parts", [COEFFICIENTS, ("levels", "offsets"), PARTS])
def test_the_gradient_is_that_of_all_pairs_at_once(start, parts):
    """Guards the way through the table's numbers, in which batches give their gradients."""
    here, given = student(start), problem(train=25, batch=10)
    at = 0.05 * noise(1, sum(here.sizes(parts)))[0]

    def mean(by):
        ends = solve(MIXTURE, given.train.starts, here.moved(by, parts))
        return (ends - given.train.targets).square().sum(1).mean()

    value, gradient = given.value_and_gradient(here, at, parts)
    assert value == pytest.approx(float(mean(at)), rel=1e-12)
    expected = torch.autograd.functional.jacobian(mean, at)
    assert (gradient - expected).abs().max() < 1e-10 * expected.abs().max()


def test_targets_are_embedded_once():
    """Guards the time of a trial: one call for a shape, one a batch of targets, one a batch of ends."""
    calls = []

    def embed(x):
        calls.append(len(x))
        return x

    given, here = problem(embed=embed, batch=10), student()
    for trial in range(5):
        given.distance(here, here.zero(COEFFICIENTS) + 0.01 * trial, COEFFICIENTS)
    assert sorted(calls) == [1] + [10] * (2 + 5 * 2)  # 20 validation pairs are two batches
    calls.clear()
    for _ in range(3):
        given.value_and_gradient(here, here.zero(COEFFICIENTS), COEFFICIENTS)
    assert sorted(calls) == [1] + [10] * (4 + 3 * 4)  # 40 training pairs are four


def test_targets_that_do_not_fit_are_embedded_anew_with_the_same_numbers(monkeypatch):
    kept, here = problem(), student()
    by = here.zero(COEFFICIENTS) + 0.05
    value, gradient = kept.value_and_gradient(here, by, COEFFICIENTS)
    monkeypatch.setattr(module, "KEPT_BYTES", 10)
    anew = problem()
    assert anew.train_batches[0].embedded is None
    value_of, gradient_of = anew.value_and_gradient(here, by, COEFFICIENTS)
    assert value_of == pytest.approx(value, rel=1e-12) and torch.allclose(gradient_of, gradient, rtol=1e-9)
    assert anew.distance(here, by, COEFFICIENTS) == kept.distance(here, by, COEFFICIENTS)


def test_targets_take_no_gradient_whatever_embeds_them():
    """Guards networks whose weights take gradients, and teachers run in inference mode."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    data, here = pairs("train", 40), student()
    with torch.inference_mode():
        data = Pairs(data.starts, data.targets.clone())
    given = Problem(MIXTURE, data, pairs("validation", 20), net)
    assert given.train.targets.is_inference()
    by = here.zero(COEFFICIENTS).requires_grad_()
    (slope,) = torch.autograd.grad(given.loss(here.moved(by, COEFFICIENTS), given.train), by)
    assert torch.allclose(
        slope, given.value_and_gradient(here, by.detach(), COEFFICIENTS)[1], rtol=1e-10, atol=1e-14
    )


# ---------------------------------------------------------------- failures


def test_a_solver_that_blows_up_is_infinitely_far():
    here = student()
    for by in (here.zero(COEFFICIENTS) + 1e200, here.zero(COEFFICIENTS) + torch.nan):
        assert problem().distance(here, by, COEFFICIENTS) == float("inf")
        value, gradient = problem().value_and_gradient(here, by, COEFFICIENTS)
        assert value == float("inf") and not gradient.any()
    together = torch.tensor([0.0, -800.0, 0.0, 0.0], dtype=F64)
    assert problem().distance(here, together, ("levels",)) == float("inf")
    assert problem().value_and_gradient(here, together, ("levels",))[0] == float("inf")


def test_a_denoiser_of_another_shape_is_an_error_not_an_infinite_distance():
    """Guards against learning that silently returns its start because every trial has failed."""
    with pytest.raises(InputError, match=r"shape \(1, 1\) for input \(1, 2\)") as caught:
        problem(denoise=lambda x, sigma: MIXTURE(x, sigma)[:, :1])
    assert not isinstance(caught.value, DivergedError)


@pytest.mark.parametrize(("method", "optimiser"), EVERY_WAY)
def test_a_denoiser_that_changes_its_shape_while_learning_is_an_error(method, optimiser):
    """After the start has been validated, so that only a trial meets it."""
    left = 10  # two looks, three for the fingerprint, five for the start

    def denoise(x, sigma):
        nonlocal left
        left -= 1
        return MIXTURE(x, sigma) if left >= 0 else MIXTURE(x, sigma)[:, :1]

    given = problem(denoise=denoise)
    with pytest.raises(InputError, match="in the shape of its input") as caught:
        learn_student(given, student(), method, optimiser=optimiser, **QUICK)
    assert not isinstance(caught.value, DivergedError)


def test_a_wrong_number_of_parameters_is_an_error_not_an_infinite_distance():
    here, given = student(), problem()
    for call in (given.distance, given.value_and_gradient):
        with pytest.raises(InputError, match="12 numbers; got 11") as caught:
            call(here, torch.zeros(11, dtype=F64), COEFFICIENTS)
        assert not isinstance(caught.value, DivergedError)


def test_no_pairs_are_refused():
    for empty in ({"train": 40, "validation": 0}, {"train": 0, "validation": 20}):
        parts = {split: pairs(split, 40)[:count] for split, count in empty.items()}
        with pytest.raises(InputError, match="at least one"):
            Problem(MIXTURE, embed=identity, **parts)


# ---------------------------------------------------------------- conditions


def shifted(x, sigma, *, where):
    """The mixture moved to another place for every sample."""
    return where + MIXTURE(x - where, sigma)


def conditional(given: Pairs) -> Pairs:
    """Each pair with the place that its mixture has moved to."""
    where = noise(len(given), seed=len(given))
    return Pairs(given.starts + where, given.targets + where, {"where": where})


def moved_problem(batch: int = 20) -> Problem:
    """The problem of :func:`problem`, with a condition of its own for every sample."""
    train, validation = pairs("train", 40), pairs("validation", 20)
    return Problem(shifted, conditional(train), conditional(validation), identity, batch)


@pytest.mark.parametrize(("method", "optimiser"), EVERY_WAY)
@pytest.mark.parametrize("batch", [20, 7])
def test_a_condition_goes_with_its_sample(method, optimiser, batch):
    """A consistent solver moves with the mixture, so what is learned is as if there were no condition."""
    solvers = []
    for given in (problem(), moved_problem(batch)):
        here = student("dpmpp-2m", consistent=True)
        solvers.append(learn_student(given, here, method, optimiser=optimiser, **QUICK).solver)
    plain, by_condition = solvers
    assert (plain.B - by_condition.B).abs().max() < 1e-6
    assert not same_bits(plain, student("dpmpp-2m", consistent=True).solver())


def test_tangents_take_conditions():
    given, options = moved_problem(7), {"optimiser": "gauss-newton", "derivatives": "tangents", **QUICK}
    by_condition = learn_student(given, student("dpmpp-2m", consistent=True), "s4s", **options).solver
    plain = learn_student(problem(), student("dpmpp-2m", consistent=True), "s4s", **options).solver
    assert (plain.B - by_condition.B).abs().max() < 1e-6


def test_guidance_shows_the_condition_to_the_conditional_model_alone():
    def unconditional(x, sigma):  # takes no condition
        return MIXTURE(x, sigma)

    denoise = guided(shifted, unconditional, 3.0)
    where, sigma = noise(16, seed=1), torch.tensor(0.5, dtype=F64)
    plain, told = MIXTURE(noise(), sigma), shifted(noise(), sigma, where=where)
    assert torch.allclose(denoise(noise(), sigma, where=where), plain + 3 * (told - plain), rtol=1e-12)
    train, validation = (conditional(pairs(split, 40)) for split in ("train", "validation"))
    given = Problem(denoise, train, validation, identity)
    result = learn_student(given, student(), "s4s", optimiser="adam", **QUICK)
    assert result.history[-1][2] < result.history[0][2]

"""Objectives: what each is, by its formula; Gauss–Newton and BFGS learn those that are sums of squares."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from s4s_nb.classic import make_solver
from s4s_nb.errors import InputError
from s4s_nb.learn import objectives as module
from s4s_nb.learn.gauss_newton import normal_equations
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.objectives import OBJECTIVES, huber_root, ways_of
from s4s_nb.learn.problem import Problem
from s4s_nb.pairs import Pairs, Way
from s4s_nb.schedules import VE, Flow, VPLinear
from s4s_nb.solvers import cut_trajectory, solve, trajectory
from s4s_nb.student import PARTS
from tests.problems import F64, GRID, MIXTURE, identity, noise, pairs, same_bits, student

TEACHER = make_solver("dpm-3s", 90, GRID)
EULER = make_solver("euler", 100, GRID)
QUICK = {"iterations": 3, "progress": False}


def with_way(split: str, count: int, teacher=TEACHER) -> Pairs:
    return ways_of(MIXTURE, pairs(split, 40)[:count].starts, teacher)


def given(objective: str, train: int = 40, **options) -> Problem:
    parts = {"embed": identity, "objective": objective, "batch": 15} | options
    return Problem(MIXTURE, with_way("train", train), with_way("validation", 20), **parts)


# ---------------------------------------------------------------- the teacher's way


def test_a_way_ends_at_the_targets_and_begins_at_the_starts():
    found = with_way("train", 25)
    assert torch.equal(found.way.states[:, 0], found.starts)
    assert torch.equal(found.targets, solve(MIXTURE, found.starts, TEACHER))
    assert torch.equal(found.way.levels, TEACHER.sigmas)
    chosen = torch.tensor([3, 1])
    assert torch.equal(found[chosen].way.states, found.way.states[chosen])
    assert [len(part.way.states) for part in found.split(10)] == [10, 10, 5]


def test_between_its_levels_a_way_is_a_line_and_at_them_the_states():
    way = with_way("train", 6, EULER).way
    for k in (0, 1, 57, 100):
        assert torch.allclose(way.at(way.levels[k]), way.states[:, k], rtol=1e-12)
    middle = (way.levels[30] + way.levels[31]) / 2
    assert torch.allclose(way.at(middle), (way.states[:, 30] + way.states[:, 31]) / 2, rtol=1e-12)
    each = way.levels[torch.arange(6) * 7].clone().requires_grad_()
    by_sample = way.at(each)
    for k in range(6):
        assert torch.allclose(by_sample[k], way.at(each[k])[k], rtol=1e-12)
    slope = torch.autograd.grad(by_sample[2].sum(), each)[0]
    noise_there = (way.states[2, 15] - way.states[2, 14]) / (way.levels[15] - way.levels[14])
    before = (way.states[2, 14] - way.states[2, 13]) / (way.levels[14] - way.levels[13])
    assert min(abs(slope[2] - noise_there.sum()), abs(slope[2] - before.sum())) < 1e-9


def test_a_way_that_does_not_fit_keeps_fewer_states(monkeypatch):
    monkeypatch.setattr(module, "WAY_BYTES", 20 * 40 * 16)
    thin = with_way("train", 40, EULER)
    assert 12 <= len(thin.way.levels) <= 22 and thin.way.levels[-1] == EULER.sigmas[-1]
    assert torch.equal(thin.targets, solve(MIXTURE, thin.starts, EULER))


# ---------------------------------------------------------------- formulas


def states_of(problem: Problem, solver) -> list[torch.Tensor]:
    return trajectory(MIXTURE, problem.validation.starts, solver)[0]


@pytest.mark.parametrize("schedule", [None, VE(), Flow(), VPLinear()])
def test_a_trajectory_counts_inner_states_and_the_embedded_end(schedule):
    problem, solver = given("trajectory", schedule=schedule), student().solver()
    states, own, expected = states_of(problem, solver), problem.validation, 0
    for sigma, x in list(zip(solver.sigmas, states, strict=True))[1:-1]:
        alpha = 1 / (1 + sigma) if isinstance(schedule, Flow) else (1 + sigma**2) ** -0.5
        expected += (alpha * (x - own.way.at(sigma))).square().mean(1)
    expected += (states[-1] - own.targets).square().sum(1)
    assert torch.allclose(problem.distances(solver), expected, rtol=1e-10)
    assert torch.allclose(given("dlms", schedule=schedule).distances(solver), expected, rtol=1e-10)


def test_dss_counts_every_state_and_a_thousandfold_huber_end():
    problem, solver = given("dss", schedule=Flow()), student().solver()
    states, own, expected = states_of(problem, solver), problem.validation, 0
    for sigma, x in list(zip(solver.sigmas, states, strict=True))[1:]:
        expected += ((x - own.way.at(sigma)) / (1 + sigma)).square().mean(1)
    huber = F.huber_loss(states[-1], own.targets, reduction="none", delta=1e-3).mean(1)
    assert torch.allclose(problem.distances(solver), expected + 1000 * huber, rtol=1e-10)


def test_bns_counts_logarithms():
    problem, plain, solver = given("bns"), given("end"), student().solver()
    assert torch.allclose(problem.distances(solver), plain.distances(solver).log(), rtol=1e-12)


def test_logarithms_below_zero_are_plotted_as_they_are():
    result = learn_student(given("bns"), student("dpmpp-2m"), "s4s", "gauss-newton", **QUICK)
    assert min(value for _, _, value in result.history) < 0
    assert result.plot().axes[0].get_yscale() == "linear"


def test_the_root_of_huber_has_a_continuous_derivative():
    apart = torch.tensor([-3e-3, -1e-3, 0.0, 1e-3 - 1e-9, 1e-3 + 1e-9, 0.5], dtype=F64, requires_grad=True)
    root = huber_root(apart)
    huber = F.huber_loss(apart, torch.zeros_like(apart), reduction="none", delta=1e-3)
    assert torch.allclose(root.square(), huber, rtol=1e-9)
    (slope,) = torch.autograd.grad(root.sum(), apart)
    assert abs(slope[3] - slope[4]) < 1e-5 and torch.isfinite(slope).all()
    assert torch.equal(root.sign(), apart.sign())


def test_a_set_term_is_frechet_of_moments_without_correlations():
    problem = given("end", features=lambda x: torch.cat([x, x.square()], 1), set_weight=3.0, batch=20)
    plain, solver = given("end", batch=20), student().solver()
    ends = states_of(problem, solver)[-1]
    f, g = (torch.cat([x, x.square()], 1) for x in (ends, problem.validation.targets))
    apart = (f.mean(0) - g.mean(0)).square().sum()
    apart += (f.std(0, correction=0) - g.std(0, correction=0)).square().sum()
    assert torch.allclose(problem.distances(solver), plain.distances(solver) + 3 * apart, rtol=1e-9)
    assert learn_student(problem, student(), "s4s", "gauss-newton", **QUICK).record["set_weight"] == 3.0


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize("objective", ["end", "trajectory", "dss", "bns"])
@pytest.mark.parametrize("derivatives", ["differences", "tangents"])
def test_least_squares_have_the_gradient_of_the_objective(objective, derivatives):
    """Three ways of one gradient: Jᵀr, that of the table's numbers, and of all pairs at once."""
    problem, here = given(objective, train=25, batch=10), student()
    by = 0.05 * noise(1, sum(here.sizes(PARTS)))[0]
    value, slope = problem.value_and_gradient(here, by, PARTS)
    moving = by.clone().requires_grad_()
    mean = problem.loss(here.moved(moving, PARTS), problem.train)
    assert value == pytest.approx(mean.item(), rel=1e-12)
    (expected,) = torch.autograd.grad(mean, moving)
    assert (slope - expected).abs().max() < 1e-10 * expected.abs().max()
    _, Jr = normal_equations(problem, here, by, PARTS, derivatives)
    close = 2e-2 if derivatives == "differences" else 1e-8
    assert (2 / 25 * Jr - expected).abs().max() < close * expected.abs().max()


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "dlms"])
@pytest.mark.parametrize("optimiser", ["gauss-newton", "bfgs", "adam"])
def test_every_optimiser_learns_every_objective(objective, optimiser):
    result = learn_student(given(objective), student("dpmpp-2m"), "joint", optimiser, **QUICK)
    assert result.record["kept"] == "learned"
    assert result.record["validation_best"] < result.record["validation_start"]
    assert result.record.get("objective", "end") == objective


def test_stopped_gradients_reach_two_rows_and_one_evaluation_back():
    """Against a loop that detaches by hand; a state's gradient has two rows of the table and no more."""
    here, x = student(), 10 * noise(5)
    table = here.solver()
    numbers = {
        key: getattr(table, key).clone().requires_grad_() for key in ("A", "B", "model_sigmas", "kappa")
    }
    moving = replace(table, **numbers)
    states, _ = cut_trajectory(MIXTURE, x, moving)
    plain = trajectory(MIXTURE, x, table)[0]
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(states, plain, strict=True))
    for i in range(1, 6):
        loss = states[i].square().sum()
        A, B, asked, _ = torch.autograd.grad(
            loss, [*numbers.values()], retain_graph=True, materialize_grads=True
        )
        rows = (B != 0).any(1).nonzero().flatten().tolist()
        assert rows == [k for k in (i - 2, i - 1) if k >= 0]
        assert asked.nonzero().flatten().tolist() == [i - 1]
    outputs = trajectory(MIXTURE, x, table)[1]
    row = numbers["B"][2, :3].detach().clone().requires_grad_()
    state = sum(w * d for w, d in zip(row, outputs, strict=False)) + table.A[2, 2] * plain[2]
    D = MIXTURE(state, table.model_sigmas[3])
    after = table.A[3, 3] * state + sum(table.B[3, j] * outputs[j] for j in range(3)) + table.B[3, 3] * D
    (expected,) = torch.autograd.grad(after.square().sum(), row)
    (found,) = torch.autograd.grad(states[4].square().sum(), numbers["B"], retain_graph=True)
    assert torch.allclose(found[2, :3], expected, rtol=1e-9)


def test_stopped_gradients_are_learned_by_first_order_alone():
    result = learn_student(given("dlms"), student("dpmpp-2m"), "joint", "adam", **QUICK)
    assert result.record["validation_best"] < result.record["validation_start"]
    for optimiser in ("bfgs", "gauss-newton"):
        with pytest.raises(InputError, match="for adam alone"):
            learn_student(given("dlms"), student(), "joint", optimiser, **QUICK)


# ---------------------------------------------------------------- what is refused, and what stays


def test_what_a_problem_lacks_is_said():
    plain = pairs("train", 20)
    with pytest.raises(InputError, match="objectives.ways_of"):
        Problem(MIXTURE, plain, plain, identity, objective="dss")
    with pytest.raises(InputError, match="end, trajectory, dlms, dss, bns"):
        Problem(MIXTURE, plain, plain, identity, objective="ends")
    for weight in (1.0, -1.0, math.nan):
        with pytest.raises(InputError, match="set term"):
            Problem(MIXTURE, plain, plain, identity, set_weight=weight)


def test_the_default_is_the_end_point_to_the_bit():
    """Ways that nobody compares change nothing, and leave no trace in what a run is known by."""
    plain = Problem(MIXTURE, pairs("train", 20), pairs("validation", 20), identity)
    data = {
        split: replace(pairs(split, 20), way=with_way(split, 20).way) for split in ("train", "validation")
    }
    other = Problem(MIXTURE, **data, embed=identity)
    assert plain.identity() == other.identity()
    solvers = [learn_student(p, student(), "joint", "bfgs", **QUICK).solver for p in (plain, other)]
    assert same_bits(*solvers)


def test_the_way_is_part_of_what_a_run_is():
    one, other = given("dss"), given("dss")
    assert one.identity() == other.identity()
    other.train = replace(other.train, way=Way(other.train.way.levels, other.train.way.states + 1e-6))
    assert one.identity() != other.identity()
    assert one.identity() != given("trajectory").identity()


def test_a_trajectory_of_few_levels_follows_the_teacher_more_closely_than_an_end_point_does():
    """Guards what it is for: states on the way are nearer, at the price of the end."""
    results = [
        learn_student(given(objective), student("dpmpp-2m"), "joint", "bfgs", iterations=8, progress=False)
        for objective in ("end", "trajectory")
    ]
    by_end, by_way = (float(given("trajectory").distances(r.solver).mean()) for r in results)
    assert by_way < by_end

"""Gauss–Newton on the exact mixture: its Jacobian is autograd's, and it beats Adam's start and end."""

import pytest
import torch

from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.learn.gauss_newton import first_changes, normal_equations
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.tangents import table_derivatives, trajectory_tangents
from s4s_nb.solvers import solve, trajectory
from s4s_nb.student import PARTS, Student
from tests.problems import F64, MIXTURE, held_out, noise, pairs, problem, student

COEFFICIENTS = ("coefficients",)
NEWTON = {"method": "s4s", "optimiser": "gauss-newton", "progress": False}


def autograd_equations(here: Student, by: torch.Tensor, parts, data) -> tuple[torch.Tensor, torch.Tensor]:
    """JᵀJ and Jᵀr by differentiating the whole sampling."""

    def residual(p):
        return (solve(MIXTURE, data.starts, here.moved(p, parts)) - data.targets).flatten()

    J, r = torch.autograd.functional.jacobian(residual, by), residual(by)
    return J.T @ J, J.T @ r


@pytest.mark.parametrize(
    ("start", "nfe", "options"),
    [
        ("ipndm-3", 5, {}),
        ("dpmpp-3m", 5, {"consistent": True}),
        ("unipc-3-bh2", 5, {}),
        ("dpm-3s", 7, {}),  # its nodes move the model's levels too
        ("heun", 6, {}),
    ],
)
def test_tangents_are_those_of_autograd_for_every_family(start, nfe, options):
    here, starts = student(start, nfe, **options), 10 * noise(7)

    def table(q):
        return here.moved(q, COEFFICIENTS)

    p = 0.05 * noise(here.coefficients.numel(), 1).flatten()
    J = torch.autograd.functional.jacobian(lambda q: solve(MIXTURE, starts, table(q)), p)
    derivatives = table_derivatives(table, p)[:4]
    states, tangents = trajectory_tangents(MIXTURE, starts, table(p), derivatives)
    assert torch.equal(states[-1], solve(MIXTURE, starts, table(p)))
    assert (tangents[-1] - J.movedim(-1, 0)).abs().max() < 1e-12 * J.abs().max()


def test_a_parameter_costs_nothing_before_its_step():
    asked, here = [], student()

    def denoise(x, sigma):
        asked.append(x.shape)
        return MIXTURE(x, sigma)

    def table(q):
        return here.moved(q, COEFFICIENTS)

    zero = here.zero(COEFFICIENTS)
    trajectory_tangents(denoise, 10 * noise(4), table(zero), table_derivatives(table, zero)[:4])
    assert len(asked) == 5  # one call a step: every tangent shares it


@pytest.mark.parametrize(("derivatives", "tolerance"), [("differences", 0.05), ("tangents", 1e-12)])
def test_normal_equations_are_those_of_autograd(derivatives, tolerance):
    here, given = student(), problem(train=20, batch=8)
    zero = here.zero(COEFFICIENTS)
    expected = autograd_equations(here, zero, COEFFICIENTS, given.train)
    found = normal_equations(given, here, zero, COEFFICIENTS, derivatives)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


@pytest.mark.parametrize("start", ["dpmpp-3m", "unipc-3-bh2", "dpm-2s"])
@pytest.mark.parametrize(("derivatives", "tolerance"), [("differences", 0.05), ("tangents", 1e-10)])
def test_normal_equations_of_moving_levels_are_those_of_autograd(start, derivatives, tolerance):
    here, given = student(start), problem(train=20, batch=20)
    by = 0.05 * noise(1, sum(here.sizes()))[0]
    expected = autograd_equations(here, by, PARTS, given.train)
    found = normal_equations(given, here, by, PARTS, derivatives)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


def test_what_changes_first():
    """Guards the evaluations that a difference may take from the undisturbed trajectory."""
    here = student()
    base = here.solver()
    last_offset = here.moved(torch.tensor([0, 0, 0, 0.1], dtype=F64), ("offsets",))
    assert first_changes(base, last_offset) == (5, 4)
    assert first_changes(base, base) == (5, 5)
    levels = here.moved(torch.tensor([0.1, 0, 0, 0], dtype=F64), ("levels",))
    assert first_changes(base, levels) == (0, 1)


def test_known_beginnings_spare_evaluations_and_change_nothing():
    counted, here = Counted(MIXTURE), student()
    starts, by = pairs("train", 5).starts, here.zero(COEFFICIENTS)
    by[-1] = 0.3  # the last step's oldest weight
    moved = here.moved(by, COEFFICIENTS)
    states, outputs = trajectory(counted, starts, here.solver())
    counted.nfe = 0
    again, _ = trajectory(counted, starts, moved, known=(states[:5], outputs[:5]))
    assert counted.nfe == 0
    assert torch.equal(again[-1], solve(MIXTURE, starts, moved))


def test_differences_cost_the_evaluations_after_their_step():
    """5 + Σ over the 12 coefficients: one of step i is followed by 5 − i evaluations."""
    counted, here = Counted(MIXTURE), student("dpmpp-3m")
    given = problem(train=20, batch=20, denoise=counted)
    normal_equations(given, here, here.zero(COEFFICIENTS), COEFFICIENTS)
    assert counted.nfe - 2 == 5 + 1 * 4 + 2 * 3 + 3 * 2 + 3 * 1 + 3 * 0


def test_it_learns_more_in_five_iterations_than_adam_in_eighty_updates():
    given = problem(train=200, validation=100)
    start = held_out(student().solver())
    newton = learn_student(given, student(), **NEWTON)
    adam = learn_student(
        given, student(), "s4s", optimiser="adam", iterations=8, learning_rate=3e-2, progress=False
    )
    assert held_out(newton.solver) < held_out(adam.solver) < start


def test_tangents_of_many_batches_are_those_of_one():
    """Forward mode has one level for all threads of a process, so its batches must not run side by side."""
    one, many = (
        learn_student(
            problem(batch=size), student(), iterations=2, derivatives="tangents", **NEWTON
        ).student.coefficients
        for size in (40, 2)
    )
    assert (one - many).abs().max() < 1e-8


def test_the_validation_distance_never_rises():
    given = problem(validation=40)
    result = learn_student(given, student(), **NEWTON)
    values = [value for _, _, value in result.history]
    assert values == sorted(values, reverse=True) and len(values) > 1
    assert result.record["validation_best"] == values[-1]
    assert values[-1] == pytest.approx(float(given.distances(result.solver).mean()), rel=1e-12)


def test_unknown_derivatives_are_refused():
    with pytest.raises(InputError, match="differences, tangents"):
        learn_student(problem(), student(), derivatives="hessians", **NEWTON)

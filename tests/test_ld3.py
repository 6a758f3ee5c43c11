"""LD3 on the exact mixture: what it moves and when, by which recipe, and which starts it keeps.

That it takes the way of the code before it, update by update, is tested in test_learn.py.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import RelaxedStarts
from tests.problems import F64, MIXTURE, held_out, noise, pairs, problem, same_bits, student

TRAIN = pairs("train", 12)


def small(**options):
    """The student of most tests here."""
    return student("dpmpp-1", 3, **options)


def learn(here=None, train: int = 12, alone: int = 1, iterations: int = 2, given=None, **options):
    given = given or problem(train=train, validation=12)
    options = {"alone": alone, "iterations": iterations, "progress": False} | options
    return learn_student(given, here or small(), "ld3", optimiser="adam", **options)


@pytest.mark.parametrize("start", ["ipndm-3", "unipc-3-bh2", "dpmpp-1"])
def test_held_out_distance_falls_and_coefficients_stay_classic(start):
    here = student(start)
    classic = here.solver()
    learned = learn(here, train=20).solver
    assert held_out(learned, 100) < 0.75 * held_out(classic, 100)
    there = student(start).table(learned.sigmas)
    assert torch.equal(there.A, learned.A) and torch.equal(there.B, learned.B)
    assert not torch.equal(learned.sigmas, classic.sigmas)


def test_it_learns_the_student_that_it_is_handed():
    """Guards against a recipe that begins with the classic solver: moved coefficients and levels stay."""
    here, given = student("dpmpp-3m"), problem(train=12, validation=12)
    numbers = 0.03 * noise(1, *here.sizes(("coefficients",)))[0]
    here.move(numbers, ("coefficients",))
    here.move(torch.tensor([0.2, -0.1, 0.1, 0.0], dtype=F64), ("levels",))
    handed, levels = here.solver(), here.levels.detach().clone()
    before = given.distance(here, here.zero(("levels",)), ("levels",))
    result = learn(here, given=given)
    assert result.record["validation_start"] == pytest.approx(before, rel=1e-12)
    assert before != float(given.distances(student("dpmpp-3m").solver()).mean())
    assert result.record["kept"] == "learned" and not torch.equal(here.levels, levels)
    assert torch.equal(here.coefficients, numbers)
    reached = float(given.distances(result.solver).mean())
    assert reached == pytest.approx(result.record["validation_best"], rel=1e-12) and reached < before
    assert not same_bits(result.solver, handed)


def test_validation_is_hard_and_begins_with_the_classic_solver():
    given, classic = problem(train=12, validation=12), small().solver()
    result = learn(radius=3.0)
    values = [value for *_, value in result.history]
    for solver, value in ((classic, values[0]), (result.solver, min(values))):
        assert value == pytest.approx(float(given.distances(solver).mean()), rel=1e-12)
    assert result.record["validation_best"] == min(values) < values[0]
    assert values != [value for *_, value in learn(radius=0.0).history]


def test_offsets_wait_for_their_rounds():
    here = learn(alone=2).student
    assert here.levels.all() and not here.offsets.any()
    here = learn(alone=0, iterations=1).student
    assert here.levels.all() and here.offsets.all()
    assert learn(small(width=0.0)).turns[0].parts == ("levels",)


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.01, 30), radius=st.floats(0.01, 1))
def test_a_start_is_kept_only_if_its_own_distance_fell(rate, radius):
    given, solver = problem(), small().solver()
    ball, chosen = RelaxedStarts(TRAIN, 10.0, radius), torch.arange(2, 11)
    for _ in range(2):
        part, old = ball[chosen], ball.shifts.clone()
        before = given.pair_distances(solver, part)
        before.mean().backward()
        ball.descend(
            chosen, part, rate, lambda moved, before=before: given.pair_distances(solver, moved) < before
        )
        moved = (ball.shifts != old).any(1)
        assert torch.equal(moved[chosen], given.pair_distances(solver, ball[chosen]) < before)
        assert moved.sum() == moved[chosen].sum() and ball.shifts.norm(dim=1).max() <= radius * (1 + 1e-12)


def test_learning_keeps_some_starts_and_refuses_others_by_the_updated_student(monkeypatch):
    kept, seen, descend, distances = [], [], RelaxedStarts.descend, Problem.pair_distances

    def spied(self, solver, some):
        seen.append(30 * distances(self, solver, some))
        return seen[-1]

    def watched(self, chosen, part, rate, accept):
        assert rate == 12 / (3 * len(part))  # their gradient is that of the mean
        old = self.shifts[chosen]
        descend(self, chosen, part, rate, accept)
        before, after = seen[-2:]
        kept.extend((self.shifts[chosen] != old).any(1).tolist())
        assert kept[-len(part) :] == (after < before).tolist() and not after.requires_grad

    monkeypatch.setattr(RelaxedStarts, "descend", watched)
    monkeypatch.setattr(Problem, "pair_distances", spied)
    learn(radius=1.0)
    assert len(kept) == 2 * len(TRAIN) and 0 < sum(kept) < len(kept)


def test_what_it_costs():
    """12 updates, 4 validations, and one each of the start and of the end, of 3 evaluations; moved starts
    ask for one more run an update. Beside these the fingerprint asks three times, a look twice, that at the
    activations take two, and the check of the gradient three each in x and in sigma."""
    for radius, runs in ((0.0, 18), (0.1, 30)):
        counted = Counted(MIXTURE)
        learn(given=problem(train=12, validation=12, denoise=counted), radius=radius)
        assert counted.nfe == 3 + 2 + 2 + 2 * 3 + 3 * runs


def test_radius_is_ld3s_unless_given():
    assert learn(iterations=1).record["radius"] == pytest.approx(0.001 * 2 / 3**2)
    assert learn(iterations=1, radius=0.5).record["radius"] == 0.5


def test_repeatable_for_a_seed_and_the_same_bits_after_an_interruption(tmp_path):
    whole, other = learn(radius=0.1), learn(radius=0.1, seed=1)
    assert other.history != whole.history
    left = 60

    def interrupted(x, sigma):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return MIXTURE(x, sigma)

    state = {"radius": 0.1, "state_file": tmp_path / "state.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        learn(given=problem(train=12, validation=12, denoise=interrupted), **state)
    assert state["state_file"].exists()
    again = learn(**state)
    assert same_bits(again.solver, whole.solver) and again.history == whole.history
    for changed in ({"seed": 1}, {"alone": 2}, {"here": small(kind="sticks")}, {"here": small(width=0.4)}):
        with pytest.raises(InputError, match="another run"):
            learn(**(state | changed))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="0 or more"):
        learn(radius=-1.0)
    with pytest.raises(InputError, match="two steps"):
        learn(student("dpmpp-1", 1))

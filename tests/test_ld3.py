"""LD3 on the exact mixture: what it moves and when, by which recipe, and which starts it keeps.

Its way is that of LD3's code, which is written out once more here in the parameters that LD3 has.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import RelaxedStarts
from s4s_nb.levels import decoupled
from tests.problems import F64, MIXTURE, held_out, noise, pairs, problem, same_bits, student

TRAIN = pairs("train", 12)


def small(**options):
    """The student of most tests here."""
    return student("dpmpp-1", 3, **options)


def learn(here=None, train: int = 12, alone: int = 1, iterations: int = 2, given=None, **options):
    given = given or problem(train=train, validation=12)
    options = {"alone": alone, "iterations": iterations, "progress": False} | options
    return learn_student(given, here or small(), "ld3", optimiser="adam", **options)


# ---------------------------------------------------------------- the way of LD3's code


def theirs(given: Problem, radius: float, rounds: int, patience: int, seed: int = 0) -> torch.Tensor:
    """The levels that LD3's trainer ends with, written out from its code: N + 1 logits that begin at 1, of
    which the first is idle; hard validation on all pairs after every update."""
    nfe, ends = 3, torch.tensor([10.0, 0.01], dtype=F64).log()
    logits = torch.ones(nfe + 1, dtype=F64, requires_grad=True)
    optimizer = torch.optim.RMSprop([logits], lr=5e-3, momentum=0.9)
    latents = given.train.starts / 10
    moved, order = latents.clone(), torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(latents), generator=order) for _ in range(rounds)]

    def end(x):
        way = logits.softmax(0).cumsum(0)
        lam = ends[0] + (way - way[0]) / (way[-1] - way[0]) * (ends[1] - ends[0])
        for a, b in pairwise(lam.exp()):  # DDIM
            x = b / a * x + (1 - b / a) * MIXTURE(x, a)
        return x

    def apart(x, targets):
        return (end(10 * x) - targets).square().sum(1)

    best, worse = (torch.inf, logits.detach().clone()), 0
    with torch.no_grad():
        best = float(apart(given.validation.starts / 10, given.validation.targets).mean()), best[1]
    for chosen_of_round in orders:
        worse = 0
        for chosen in chosen_of_round.split(2):
            x, targets = moved[chosen].requires_grad_(), given.train.targets[chosen]
            before = apart(x, targets)
            optimizer.zero_grad()
            before.mean().backward()
            torch.nn.utils.clip_grad_norm_([logits], 1.0)
            optimizer.step()
            with torch.no_grad():
                value = float(apart(given.validation.starts / 10, given.validation.targets).mean())
                worse += 1
                if value < best[0]:
                    best, worse = (value, logits.detach().clone()), 0
                if worse == patience:
                    logits.data, worse = best[1].clone(), 0
                    optimizer.param_groups[0]["lr"] *= 0.8
                shift = x - 12 / nfe * x.grad - latents[chosen]
                shift *= (radius / shift.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
                nearer = apart(latents[chosen] + shift, targets) < before
                moved[chosen[nearer]] = (latents[chosen] + shift)[nearer]
        logits.data = best[1].clone()
    way = logits.detach().softmax(0).cumsum(0)
    return (ends[0] + (way - way[0]) / (way[-1] - way[0]) * (ends[1] - ends[0])).exp()


@pytest.mark.parametrize(("radius", "patience"), [(0.0, 5), (0.3, 5), (1.0, 2)])
def test_levels_go_the_way_of_ld3s_code(radius, patience):
    given = problem(train=24, validation=12)
    expected = theirs(given, radius, 4, patience)
    result = learn(small(width=0.0), given=given, radius=radius, patience=patience, iterations=4)
    assert torch.allclose(result.solver.sigmas, expected, rtol=1e-7)
    assert radius == 0 or not torch.allclose(expected, theirs(given, 0.0, 4, patience), rtol=1e-3)
    assert (result.solver.sigmas / small().sigmas)[1:-1].log().abs().max() > 0.3, "they have moved far"
    pinned = result.student.levels.detach()
    assert not torch.allclose(pinned, pinned.mean().expand_as(pinned), atol=0.1)


def test_offsets_step_by_their_gradient_in_the_logarithm_of_the_level():
    """One update over all pairs: −0.1/N times the gradient, clipped; half of a gap is a unit of ξ."""
    given, step = problem(train=12, validation=12), 1e-5

    def loss(shift: torch.Tensor) -> float:
        classic = small().solver()
        asked = torch.cat([classic.sigmas[:1], classic.sigmas[1:-1] * shift.exp()])
        return float(given.loss(decoupled(classic, asked), given.train))

    shifts = step * torch.eye(2, dtype=F64)
    slope = torch.tensor([loss(s) - loss(-s) for s in shifts], dtype=F64) / (2 * step)
    expected = -0.1 / 3 * slope / max(1.0, float(slope.norm()))
    reach = 0.5 * small().sigmas.log().diff().abs().min()
    learned = learn(small(), given=given, alone=0, iterations=1, size=12, radius=0.0)
    assert learned.record["kept"] == "learned"
    assert torch.allclose(learned.student.offsets * reach, expected, rtol=1e-6)
    assert expected.abs().max() > 1e-3


# ---------------------------------------------------------------- what it learns


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
    result = learn(radius=3.0, iterations=4)
    values = [value for *_, value in result.history]
    for solver, value in ((classic, values[0]), (result.solver, values[-1])):
        assert value == pytest.approx(float(given.distances(solver).mean()), rel=1e-12)
    assert result.record["validation_best"] == values[-1] < values[0]
    assert values == sorted(values, reverse=True), "a round ends with the best so far"


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
    """12 updates with a validation each, and one of the start and of the end, of 3 evaluations; moved
    starts ask for one more run an update. Beside these the fingerprint asks three times, a look twice,
    that at the activations take two, and the check of the gradient three each in x and in sigma."""
    for radius, runs in ((0.0, 26), (0.1, 38)):
        counted = Counted(MIXTURE)
        learn(given=problem(train=12, validation=12, denoise=counted), radius=radius)
        assert counted.nfe == 3 + 2 + 2 + 2 * 3 + 3 * runs


def test_radius_is_ld3s_unless_given():
    assert learn(iterations=1).record["radius"] == pytest.approx(0.001 * 2 / 3**2)
    assert learn(iterations=1, radius=0.5).record["radius"] == 0.5


def test_repeatable_for_a_seed_and_the_same_bits_after_an_interruption(tmp_path):
    whole, other = learn(radius=0.1), learn(radius=0.1, seed=1)
    assert other.history != whole.history
    left = 100

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

"""The relaxed objective: the ball, the hard limit, one set of moved starts, and a validation without."""

from functools import partial

import pytest
import torch

from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.relaxed import RelaxedStarts, radius_rule
from tests.problems import F64, pairs, problem, same_bits, student


def learn(radius: float, method: str = "s4s", given=None, **options):
    options = {"iterations": 3, "learning_rate": 2e-2, "size": 20, "progress": False} | options
    here = student("dpmpp-2m", 4)
    return learn_student(given or problem(), here, method, optimiser="adam", radius=radius, **options)


def test_radius_rule_is_ld3s_at_five_steps_and_falls_with_the_power():
    assert radius_rule(12, 3072) == pytest.approx(0.001 * 3072 / 25)
    assert radius_rule(48, 3072) == pytest.approx(radius_rule(12, 3072) / 32)


def test_projection_keeps_what_is_inside_and_scales_the_rest_to_the_radius():
    ball = RelaxedStarts(pairs("train", 3), 10.0, radius=0.5)
    shifts = torch.tensor([[0.1, 0.2], [3.0, 4.0], [0.0, 0.0]], dtype=F64)
    projected = ball.project(shifts)
    assert torch.equal(projected[0], shifts[0]) and torch.equal(projected[2], shifts[2])
    assert projected[1].tolist() == pytest.approx([0.3, 0.4])


def test_the_hard_objective_is_the_limit_of_small_radii():
    hard, small, large = ([v for *_, v in learn(radius).history] for radius in (0.0, 1e-9, 0.3))
    assert small == pytest.approx(hard, rel=1e-6) and small != hard
    assert large != pytest.approx(hard, rel=1e-2)


def test_no_radius_is_the_hard_objective_but_for_ld3s_own_recipe():
    without = partial(learn_student, problem(), optimiser="adam", iterations=1, progress=False)
    assert without(student(), "s4s").record["radius"] == 0.0
    assert without(student(), "joint").record["radius"] == 0.0
    assert without(student(nfe=4), "ld3").record["radius"] == pytest.approx(0.001 * 2 / 4**2)


def test_validation_starts_from_x_t_whatever_the_radius():
    given, result = problem(), learn(3.0)
    hard = float(given.distances(result.solver).mean())
    assert min(value for *_, value in result.history) == pytest.approx(hard, rel=1e-12)
    assert result.history != learn(0.0).history


def test_moved_starts_lower_the_training_loss_stay_with_their_sample_and_in_the_ball():
    train, given = pairs("train", 30), problem()
    ball = RelaxedStarts(train, 10.0, radius=0.3)
    solver = student("dpmpp-2m", 4).solver()
    losses = []
    for _ in range(20):
        for chosen in torch.arange(30).split(10):
            part = ball[chosen]
            loss = given.loss(solver, part)
            loss.backward()
            losses.append(float(loss.detach()))
            ball.descend(chosen, part, rate=0.3)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert ball.shifts.flatten(1).norm(dim=1).max() <= 0.3 * (1 + 1e-12)
    moved = ball[torch.tensor([4])].starts - train.starts[4:5]
    assert torch.allclose(moved, 10.0 * ball.shifts[4:5]) and moved.abs().max() > 0
    assert 0 < ball.boundary_share <= 1


def test_the_record_has_radius_and_boundary_share():
    record = learn(0.1).record
    assert record["radius"] == 0.1 and 0 <= record["boundary_share"] <= 1
    assert learn(0.0).record["boundary_share"] == 0.0
    for radius in (-1.0, float("nan")):
        with pytest.raises(InputError, match="0 or more"):
            learn(radius)


# ---------------------------------------------------------------- over the turns of S4S-Alt


@pytest.fixture
def watched(monkeypatch) -> list[tuple[RelaxedStarts, torch.Tensor, torch.Tensor]]:
    """Every move of some starts: whose they are, and all shifts before and after it."""
    moves, descend = [], RelaxedStarts.descend

    def watching(self, *arguments, **options):
        before = self.shifts.clone()
        descend(self, *arguments, **options)
        moves.append((self, before, self.shifts.clone()))

    monkeypatch.setattr(RelaxedStarts, "descend", watching)
    return moves


ALT = {"method": "s4s-alt", "rounds": 2, "iterations": 1}


def test_one_set_of_moved_starts_goes_through_all_turns(watched):
    """Guards against turns that begin with x_T again: a later turn's shifts begin where the last ended."""
    record = learn(0.1, **ALT).record
    assert len(watched) == 4 * 2  # turns of two batches
    assert len({id(starts) for starts, *_ in watched}) == 1
    assert {starts.radius for starts, *_ in watched} == {0.1} and record["radius"] == 0.1
    assert not watched[0][1].any()
    for (_, _, after), (_, before, then) in zip(watched, watched[1:], strict=False):
        assert torch.equal(after, before) and not torch.equal(before, then)


def test_the_state_file_keeps_moved_starts_from_turn_to_turn(tmp_path, watched):
    whole = learn(0.1, **ALT)
    ended = watched[-1][2]
    state = tmp_path / "state.safetensors"
    left = 5

    class Stopped(Exception):
        pass

    def embed(x):
        nonlocal left
        left -= x.requires_grad  # once an update
        if left < 0:
            raise Stopped
        return x

    with pytest.raises(Stopped):
        learn(0.1, given=problem(embed=embed), state_file=state, **ALT)
    kept, metadata = read_safetensors(state)
    assert torch.equal(kept["shifts"], watched[8 + 3][2])  # those after two turns of two updates
    assert kept["shifts"].any() and '"turn": 2' in metadata["record"]
    watched.clear()
    again = learn(0.1, state_file=state, **ALT)
    assert torch.equal(watched[0][1], kept["shifts"]) and len(watched) == 4
    assert torch.equal(watched[-1][2], ended) and torch.equal(read_safetensors(state)[0]["shifts"], ended)
    assert again.history == whole.history and same_bits(again.solver, whole.solver)

"""LD3 on the exact mixture: what it moves and when, by which recipe, and which starts it keeps."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.families import make_family
from s4s_nb.grids import log_snr
from s4s_nb.ld3 import learn_ld3
from s4s_nb.learn import end_point_distances, end_point_loss
from s4s_nb.relaxed import RelaxedStarts
from s4s_nb.times import Joint
from tests.test_learn import MIXTURE, distance, pairs

GRID = partial(log_snr, sigma_max=10.0, sigma_min=0.01)
TRAIN, VALIDATION = pairs("train", 12), pairs("validation", 12)


def joint(start="dpmpp-1", steps=3, **options) -> Joint:
    return Joint(make_family(start, steps, GRID), **options)


JOINT = joint()
SIZES = [JOINT.sizes["levels"], JOINT.sizes["offsets"]]


def learn(j=JOINT, denoise=MIXTURE, train=TRAIN, distance=distance, **options):
    options = {"rounds": (1, 1), "progress": False} | options
    return learn_ld3(denoise, j, train, VALIDATION, distance, **options)


@pytest.mark.parametrize("start", ["ipndm-3", "unipc-3-bh2", "dpmpp-1"])
def test_held_out_distance_falls_and_coefficients_stay_classic(start):
    j, test = joint(start, 5), pairs("test", 100)
    learned = learn(j, train=pairs("train", 20)).solver
    classic = j.family.table(j.family.zero)
    before, after = (end_point_loss(MIXTURE, s, test, distance) for s in (classic, learned))
    assert after < 0.75 * before
    there = j.family.table(j.family.zero, learned.sigmas)
    assert torch.equal(there.A, learned.A) and torch.equal(there.B, learned.B)
    assert not torch.equal(learned.sigmas, classic.sigmas)


def test_validation_is_hard_and_begins_with_the_classic_solver():
    learned = learn(radius=3.0)
    values = [value for _, value in learned.history]
    for solver, value in ((JOINT.table(JOINT.zero), values[0]), (learned.solver, min(values))):
        hard = float(end_point_loss(MIXTURE, solver, VALIDATION, distance))
        assert value == pytest.approx(hard, rel=1e-12)
    assert learned.solver.info["validation_best"] == min(values) < values[0]
    assert values != [value for _, value in learn(radius=0.0).history]


def test_offsets_wait_for_their_rounds():
    levels, offsets = learn(rounds=(2, 0)).parameters.split(SIZES)
    assert levels.all() and not offsets.any()
    assert learn(rounds=(0, 1)).parameters.all()
    assert len(learn(joint(width=0.0)).parameters) == SIZES[0]


def test_radius_zero_is_the_hard_objective():
    """By the plain loop, that has the rates, the clipping and the returns to the best as well."""
    family = JOINT.part(("levels", "offsets"))
    levels, offsets = (part.clone().requires_grad_() for part in family.zero.split(SIZES))
    rmsprop = torch.optim.RMSprop([levels], lr=5e-3, momentum=0.9)
    sgd = torch.optim.SGD([offsets], lr=0.0)
    generator, best = torch.Generator().manual_seed(0), family.zero
    values = [float(end_point_loss(MIXTURE, family.table(best), VALIDATION, distance))]
    for number in range(4):
        if number == 2:
            sgd.param_groups[0]["lr"] = 0.1 / 3
        for half in torch.randperm(len(TRAIN), generator=generator).chunk(2):
            levels.data, offsets.data = (part.clone() for part in best.split(SIZES))
            for chosen in half.split(2):
                solver = family.table(torch.cat([levels, offsets]))
                levels.grad, offsets.grad = torch.autograd.grad(
                    end_point_loss(MIXTURE, solver, TRAIN[chosen], distance), (levels, offsets)
                )
                torch.nn.utils.clip_grad_norm_([levels], 1.0)
                torch.nn.utils.clip_grad_norm_([offsets], 1.0)
                rmsprop.step()
                sgd.step()
            now = torch.cat([levels, offsets]).detach()
            values.append(float(end_point_loss(MIXTURE, family.table(now), VALIDATION, distance)))
            if values[-1] == min(values):
                best = now
            else:
                for optimizer in (rmsprop, sgd):
                    optimizer.param_groups[0]["lr"] *= 0.8
    learned = learn(rounds=(2, 2), radius=0.0)
    assert [value for _, value in learned.history] == pytest.approx(values, rel=1e-12)
    assert torch.allclose(learned.parameters, best, rtol=1e-9)
    assert values != sorted(values, reverse=True)  # so there was a return, and rates fell


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.01, 30), radius=st.floats(0.01, 1))
def test_a_start_is_kept_only_if_its_own_distance_fell(rate, radius):
    ball, chosen, solver = RelaxedStarts(TRAIN, 10.0, radius), torch.arange(2, 11), JOINT.table(JOINT.zero)

    def distances(some):
        return end_point_distances(MIXTURE, solver, some, distance)

    for _ in range(2):
        part, old = ball[chosen], ball.shifts.clone()
        before = distances(part)
        before.mean().backward()
        ball.descend(chosen, part, rate, lambda moved, before=before: distances(moved) < before)
        moved = (ball.shifts != old).any(1)
        assert torch.equal(moved[chosen], distances(ball[chosen]) < before)
        assert moved.sum() == moved[chosen].sum() and ball.shifts.norm(dim=1).max() <= radius * (1 + 1e-12)


def test_learning_keeps_some_starts_and_refuses_others_by_the_updated_student(monkeypatch):
    seen, kept, descend = [], [], RelaxedStarts.descend

    def spied(x, y):
        seen.append(30 * distance(x, y))
        return seen[-1]

    def watched(self, chosen, part, rate, accept):
        assert rate == 12 / (3 * len(part))  # their gradient is that of the mean
        old = self.shifts[chosen]
        descend(self, chosen, part, rate, accept)
        before, after = seen[-2:]
        kept.extend((self.shifts[chosen] != old).any(1).tolist())
        assert kept[-len(part) :] == (after < before).tolist() and not after.requires_grad

    monkeypatch.setattr(RelaxedStarts, "descend", watched)
    learn(radius=1.0, distance=spied)
    assert len(kept) == 2 * len(TRAIN) and 0 < sum(kept) < len(kept)


def test_what_it_costs():
    """12 updates and 5 validations of 3 evaluations; moved starts ask for one more run an update."""
    for radius, runs in ((0.0, 17), (0.1, 29)):
        counted = Counted(MIXTURE)
        learn(denoise=counted, radius=radius)
        assert counted.nfe == 3 * runs


def test_radius_is_ld3s_unless_given():
    assert learn(rounds=(0, 0)).solver.info["radius"] == pytest.approx(0.001 * 2 / 3**2)


def test_repeatable_for_a_seed_and_the_same_bits_after_an_interruption(tmp_path):
    whole, other = learn(radius=0.1), learn(radius=0.1, seed=1)
    assert other.history != whole.history
    calls = iter(range(20))

    def interrupted(x, y):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return distance(x, y)

    state = {"radius": 0.1, "state_file": tmp_path / "state.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        learn(distance=interrupted, **state)
    again = learn(**state)
    assert torch.equal(again.parameters, whole.parameters) and again.history == whole.history
    others = joint(kind="sticks"), joint(width=0.4)
    for changed in ({"seed": 1}, {"train": TRAIN[:9]}, *({"j": other} for other in others)):
        with pytest.raises(InputError, match="another run"):
            learn(**(state | changed))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="at least one"):
        learn(train=TRAIN[:0])
    with pytest.raises(InputError, match="0 or more"):
        learn(radius=-1.0)
    with pytest.raises(InputError, match="two steps"):
        learn(joint(steps=1))

"""The relaxed objective: the ball, the hard limit, and a validation that never starts from it."""

import math

import pytest
import torch

from s4s_nb.denoisers import Counted, checkpointed
from s4s_nb.errors import InputError
from s4s_nb.families import linear_multistep_family
from s4s_nb.grids import log_snr
from s4s_nb.learn import end_point_loss, learn_s4s
from s4s_nb.relaxed import RelaxedStarts, radius_rule
from s4s_nb.teachers import Pairs
from tests.problems import F64
from tests.test_learn import MIXTURE, distance, pairs

FAMILY = linear_multistep_family("dpmpp-2m", log_snr(4, 10.0, 0.01))


def learn(radius: float, denoise=MIXTURE, **options):
    options = {"epochs": 3, "learning_rate": 2e-2, "progress": False} | options
    return learn_s4s(
        denoise, FAMILY, pairs("train", 40), pairs("validation", 20), distance, radius=radius, **options
    )


def test_radius_rule_is_ld3s_at_five_steps_and_falls_with_the_power():
    assert radius_rule(12, 3072) == pytest.approx(0.001 * 3072 / 25)
    assert radius_rule(48, 3072) == pytest.approx(radius_rule(12, 3072) / 32)


def test_projection_keeps_what_is_inside_and_scales_the_rest_to_the_radius():
    ball = RelaxedStarts(pairs("train", 3), 10.0, radius=0.5)
    shifts = torch.tensor([[0.1, 0.2], [3.0, 4.0], [0.0, 0.0]], dtype=F64)
    projected = ball.project(shifts)
    assert torch.equal(projected[0], shifts[0]) and torch.equal(projected[2], shifts[2])
    assert projected[1].tolist() == pytest.approx([0.3, 0.4])


def test_radius_zero_is_the_hard_objective_bit_for_bit():
    """By the plain loop: Adam on the end-point loss from x_T."""
    train = pairs("train", 40)
    parameters = FAMILY.zero.requires_grad_()
    adam = torch.optim.Adam([parameters])
    rates = iter(2e-2 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6))
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(3):
        for chosen in torch.randperm(40, generator=generator).split(20):
            loss = end_point_loss(MIXTURE, FAMILY.table(parameters), train[chosen], distance)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([parameters], 1.0)
            adam.param_groups[0]["lr"] = next(rates)
            adam.step()
        values.append(
            float(
                end_point_loss(
                    MIXTURE, FAMILY.table(parameters.detach()), pairs("validation", 20), distance
                )
            )
        )
    assert [value for _, value in learn(0.0).history[1:]] == values


def test_validation_starts_from_x_t_whatever_the_radius():
    learned = learn(3.0)
    hard = end_point_loss(MIXTURE, learned.solver, pairs("validation", 20), distance)
    assert min(value for _, value in learned.history) == pytest.approx(float(hard), rel=1e-12)
    assert learned.history != learn(0.0).history


def test_moved_starts_lower_the_training_loss_stay_with_their_sample_and_in_the_ball():
    train = pairs("train", 30)
    ball = RelaxedStarts(train, 10.0, radius=0.3)
    solver = FAMILY.table(FAMILY.zero)
    losses = []
    for _ in range(20):
        for chosen in torch.arange(30).split(10):
            part = ball[chosen]
            loss = end_point_loss(MIXTURE, solver, part, distance)
            loss.backward()
            losses.append(float(loss.detach()))
            ball.descend(chosen, part, rate=0.3)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert ball.shifts.flatten(1).norm(dim=1).max() <= 0.3 * (1 + 1e-12)
    moved = ball[torch.tensor([4])].starts - train.starts[4:5]
    assert torch.allclose(moved, 10.0 * ball.shifts[4:5]) and moved.abs().max() > 0
    assert 0 < ball.boundary_share <= 1


def test_the_record_has_radius_and_boundary_share():
    info = learn(0.1).solver.info
    assert info["radius"] == 0.1 and 0 <= info["boundary_share"] <= 1
    assert learn(0.0).solver.info["boundary_share"] == 0.0
    with pytest.raises(InputError, match="0 or more"):
        learn(-1.0)


def test_a_gradient_that_is_no_number_is_named():
    def rooted(x, y):
        return distance(x, y) + (0 * x.sum(-1)).abs().sqrt()  # slope 0 · ∞ at 0

    with pytest.raises(InputError, match=r"gradient of parameters \[0, 1.*at update 0"):
        learn_s4s(MIXTURE, FAMILY, pairs("train", 4), pairs("validation", 4), rooted, progress=False)


def test_checkpointing_has_the_same_gradients_for_one_more_evaluation():
    counted, data = Counted(MIXTURE), pairs("train", 5)
    gradients = []
    for denoise in (MIXTURE, checkpointed(counted)):
        parameters = torch.full((FAMILY.size,), 0.05, dtype=F64, requires_grad=True)
        end_point_loss(
            denoise, FAMILY.table(parameters), Pairs(data.starts, data.targets), distance
        ).backward()
        gradients.append(parameters.grad)
    assert torch.equal(*gradients)
    assert counted.nfe == 2 * 4 - 1  # the first output depends on no parameter: nothing to go back to

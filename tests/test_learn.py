"""S4S on the exact mixture: identity at the start, gradients, improvement, best state kept."""

import pytest
import torch

from s4s_nb.classic import MULTISTEP, make_solver
from s4s_nb.denoisers import GaussianMixture
from s4s_nb.errors import InputError
from s4s_nb.families import linear_multistep_family
from s4s_nb.grids import log_snr
from s4s_nb.learn import end_point_loss, learn_s4s
from s4s_nb.solvers import sample
from s4s_nb.teachers import SEEDS, Pairs, seeded_noise

MIXTURE = GaussianMixture(
    torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.3, -0.9]]), torch.tensor([0.15, 0.2, 0.25])
)
STARTS = [name for name in MULTISTEP if name != "ab4" and name != "ipndm-4"]


def distance(x, y):
    return (x - y).square().sum(-1)


def pairs(split: str, count: int) -> Pairs:
    starts = 10 * seeded_noise(split, count, (2,)).double()
    teacher = make_solver("dpm-3s", 90, lambda n: log_snr(n, 10.0, 0.01))
    return Pairs(starts, sample(MIXTURE, starts, teacher))


@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m"])
def test_learning_beats_the_classic_start_on_unseen_noise(start):
    sigmas = log_snr(5, 10.0, 0.01)
    family = linear_multistep_family(start, sigmas)
    learned = learn_s4s(
        MIXTURE,
        family,
        pairs("train", 200),
        pairs("validation", 100),
        distance,
        epochs=10,
        learning_rate=3e-2,
        progress=False,
    )
    test = pairs("test", 200)
    classic = family.table(family.zero)
    after = end_point_loss(MIXTURE, learned.solver, test, distance)
    assert after < 0.9 * end_point_loss(MIXTURE, classic, test, distance)


def test_the_best_validated_state_is_kept():
    """With an absurd learning rate the start is the best state, and comes back untouched."""
    family = linear_multistep_family("dpmpp-3m", log_snr(5, 10.0, 0.01))
    learned = learn_s4s(
        MIXTURE,
        family,
        pairs("train", 20),
        pairs("validation", 20),
        distance,
        epochs=3,
        learning_rate=3.0,
        progress=False,
    )
    values = [value for _, value in learned.history]
    assert values[0] == min(values)
    assert learned.parameters.abs().max() == 0
    assert learned.solver.info["validation_best"] == min(values)


def test_learning_is_repeatable_and_refuses_empty_sets():
    family = linear_multistep_family("ipndm-3", log_snr(3, 10.0, 0.01))
    train, validation = pairs("train", 20), pairs("validation", 10)
    a, b = (
        learn_s4s(MIXTURE, family, train, validation, distance, epochs=2, progress=False) for _ in range(2)
    )
    assert torch.equal(a.parameters, b.parameters)
    with pytest.raises(InputError, match="at least one"):
        learn_s4s(MIXTURE, family, Pairs(train.starts[:0], train.targets[:0]), validation, distance)


def test_noise_is_one_seed_a_sample_and_splits_are_disjoint():
    shape = (1, 4, 4)
    noise = seeded_noise("test", 6, shape)
    assert torch.equal(noise[4:], seeded_noise("test", 2, shape, first=4))
    own = torch.randn(shape, generator=torch.Generator().manual_seed(SEEDS["test"] + 3))
    assert torch.equal(noise[3], own)
    starts = sorted(SEEDS.values())
    assert all(b - a >= 1_000_000 for a, b in zip(starts, starts[1:], strict=False))
    with pytest.raises(InputError, match="million"):
        seeded_noise("train", 2, shape, first=999_999)


def test_sgd_learns_too_and_goes_on_with_its_momentum(tmp_path):
    family = linear_multistep_family("dpmpp-3m", log_snr(5, 10.0, 0.01))
    data = pairs("train", 40), pairs("validation", 40)
    options = {"epochs": 4, "learning_rate": 0.1, "optimiser": "SGD", "progress": False}
    whole = learn_s4s(MIXTURE, family, *data, distance, **options)
    values = [value for _, value in whole.history]
    assert min(values) < 0.9 * values[0]
    assert whole.solver.info["optimiser"] == "SGD"
    asked = iter(range(8))  # one for the start, three an epoch: stopped in the third

    def interrupted(x, y):
        if next(asked, None) is None:
            raise KeyboardInterrupt
        return distance(x, y)

    options["state_file"] = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learn_s4s(MIXTURE, family, *data, interrupted, **options)
    assert torch.equal(learn_s4s(MIXTURE, family, *data, distance, **options).parameters, whole.parameters)
    with pytest.raises(InputError, match="Unknown optimiser 'LBFGS'"):
        learn_s4s(MIXTURE, family, *data, distance, optimiser="LBFGS")


def test_patience_ends_a_learning_that_gains_nothing():
    """With an absurd learning rate no epoch is better than the start; two of them are enough to see it."""
    family = linear_multistep_family("dpmpp-3m", log_snr(5, 10.0, 0.01))
    options = {"distance": distance, "learning_rate": 3.0, "progress": False}
    learned = learn_s4s(
        MIXTURE, family, pairs("train", 20), pairs("validation", 20), epochs=6, patience=2, **options
    )
    assert len(learned.history) == 3
    assert not learned.parameters.any()

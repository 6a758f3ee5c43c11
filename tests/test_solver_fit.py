"""A solver knows what it was learned for, and is refused elsewhere unless a transfer is asked for."""

from functools import partial

import pytest

from s4s_nb.classic import make_solver
from s4s_nb.errors import InputError
from s4s_nb.evaluate import checked, evaluate, sample
from s4s_nb.files import data_file
from s4s_nb.learn import learn
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.models.named_solvers import learned_solvers
from s4s_nb.schedules import VPCosine
from s4s_nb.solvers import Solver
from tests.problems import MIXTURE


def toy(name: str = "toy", **other) -> Model:
    return Model(MIXTURE, (2,), **{"sigma_max": 10.0, "sigma_min": 0.01, "name": name, **other})


@pytest.fixture(scope="module")
def learned() -> Solver:
    return learn(toy(), 3, "s4s", start="euler", grid="karras", pairs=4, progress=False).solver


WAYS_TO_USE = [partial(sample, count=4), partial(evaluate, samples=4)]


@pytest.mark.parametrize("use", WAYS_TO_USE, ids=["sample", "evaluate"])
def test_a_solver_of_another_level_range_is_refused(use, learned):
    """Guards images of a solver whose first step is for noise of another size."""
    other = toy(sigma_max=20.0)
    for solver in (learned, make_solver("euler", 3, toy().grid("karras"))):
        for transfer in (False, True):
            with pytest.raises(InputError, match="starts at sigma 10, but toy at 20"):
                use(other, solver, transfer=transfer)


@pytest.mark.parametrize("use", WAYS_TO_USE, ids=["sample", "evaluate"])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"name": "another"}, "model toy .here another."),
        ({"schedule": VPCosine()}, r"process None .here VPCosine"),
        ({"prediction": "noise"}, "prediction None .here noise."),
        ({"guidance_scale": 2.0}, r"guidance_scale None .here 2\.0."),
        ({"sigma_min": 0.1}, r"sigma_min 0\.01 .here 0\.1."),
    ],
)
def test_a_solver_of_another_model_is_used_if_a_transfer_is_asked_for(use, other, told, learned):
    with pytest.raises(InputError, match=f"learned for {told}.*--transfer"):
        use(toy(**other), learned)
    use(toy(**other), learned, transfer=True)
    use(toy(), learned)


def test_what_is_no_solver_is_told_how_to_find_one():
    with pytest.raises(InputError, match="find_solver"):
        checked(toy(), "s4s", transfer=False)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_a_seed_has_so_many_samples(count):
    with pytest.raises(InputError, match=f"asked for {count}"):
        sample(toy(), make_solver("euler", 3, toy().grid("karras")), count)


def test_bundled_solvers_know_their_conventions():
    for name in SETTINGS:
        model = load(name)
        for file in learned_solvers(name).values():
            solver = Solver.load(data_file(file))
            solver.check_for(model)
            assert set(solver.info["made_for"]) == set(model.conventions)

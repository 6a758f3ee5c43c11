"""Learning goes on after kill -9 as if nothing had been, and refuses the state of another run."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch

from s4s_nb.denoisers import guided
from s4s_nb.errors import InputError
from s4s_nb.families import make_student
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.resume import StateFile
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.pairs import Pairs
from s4s_nb.schedules import VPLinear
from tests.forked_learning import LEARN, everything
from tests.problems import F64, MIXTURE, identity, pairs, problem, same_bits, student, student_of


@pytest.mark.parametrize("way", LEARN)
def test_kills_at_random_moments(way, tmp_path):
    """In an interpreter of its own, without threads: forking beside OpenMP's may hang."""
    script = Path(__file__).with_name("forked_learning.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), way, str(tmp_path)]
    done = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Stopped(Exception):
    """As if the process had been killed."""


SHORT = {
    "gauss-newton": {"iterations": 2},
    "bfgs": {"iterations": 2},
    "adam": {"iterations": 2, "radius": 0.1},
}


OWN = [(name, row.optimiser) for name, row in METHODS.items() if row.student is not make_student]
"""Methods with a student of their own, each by its own optimiser; the others by all of them."""
EVERY = [(name, tool) for name in METHODS for tool in SHORT if name not in dict(OWN)]


@pytest.mark.parametrize(("method", "optimiser"), OWN + EVERY)
def test_stopped_after_any_of_its_saves_it_goes_on_with_the_same_bits(
    method, optimiser, tmp_path, monkeypatch
):
    """Guards saves that are seldom the last, as that between the end of an optimiser and of its turn."""
    options = {"progress": False, "rounds": 2 if method == "s4s-alt" else 1, **SHORT[optimiser]}
    saves, save = 0, StateFile.save

    def learn(state: Path | None = None) -> tuple:
        given = problem(train=10, validation=10)
        return everything(
            learn_student(given, student_of(method), method, optimiser, state_file=state, **options)
        )

    def counted(self, state, stop_at=None):
        nonlocal saves
        save(self, state)
        saves += 1
        if saves == stop_at:
            raise Stopped

    monkeypatch.setattr(StateFile, "save", counted)
    whole = learn()
    assert saves >= 2 * options["rounds"]
    for stop in range(1, saves + 1):
        state, saves = tmp_path / f"{stop}.safetensors", 0
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(StateFile, "save", partialmethod(counted, stop_at=stop))
            learn(state)
        again = learn(state)
        assert all(map(torch.equal, again[0], whole[0])) and again[1:] == whole[1:]


@pytest.mark.parametrize(
    ("method", "optimiser"),
    [("s4s-alt", "gauss-newton"), ("joint", "bfgs"), ("s4s", "adam"), ("ld3", "adam")],
)
def test_a_finished_run_is_read_back(method, optimiser, tmp_path):
    """But for two looks at the denoiser, its fingerprint, the start and the end, nothing is evaluated."""
    options = {"iterations": 2, "state_file": tmp_path / "state.safetensors", "progress": False}
    if method == "s4s-alt":
        options["rounds"] = 2
    first = learn_student(problem(), student(), method, optimiser, **options)
    asked = []

    def counted(x, sigma):
        asked.append(len(x))
        return MIXTURE(x, sigma)

    again = learn_student(problem(denoise=counted), student(), method, optimiser, **options)
    assert again.history == first.history and again.record == first.record
    assert same_bits(again.solver, first.solver) and same_bits(again.student.solver(), again.solver)
    assert asked == [1] * (2 + 3) + [20] * 5 * 2


# ---------------------------------------------------------------- other runs


def conditional(x, sigma, *, where):
    """The mixture moved to another place for every sample."""
    return where + MIXTURE(x - where, sigma)


def with_conditions(change: float = 0.0) -> Problem:
    """The usual pairs, each with a condition; that of one training pair may be changed."""

    def of(split: str, count: int, change: float) -> Pairs:
        data = pairs(split, count)
        where = data.targets / 10
        return Pairs(data.starts, data.targets, {"where": torch.cat([where[:-1], where[-1:] + change])})

    return Problem(conditional, of("train", 40, change), of("validation", 20, 0.0), identity)


def guided_by(scale: float) -> Problem:
    """The mixture guided towards one of its components."""
    towards = GaussianMixture(MIXTURE.means[:1], [0.15])
    return problem(denoise=guided(towards, MIXTURE, scale))


def network(weight: float) -> Problem:
    """A denoiser with a weight."""
    return problem(denoise=lambda x, sigma: MIXTURE(x, sigma) + weight * torch.tanh(x / (1 + sigma)))


def other_targets() -> Problem:
    """Another teacher's pairs of the same noises."""
    given = problem()
    return replace(given, train=Pairs(given.train.starts, given.train.targets + 1e-6))


USUAL = {"method": "joint", "optimiser": "adam", "iterations": 1}
OTHERS: dict[str, tuple[Callable[[], Problem], Callable[[], Problem]]] = {
    "embedding": (problem, lambda: problem(embed=lambda x: 1.01 * x)),
    "embedding of other layers": (problem, lambda: problem(embed=lambda x: torch.tanh(x))),
    "network": (lambda: network(0.1), lambda: network(0.102)),
    "guidance": (lambda: guided_by(2.0), lambda: guided_by(2.1)),
    "number of pairs": (problem, lambda: problem(train=38)),
    "number of validation pairs": (problem, lambda: problem(validation=18)),
    "pairs": (problem, lambda: replace(problem(), train=pairs("test", 40))),
    "validation pairs": (problem, lambda: replace(problem(), validation=pairs("test", 20))),
    "teacher": (problem, other_targets),
    "conditions": (with_conditions, lambda: with_conditions(0.001)),
    "batch": (problem, lambda: problem(batch=10)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_state_of_another_problem_is_refused(what, tmp_path):
    own, other = OTHERS[what]
    options = {"state_file": tmp_path / "state.safetensors", "progress": False, **USUAL}
    first = learn_student(own(), student(), **options)
    assert same_bits(learn_student(own(), student(), **options).solver, first.solver)
    with pytest.raises(InputError, match="state of another run"):
        learn_student(other(), student(), **options)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "s4s-alt"},
        {"method": "s4s"},
        {"optimiser": "gauss-newton"},
        {"optimiser": "bfgs"},
        {"iterations": 2},
        {"radius": 0.1},
        {"learning_rate": 2e-2},
        {"size": 10},
        {"rule": "SGD"},
        {"patience": 1},
        {"seed": 1},
    ],
    ids=str,
)
def test_the_state_of_another_method_or_option_is_refused(changed, tmp_path):
    options = {"state_file": tmp_path / "state.safetensors", "progress": False}
    learn_student(problem(), student(), **USUAL, **options)
    with pytest.raises(InputError, match="state of another run"):
        learn_student(problem(), student(), **(USUAL | changed), **options)


@pytest.mark.parametrize(
    "changed", [{"derivatives": "tangents"}, {"rounds": 3}, {"iterations": 2}], ids=str
)
def test_the_state_of_other_turns_or_derivatives_is_refused(changed, tmp_path):
    usual = {"method": "s4s-alt", "optimiser": "gauss-newton", "rounds": 2, "iterations": 1}
    options = {"state_file": tmp_path / "state.safetensors", "progress": False}
    learn_student(problem(), student(), **usual, **options)
    with pytest.raises(InputError, match="state of another run"):
        learn_student(problem(), student(), **(usual | changed), **options)


def moved_a_little():
    """A student that has been learned before."""
    here = student()
    here.move(torch.full((12,), 1e-3, dtype=F64), ("coefficients",))
    return here


@pytest.mark.parametrize(
    "other",
    [
        lambda: student("dpmpp-2m"),
        lambda: student("ab3"),
        lambda: student(nfe=4),
        lambda: student(consistent=True),
        lambda: student(lower_final=True),
        lambda: student(absolute=True),
        lambda: student(kind="sticks"),
        lambda: student(width=0.4),
        lambda: student(clock=(VPLinear().time, VPLinear().level)),
        lambda: student(schedule=VPLinear()),
        lambda: student(held="noise"),
        moved_a_little,
    ],
    ids="start form nfe consistent lowered absolute kind width clock schedule held moved".split(),
)
def test_the_state_of_another_student_is_refused(other, tmp_path):
    """Also of one that is alike at zero."""
    options = {"state_file": tmp_path / "state.safetensors", "progress": False, **USUAL}
    learn_student(problem(), student(), **options)
    with pytest.raises(InputError, match="state of another run"):
        learn_student(problem(), other(), **options)

"""Learning goes on after kill -9 as if nothing had been, and refuses the state of another run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s4s_nb.errors import InputError
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.learn import learn_s4s
from tests.test_learn import MIXTURE, distance, pairs
from tests.test_relaxed import FAMILY


@pytest.mark.parametrize("method", ["adam", "gauss-newton", "bfgs", "ld3", "s4s-alt"])
def test_kills_at_random_moments(method, tmp_path):
    """In an interpreter of its own, without threads: forking beside OpenMP's may hang."""
    script = Path(__file__).with_name("forked_learning.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), method, str(tmp_path)]
    done = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_state_of_another_run_is_refused(tmp_path):
    state, validation = tmp_path / "state.safetensors", pairs("validation", 5)
    options = {"state_file": state, "progress": False}
    learn_s4s(MIXTURE, FAMILY, pairs("train", 10), validation, distance, epochs=1, **options)
    with pytest.raises(InputError, match="another run"):
        learn_s4s(MIXTURE, FAMILY, pairs("train", 12), validation, distance, epochs=1, **options)
    with pytest.raises(InputError, match="another run"):
        learn_gauss_newton(MIXTURE, FAMILY, pairs("train", 10), validation, lambda x: x, **options)


def test_a_finished_run_is_read_back(tmp_path):
    options = {"state_file": tmp_path / "state.safetensors", "progress": False, "epochs": 2}
    train, validation = pairs("train", 10), pairs("validation", 5)
    first = learn_s4s(MIXTURE, FAMILY, train, validation, distance, **options)

    def never(x, sigma):
        raise AssertionError("the run was finished; nothing is left to evaluate")

    again = learn_s4s(never, FAMILY, train, validation, distance, **options)
    assert again.history == first.history and again.parameters.equal(first.parameters)

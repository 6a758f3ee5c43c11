"""A slow learning, killed again and again, against one that nobody disturbed.

python forked_learning.py adam|gauss-newton|bfgs|ld3|s4s-alt FOLDER
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from s4s_nb.alternate import learn_in_phases, plan
from s4s_nb.files import read_safetensors
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.ld3 import learn_ld3
from s4s_nb.learn import Learned, learn_s4s
from s4s_nb.quasi_newton import learn_bfgs
from s4s_nb.times import Joint
from tests.forking import forked
from tests.test_learn import MIXTURE, distance, pairs
from tests.test_relaxed import FAMILY

JOINT = Joint(FAMILY)
DATA = {"train": pairs("train", 20), "validation": pairs("validation", 5), "progress": False}


def learn_s4s_alt(denoise, state_file: Path | None = None, **options) -> Learned:
    """Its state is a folder, with a file for every phase."""
    learner = partial(learn_gauss_newton, denoise, embed=lambda x: x, iterations=3, **options)
    solver, at, phases = learn_in_phases(JOINT, plan("s4s-alt", JOINT, 4), learner, state_file)
    return Learned(solver, torch.cat(list(at.values())), [(0, phase.after) for phase in phases])


LEARN: dict[str, tuple[int, Callable[..., Learned]]] = {
    "adam": (
        20,
        partial(
            learn_s4s, family=FAMILY, distance=distance, epochs=25, batch=5, learning_rate=3e-3, radius=0.1
        ),
    ),
    "gauss-newton": (20, partial(learn_gauss_newton, family=FAMILY, embed=lambda x: x, iterations=25)),
    "bfgs": (20, partial(learn_bfgs, family=FAMILY, embed=lambda x: x, iterations=25)),
    "ld3": (10, partial(learn_ld3, joint=JOINT, distance=distance, rounds=(2, 4), batch=4, radius=0.1)),
    "s4s-alt": (10, learn_s4s_alt),
}
"""Each with how often it is killed."""


def slow(x, sigma):
    time.sleep(0.0005)
    return MIXTURE(x, sigma)


def pieces(state: Path) -> int:
    """How many epochs, iterations or gradients the state, a file or a folder of them, has seen."""

    def in_file(file: Path) -> int:
        tensors, metadata = read_safetensors(file)
        return len(tensors["values"]) if "values" in tensors else metadata["record"].count("[") - 1

    files = state.glob("*.safetensors") if state.is_dir() else [state] if state.exists() else []
    return sum(map(in_file, files))


def learn_to(run: Callable[..., Learned], state: Path, result: Path) -> None:
    """What a child does."""
    learned = run(slow, state_file=state)
    torch.save((learned.parameters, learned.history), result)


def wait_for(count: int, state: Path, child: int) -> None:
    """Until there are so many pieces, however slow the machine, or the child has ended."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while pieces(state) < count and os.waitid(os.P_PID, child, ended) is None:
        time.sleep(0.02)


def kill_again_and_again(method: str, folder: Path) -> None:
    """Nothing is lost but the piece in hand, and the end has the bits of an undisturbed run."""
    enough, learn = LEARN[method]
    run = partial(learn, **DATA)
    whole = run(MIXTURE)
    randomness, kills, runs = random.Random(0), 0, 0
    while kills < enough:  # a fast machine may finish before the last kill, and starts over
        state, result = folder / f"state{runs}.safetensors", folder / f"result{runs}.pt"
        runs, seen, finished = runs + 1, 0, False
        while not finished:
            child = forked(partial(learn_to, run, state, result))
            if kills < enough:
                wait_for(seen + randomness.randrange(3), state, child)
                time.sleep(randomness.uniform(0.0, 0.05))
                os.kill(child, signal.SIGKILL)
            finished = os.WIFEXITED(os.waitpid(child, 0)[1])
            kills += not finished
            assert pieces(state) >= seen
            seen = pieces(state)
        parameters, history = torch.load(result)
        assert torch.equal(parameters, whole.parameters) and history == whole.history


if __name__ == "__main__":
    kill_again_and_again(sys.argv[1], Path(sys.argv[2]))

"""A slow learning, killed again and again, against one that nobody disturbed.

python forked_learning.py adam|gauss-newton FOLDER
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

from s4s_nb.files import read_safetensors
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.learn import Learned, learn_s4s
from tests.forking import forked
from tests.test_learn import MIXTURE, distance, pairs
from tests.test_relaxed import FAMILY

KILLS = 20
TRAIN, VALIDATION = pairs("train", 20), pairs("validation", 5)
LEARN: dict[str, Callable[..., Learned]] = {
    "adam": partial(learn_s4s, distance=distance, epochs=25, batch=5, learning_rate=3e-3, radius=0.1),
    "gauss-newton": partial(learn_gauss_newton, embed=lambda x: x, iterations=25),
}


def slow(x, sigma):
    time.sleep(0.0005)
    return MIXTURE(x, sigma)


def pieces(state_file: Path) -> int:
    """How many epochs or iterations the state has seen."""
    if not state_file.exists():
        return 0
    _, metadata = read_safetensors(state_file)
    return metadata["record"].count("[") - 1


def learn_to(run: Callable[..., Learned], state_file: Path, result: Path) -> None:
    """What a child does."""
    learned = run(slow, state_file=state_file)
    torch.save((learned.parameters, learned.history), result)


def twenty_kills(method: str, folder: Path) -> None:
    """Nothing is lost but the piece in hand, and the end has the bits of an undisturbed run."""
    run = partial(LEARN[method], family=FAMILY, train=TRAIN, validation=VALIDATION, progress=False)
    whole = run(MIXTURE)
    randomness, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:  # a fast machine may finish before the last kill, and starts over
        state_file, result = folder / f"state{runs}.safetensors", folder / f"result{runs}.pt"
        runs, seen, finished = runs + 1, 0, False
        while not finished:
            child = forked(partial(learn_to, run, state_file, result))
            if kills < KILLS:
                time.sleep(randomness.uniform(0.02, 0.15))
                os.kill(child, signal.SIGKILL)
            finished = os.WIFEXITED(os.waitpid(child, 0)[1])
            kills += not finished
            assert pieces(state_file) >= seen
            seen = pieces(state_file)
        parameters, history = torch.load(result)
        assert torch.equal(parameters, whole.parameters) and history == whole.history


if __name__ == "__main__":
    twenty_kills(sys.argv[1], Path(sys.argv[2]))

"""A slow learning, killed again and again, against one that nobody disturbed.

python forked_learning.py s4s-adam|s4s-gauss-newton|joint-bfgs|ld3-adam|s4s-alt-gauss-newton|… FOLDER
"""

import json
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
from s4s_nb.learn.loop import Result, learn_student
from tests.forking import forked
from tests.problems import MIXTURE, TABLE, problem, student

LEARN: dict[str, tuple[int, dict]] = {
    "s4s-adam": (20, {"iterations": 25, "size": 5, "learning_rate": 3e-3, "radius": 0.1}),
    "s4s-gauss-newton": (20, {"iterations": 25}),
    "joint-bfgs": (20, {"iterations": 25}),
    "ld3-adam": (10, {"iterations": 6, "alone": 2, "size": 4, "radius": 0.1}),
    "s4s-alt-gauss-newton": (10, {"iterations": 3, "rounds": 4}),
    "s4s-alt-adam": (10, {"iterations": 3, "rounds": 3, "size": 5, "radius": 0.1}),
    "s4s-alt-bfgs": (10, {"iterations": 3, "rounds": 3}),
}
"""Method and optimiser; each with how often it is killed."""


def learn(way: str, denoise=MIXTURE, state_file: Path | None = None) -> Result:
    method, optimiser = next(
        (method, way.removeprefix(f"{method}-"))
        for method in ("s4s-alt", "s4s", "ld3", "joint")
        if way.startswith(f"{method}-")
    )
    given = problem(train=20, validation=5, denoise=denoise)
    here = student("dpmpp-2m", 4)
    options = {"state_file": state_file, "progress": False, **LEARN[way][1]}
    return learn_student(given, here, method, optimiser, **options)


def slow(x, sigma):
    time.sleep(0.0005)
    return MIXTURE(x, sigma)


def everything(result: Result) -> tuple:
    """All that a run ends with: every number of the table, the history and the record."""
    return [getattr(result.solver, key) for key in TABLE], result.history, result.record


def pieces(state: Path, count: int) -> int:
    """How many steps the state has seen, with the ends of turns; ``count`` is of the steps in a turn."""
    if not state.exists():
        return 0
    record = json.loads(read_safetensors(state)[1]["record"])
    return record["turn"] * (count + 1) + record["own.steps"]


def learn_to(way: str, state: Path, result: Path) -> None:
    """What a child does."""
    torch.save(everything(learn(way, slow, state)), result)


def wait_for(enough: Callable[[], bool], child: int) -> None:
    """Until enough was done, however slow the machine, or the child has ended."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not enough() and os.waitid(os.P_PID, child, ended) is None:
        time.sleep(0.02)


def kill_again_and_again(way: str, folder: Path) -> None:
    """Nothing is lost but the piece in hand, and the end has the bits of an undisturbed run.

    One file has all of a run's state, whatever its method; nothing else is left in the folder.
    """
    enough, options = LEARN[way]
    seen_of = partial(pieces, count=options["iterations"])
    numbers, history, record = everything(learn(way))
    randomness, kills, runs = random.Random(0), 0, 0
    while kills < enough:  # a fast machine may finish before the last kill, and starts over
        state, result = folder / str(runs) / "state.safetensors", folder / f"result{runs}.pt"
        runs, seen, finished = runs + 1, 0, False
        while not finished:
            child = forked(partial(learn_to, way, state, result))
            if kills < enough:
                wanted = seen + randomness.randrange(3)
                wait_for(lambda wanted=wanted, state=state: seen_of(state) >= wanted, child)
                time.sleep(randomness.uniform(0.0, 0.05))
                os.kill(child, signal.SIGKILL)
            finished = os.WIFEXITED(os.waitpid(child, 0)[1])
            kills += not finished
            assert seen_of(state) >= seen
            seen = seen_of(state)
        own, history_of, record_of = torch.load(result)
        assert all(map(torch.equal, own, numbers))
        assert history_of == history, (history_of, history)
        assert record_of == record, (record_of, record)
        assert [path for path in state.parent.iterdir() if not path.name.startswith(".")] == [state]


if __name__ == "__main__":
    kill_again_and_again(sys.argv[1], Path(sys.argv[2]))

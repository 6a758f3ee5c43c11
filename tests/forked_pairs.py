"""A slow teacher's pairs, made by processes that are killed or run at once.

python forked_pairs.py kills|company|share FOLDER
"""

import os
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import Condition, Denoiser
from s4s_nb.pairs import seeded_noise
from s4s_nb.store import PairStore
from tests.forking import forked
from tests.problems import GRID, MIXTURE

TEACHER = make_solver("dpmpp-2m", 12, GRID)


@dataclass
class Mixture:
    """The exact mixture as a model that the package has never seen."""

    name: str = "mixture"
    device: str = "cpu"
    pause: float = 0.0
    mixture: Denoiser = MIXTURE

    @property
    def denoise(self) -> Denoiser:
        def slow(x, sigma):
            time.sleep(self.pause)
            return self.mixture(x, sigma)

        return slow

    def starts(self, split: str, count: int, first: int = 0) -> Tensor:
        return 10 * seeded_noise(split, count, (2,), first).double()

    def condition(self, split: str, count: int, first: int = 0) -> Condition:
        return {}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def twenty_kills(folder: Path) -> None:
    """Nothing is lost but the shard in hand, and the end is that of an undisturbed run."""
    whole = PairStore(folder / "whole", Mixture(), TEACHER, count=400, shard=10)
    whole.make(title=None)
    store = replace(whole, folder=folder / "killed", model=Mixture(pause=0.001))
    randomness, kills, seen = random.Random(0), 0, set()
    while True:
        child = forked(partial(store.make, title=None))
        if kills < 20:
            time.sleep(randomness.uniform(0.005, 0.04))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        finished = {index for index in range(store.shards) if store.whole(index)}
        assert seen <= finished
        seen = finished
        if os.WIFEXITED(status):
            break
        kills += 1
    assert kills == 20 and len(seen) == 40
    left = {name: data for name, data in contents(store.folder).items() if not name.startswith(".")}
    assert left == contents(whole.folder)


def company(folder: Path) -> None:
    """Two processes on one folder write the same as one."""
    store = PairStore(folder / "shared", Mixture(pause=0.002), TEACHER, count=25, shard=10)
    children = [forked(partial(store.make, title=None)) for _ in range(2)]
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    alone = replace(store, folder=folder / "alone")
    alone.make(title=None)
    assert contents(store.folder) == contents(alone.folder)


def share(folder: Path) -> None:
    """What a process of torchrun does; the one that is ready first finds the other's pairs there too."""
    slow = Mixture(pause=0.05 if os.environ["RANK"] == "1" else 0.0)
    store = PairStore(folder / "shared", slow, TEACHER, count=25, shard=5)
    store.make(title=None)
    assert len(store.load()) == 25


if __name__ == "__main__":
    {"kills": twenty_kills, "company": company, "share": share}[sys.argv[1]](Path(sys.argv[2]))

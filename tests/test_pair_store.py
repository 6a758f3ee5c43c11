"""Teacher pairs on disk survive kill -9, damage and company, and are what a direct run gives."""

import json
import os
import random
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors
from s4s_nb.grids import log_snr
from s4s_nb.pair_store import PairStore
from s4s_nb.solvers import trajectory
from s4s_nb.teachers import run, seeded_noise
from tests.test_learn import MIXTURE

TEACHER = make_solver("dpmpp-2m", 12, lambda n: log_snr(n, 10.0, 0.01))


@dataclass
class Mixture:
    """The exact mixture as a model that the package has never seen."""

    name: str = "mixture"
    device: str = "cpu"
    pause: float = 0.0

    @property
    def denoise(self):
        def slow(x, sigma):
            time.sleep(self.pause)
            return MIXTURE(x, sigma)

        return slow

    def starts(self, split: str, count: int, first: int = 0) -> Tensor:
        return 10 * seeded_noise(split, count, (2,), first).double()

    def labels(self, count: int, first: int = 0) -> None:
        return None


@pytest.fixture
def store(tmp_path) -> PairStore:
    return PairStore(tmp_path / "pairs", Mixture(), TEACHER, count=25, shard=10)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_pairs_are_those_of_a_direct_run(store):
    store.make(title=None)
    pairs = store.load()
    starts = Mixture().starts("train", 25)
    assert torch.equal(pairs.starts, starts)
    assert torch.allclose(pairs.targets, run(MIXTURE, starts, TEACHER), rtol=0, atol=1e-12)
    assert len(replace(store, count=12).load()) == 12  # a part of what is there


def test_states_along_the_way_are_kept_at_the_nearest_nodes(store):
    store = replace(store, levels=(5.0, 0.1))
    store.make(title=None)
    tensors, _ = read_safetensors(store.path(0))
    states, _ = trajectory(MIXTURE, Mixture().starts("train", 10), TEACHER)
    levels = store.manifest()["state_sigmas"]
    for k, (level, wanted) in enumerate(zip(levels, store.levels, strict=True)):
        node = TEACHER.sigmas.tolist().index(level)
        assert abs(torch.tensor(level / wanted).log()) < 0.3
        assert torch.equal(tensors["states"][:, k], states[node])


def test_twenty_kills_lose_nothing_but_the_shard_in_hand(store, tmp_path):
    whole = replace(store, folder=tmp_path / "whole", count=400)
    whole.make(title=None)
    store = replace(store, count=400, model=Mixture(pause=0.001))
    randomness, kills, seen = random.Random(0), 0, set()
    while True:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            store.make(title=None)
            os._exit(0)
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
    left = contents(store.folder)
    assert {name: data for name, data in left.items() if not name.startswith(".")} == contents(whole.folder)


def test_a_damaged_shard_is_found_and_made_again(store):
    store.make(title=None)
    before = contents(store.folder)
    with open(store.path(1), "r+b") as f:
        f.seek(-3, os.SEEK_END)
        f.write(b"xyz")
    with pytest.raises(InputError, match=r"Shards \[1\]"):
        store.load()
    store.path(2).unlink()
    store.make(title=None)
    assert contents(store.folder) == before


def test_two_processes_on_one_folder_write_the_same(store, tmp_path):
    children = []
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            torch.set_num_threads(1)
            replace(store, model=Mixture(pause=0.002)).make(title=None)
            os._exit(0)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    alone = replace(store, folder=tmp_path / "alone")
    alone.make(title=None)
    assert contents(store.folder) == contents(alone.folder)


def test_more_pairs_extend_a_folder_and_others_are_refused(store):
    store.make(title=None)
    first = store.path(0).stat().st_mtime_ns
    longer = replace(store, count=40)
    longer.make(title=None)
    assert len(longer.load()) == 40 and store.path(0).stat().st_mtime_ns == first
    assert torch.equal(longer.load().targets[:20], store.load().targets[:20])
    with pytest.raises(InputError, match="other pairs"):
        replace(store, split="validation").make(title=None)
    assert json.loads((store.folder / "manifest.json").read_text())["split"] == "train"

"""Teacher pairs on disk survive kill -9, damage and company, and are what a direct run gives."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors
from s4s_nb.pair_store import PairStore
from s4s_nb.solvers import trajectory
from s4s_nb.teachers import run
from tests.forked_pairs import TEACHER, Mixture, contents
from tests.test_learn import MIXTURE


@pytest.fixture
def store(tmp_path) -> PairStore:
    return PairStore(tmp_path / "pairs", Mixture(), TEACHER, count=25, shard=10)


def test_pairs_are_those_of_a_direct_run(store):
    store.make(title=None)
    pairs = store.load()
    starts = Mixture().starts("train", 25)
    assert torch.equal(pairs.starts, starts)
    assert torch.allclose(pairs.targets, run(MIXTURE, starts, TEACHER), rtol=0, atol=1e-12)
    assert len(replace(store, count=12).load()) == 12  # a part of what is there


def test_pairs_from_a_later_noise_on_are_those_of_a_longer_store(store, tmp_path):
    later = replace(store, folder=tmp_path / "later", first=10, count=15)
    for each in (store, later):
        each.make(title=None)
    pairs, some = store.load(), later.load()
    assert torch.equal(some.starts, pairs.starts[10:]) and torch.equal(some.targets, pairs.targets[10:])
    with pytest.raises(InputError, match="other pairs"):
        replace(later, first=0).make(title=None)


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


def in_another_interpreter(case: str, folder: Path, *launcher: str) -> None:
    """Run a case of forked_pairs.py without threads: forking beside OpenMP's may hang."""
    script = Path(__file__).with_name("forked_pairs.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, script, case, folder]
    done = subprocess.run(command, env=environment, timeout=150, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", ["kills", "company"])
def test_kills_and_company(case, tmp_path):
    in_another_interpreter(case, tmp_path)


def test_two_processes_of_torchrun_write_the_same_bytes_as_one(store, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    in_another_interpreter("share", tmp_path, *torchrun)
    alone = replace(store, folder=tmp_path / "alone", shard=5)
    alone.make(title=None)
    assert contents(tmp_path / "shared") == contents(alone.folder)


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

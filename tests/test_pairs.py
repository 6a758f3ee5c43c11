"""Teacher pairs on disk survive kill -9, damage and company, and are what a direct run gives."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors
from s4s_nb.learn.problem import Problem
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.models import Model
from s4s_nb.models.bundled import load
from s4s_nb.pairs import SEEDS, Pairs, run, seeded_noise
from s4s_nb.solvers import trajectory
from s4s_nb.store import PairStore
from tests.forked_pairs import TEACHER, Mixture, contents
from tests.problems import GRID, MIXTURE


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


def test_two_processes_of_torchrun_write_the_same_bytes_as_one_and_wait_for_each_other(store, tmp_path):
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


def test_shards_of_another_store_are_not_its_own(store, tmp_path):
    """With their records, so that hash, number and size are right."""
    other_network = Mixture(mixture=GaussianMixture([[1.0, 0.5]], [0.2]))
    others = {
        "split": replace(store, folder=tmp_path / "split", split="validation"),
        "teacher": replace(store, folder=tmp_path / "teacher", teacher=make_solver("euler", 12, GRID)),
        "network": replace(store, folder=tmp_path / "network", model=other_network),
    }
    store.make(title=None)
    before = contents(store.folder)
    for name, other in others.items():
        other.make(title=None)
        for suffix in (".safetensors", ".json"):
            file = other.path(1).with_suffix(suffix)
            store.path(1).with_suffix(suffix).write_bytes(file.read_bytes())
        with pytest.raises(InputError, match=r"Shards \[1\]"):
            store.load()
        store.make(title=None)
        assert contents(store.folder) == before, name
    first, second = store.path(0).read_bytes(), store.path(1).read_bytes()
    store.path(0).write_bytes(second), store.path(1).write_bytes(first)
    with pytest.raises(InputError, match=r"Shards \[0, 1\]"):
        store.load()


def test_a_store_of_other_conditions_is_not_its_own(tmp_path):
    """Of all samples: those of the first are the same."""

    def store_of(classes):
        model = Model(lambda x, sigma, label: MIXTURE(x, sigma), (2,), 10.0, 0.01)
        model.conditions = lambda split, n, first: {"label": torch.arange(first, first + n) % classes}
        return PairStore(tmp_path / "pairs", model, TEACHER, count=20, shard=10)

    store_of(10).make(title=None)
    assert len(store_of(10).load()) == 20
    with pytest.raises(InputError, match=r"Shards \[0, 1\]"):
        store_of(5).load()


def test_the_last_shard_has_the_same_bits_alone_and_in_company(tmp_path):
    """It is smaller than the batches whose rounding depends on the number of threads."""
    model = load("fashion")
    teacher = make_solver("euler", 2, model.grid("karras"))
    store = PairStore(tmp_path / "all", model, teacher, count=23, shard=10)
    store.make(title=None)
    before = store.path(2).read_bytes()
    store.path(2).unlink()
    store.make(title=None)
    assert store.path(2).read_bytes() == before


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": -5}, {"shard": 0}, {"first": -1}, {"split": "tset"}]
)
def test_a_store_of_no_pairs_is_refused_before_a_folder_is_made(wrong, store):
    with pytest.raises(InputError):
        replace(store, **wrong).make(title=None)
    assert not store.folder.exists()


# ---------------------------------------------------------------- what is learned from

GOOD = Pairs(torch.ones(4, 2), torch.zeros(4, 2), {"label": torch.arange(4)})


def with_one(value: float) -> torch.Tensor:
    x = torch.zeros(4, 2)
    x[2, 1] = value
    return x


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"targets": with_one(torch.nan)}, "targets .* NaN or infinite in 1 of 4, first in number 2"),
        ({"starts": with_one(-torch.inf)}, "starts .* NaN or infinite in 1 of 4, first in number 2"),
        ({"targets": torch.zeros(3, 2)}, r"starts of shape \(4, 2\) and targets of shape \(3, 2\)"),
        ({"targets": torch.zeros(4, 1)}, r"targets of shape \(4, 1\)"),
        ({"targets": torch.zeros(4, 2, dtype=torch.uint8)}, "targets .* torch.uint8"),
        ({"starts": torch.zeros(4, 2, dtype=torch.int64)}, "starts .* torch.int64"),
        ({"cond": {"label": torch.arange(3)}}, r"condition label has shape \(3,\)"),
        ({"starts": torch.zeros(0, 2), "targets": torch.zeros(0, 2)}, "at least one"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_are_no_pairs_are_refused_where_they_enter(wrong, sentence, split):
    assert len(GOOD.checked("training")) == 4
    parts = {"train": GOOD, "validation": GOOD, split: replace(GOOD, **wrong)}
    with pytest.raises(InputError, match=sentence):
        Problem(lambda x, sigma, label: x, embed=lambda x: x, **parts)


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


# ---------------------------------------------------------------- what is not the same pairs


def refused(store: PairStore) -> None:
    """Neither made over what is there nor loaded as if it were it."""
    before = contents(store.folder)
    for use in (lambda: store.make(title=None), store.load):
        with pytest.raises(InputError, match="holds other pairs"):
            use()
    assert contents(store.folder) == before


def test_another_network_of_the_same_name_is_refused(store):
    store.make(title=None)
    nearly = GaussianMixture(MIXTURE.means * 1.01, MIXTURE.variances.sqrt())
    refused(replace(store, model=Mixture(mixture=nearly)))
    refused(replace(store, model=Mixture(name="another")))
    same = GaussianMixture(MIXTURE.means, MIXTURE.variances.sqrt())
    assert len(replace(store, model=Mixture(mixture=same)).load()) == 25


@pytest.mark.parametrize(
    "change",
    [
        {"first": 1},
        {"split": "validation"},
        {"shard": 5},
        {"levels": (1.0,)},
        {"teacher": make_solver("dpmpp-2m", 11, lambda n: TEACHER.sigmas[:12])},
        {"teacher": replace(TEACHER, B=1.001 * TEACHER.B)},
    ],
    ids=["first", "split", "shard", "levels", "fewer steps", "other weights"],
)
def test_other_noises_or_another_teacher_are_refused(store, change):
    store.make(title=None)
    refused(replace(store, **change))


def test_another_guidance_weight_is_refused(tmp_path):
    model, heavier = load("fashion-guided"), load("fashion-guided", guidance_scale=2.1)
    two = make_solver("euler", 2, model.grid("karras"))
    store = PairStore(tmp_path / "pairs", model, two, count=2)
    store.make(title=None)
    refused(replace(store, model=heavier))
    assert store.load().cond["label"].tolist() == [0, 1]


def test_other_conditions_are_refused(tmp_path):
    def shifts(by: float):
        return lambda split, count, first: {"shift": by + torch.arange(count).double()[:, None]}

    def denoise(x, sigma, shift):
        return MIXTURE(x - shift, sigma) + shift

    model = Model(denoise, shape=(2,), sigma_max=10.0, sigma_min=0.01, conditions=shifts(0.0))
    store = PairStore(tmp_path / "pairs", model, TEACHER, count=3)
    store.make(title=None)
    refused(replace(store, model=replace(model, conditions=shifts(0.1))))


def test_swapped_shards_are_found(store):
    """Each is whole and has the hash that its record says, but not the noises of its place."""
    store.make(title=None)
    before = contents(store.folder)
    for suffix in (".safetensors", ".json"):
        first, second = (store.path(index).with_suffix(suffix) for index in (0, 1))
        spare = store.folder / "spare"
        for source, target in ((first, spare), (second, first), (spare, second)):
            source.rename(target)
    with pytest.raises(InputError, match=r"Shards \[0, 1\]"):
        store.load()
    store.make(title=None)
    assert contents(store.folder) == before


def test_all_wait_at_the_end_of_making(store, monkeypatch):
    """Else the first to be ready would look for shards that another has still to write."""
    there = []
    monkeypatch.setattr("s4s_nb.store.wait_for_all", lambda: there.append(sorted(contents(store.folder))))
    store.make(title=None)
    assert there == [sorted(contents(store.folder))] and len(there[0]) == 1 + 2 * store.shards


# ---------------------------------------------------------------- noises and pairs


def test_a_noise_is_that_of_its_seed_whatever_is_drawn_beside_it():
    for split, seed in SEEDS.items():
        noise = torch.randn(3, generator=torch.Generator().manual_seed(seed + 7))
        assert torch.equal(seeded_noise(split, 4, (3,), first=5)[2], noise)
    with pytest.raises(InputError, match="holds a million"):
        seeded_noise("train", 2, (3,), first=999_999)
    with pytest.raises(InputError, match="Unknown split"):
        seeded_noise("all", 2, (3,))


def test_pairs_are_cut_with_what_they_are_conditioned_on():
    pairs = Pairs(torch.arange(5.0), -torch.arange(5.0), {"label": torch.arange(5)})
    parts = pairs.split(2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [part.cond["label"].tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    some = pairs[torch.tensor([3, 0])]
    assert some.starts.tolist() == some.cond["label"].tolist() == [3, 0] and some.targets.tolist() == [
        -3,
        0,
    ]

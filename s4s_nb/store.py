"""A store of teacher pairs on disk: shards that are made once, checked by hash, and made again if damaged.

A folder holds ``manifest.json``, which says what the pairs are, and for each shard a safetensors file with
a JSON beside it that has its sha256 and the manifest, and is written last. Noises are not stored: they have
seeds.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser, examined
from s4s_nb.errors import InputError
from s4s_nb.files import (
    checksum,
    read_json,
    read_safetensors,
    same_run,
    sha256,
    write_json,
    write_safetensors,
)
from s4s_nb.pairs import Pairs, fingerprint, seed_range
from s4s_nb.runtime import map_batches, on_threads, wait_for_all, world
from s4s_nb.solvers import Solver, trajectory


@runtime_checkable
class Sampled(Protocol):
    """What a store of pairs needs of a model; :class:`s4s_nb.models.Model` is one."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def denoise(self) -> Denoiser: ...
    def starts(self, split: str, count: int, first: int = 0) -> Tensor: ...
    def condition(self, split: str, count: int, first: int = 0) -> Condition: ...


@dataclass(frozen=True)
class PairStore:
    """``count`` pairs of a model's split and a teacher, in shards of ``shard`` pairs each.

    levels: where along the way the teacher's states are kept too: at its nodes nearest to these.
    first: number of the split's noise that the first pair starts from.
    """

    folder: Path
    model: Sampled
    teacher: Solver
    count: int
    split: str = "train"
    shard: int = 50
    levels: tuple[float, ...] = ()
    first: int = 0

    def __post_init__(self):
        if self.count < 1 or self.shard < 1:
            raise InputError(
                f"A store has at least one pair, and one a shard; got {self.count}, {self.shard}."
            )
        seed_range(self.split, self.count, self.first)

    @cached_property
    def denoise(self) -> Denoiser:
        """The model's denoiser, once it has kept to its contract."""
        start, cond = (
            draw(self.split, 1, self.first) for draw in (self.model.starts, self.model.condition)
        )
        return examined(self.model.denoise, start, self.teacher.model_sigmas[0], cond)

    @property
    def shards(self) -> int:
        """How many shards there are when all are made."""
        return -(-self.count // self.shard)

    @property
    def nodes(self) -> list[int]:
        """The teacher's nodes at which states are kept."""
        distance = (self.teacher.sigmas.log()[:, None] - torch.tensor(self.levels).double().log()).abs()
        return distance.argmin(0).tolist() if self.levels else []

    @cached_property
    def known(self) -> dict:
        """The manifest, once: the denoiser is asked for it."""
        return self.manifest()

    def manifest(self) -> dict:
        """What the pairs are; every shard has it too, and a folder with another one holds other pairs."""
        start, cond = (
            draw(self.split, 1, self.first) for draw in (self.model.starts, self.model.condition)
        )
        middle = self.teacher.nfe // 2
        return {
            "format": "s4s_nb.pairs.v3",
            "model": self.model.name,
            "denoiser": fingerprint(self.denoise, start, self.teacher.sigmas[[0, middle, -2]], cond),
            "split": self.split,
            "first": self.first,
            "shard": self.shard,
            "teacher": self.teacher.name,
            "teacher_nfe": self.teacher.nfe,
            "teacher_digest": self.teacher.digest,
            "sigmas": self.teacher.sigmas.tolist(),
            "state_sigmas": [float(self.teacher.sigmas[node]) for node in self.nodes],
        }

    def path(self, index: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{index:05d}.safetensors"

    def whole(self, index: int) -> bool:
        """Whether a shard is there with all the pairs it should have, bit for bit as it was made."""
        record = self.path(index).with_suffix(".json")
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
            same = known["sha256"] == sha256(self.path(index)) and known["first"] == self.start_of(index)
            same = same and known["cond"] == self.conditions(index, known["pairs"])
            return same and known["pairs"] >= self.size(index) and same_run(known["of"], self.known)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def conditions(self, index: int, count: int) -> str:
        """The sha256 of what the samples of a shard are conditioned on."""
        return checksum(self.model.condition(self.split, count, self.start_of(index)), {})

    def start_of(self, index: int) -> int:
        """Number of the noise that a shard starts from."""
        return self.first + index * self.shard

    def size(self, index: int) -> int:
        """Pairs in a shard: the last one may have fewer."""
        return min(self.shard, self.count - index * self.shard)

    def check(self) -> dict:
        """The manifest; :class:`InputError` if the folder's says that it holds other pairs."""
        path = self.folder / "manifest.json"
        if path.exists() and not same_run(read_json(path), self.known):
            raise InputError(
                f"{self.folder} holds other pairs (see its manifest.json); choose another folder."
            )
        return self.known

    def make(self, title: str | None = "teacher") -> None:
        """Make the shards that are missing or damaged.

        Killed at any moment, or run twice at once, it leaves whole shards and goes on from them: files
        appear by renaming, and everyone writes the same bytes. Under torchrun each process makes its own
        share of the shards, and waits for the others at the end.

        Raises:
            InputError: the folder holds other pairs.
        """
        write_json(self.folder / "manifest.json", self.check())
        rank, processes = world(self.model.device)
        own = range(rank, self.shards, processes)  # of all, since others may be done before this one looks
        missing = [index for index in own if not self.whole(index)]
        map_batches(self.make_shard, missing, self.model.device, title if rank == 0 else None)
        wait_for_all()

    @torch.no_grad()
    def make_shard(self, index: int) -> None:
        """Run the teacher for one shard and write it, then its hash."""
        first, count = self.start_of(index), self.size(index)
        starts, cond = (
            draw(self.split, count, first) for draw in (self.model.starts, self.model.condition)
        )
        with on_threads(1):  # whatever else is made beside it
            states, _ = trajectory(self.denoise, starts, self.teacher, cond)
        tensors = {"targets": states[-1]}
        if self.levels:
            tensors["states"] = torch.stack([states[node] for node in self.nodes], dim=1)
        write_safetensors(self.path(index), tensors, {})
        record = {"sha256": sha256(self.path(index)), "pairs": count, "first": first, "of": self.known}
        record["cond"] = self.conditions(index, count)
        write_json(self.path(index).with_suffix(".json"), record)

    def load(self) -> Pairs:
        """All pairs.

        Raises:
            InputError: a shard is missing or damaged, or the folder holds other pairs.
        """
        self.check()
        bad = [index for index in range(self.shards) if not self.whole(index)]
        if bad:
            raise InputError(f"Shards {bad} of {self.folder} are missing or damaged; make them again.")
        targets = torch.cat(
            [read_safetensors(self.path(index))[0]["targets"] for index in range(self.shards)]
        )
        starts = self.model.starts(self.split, self.count, self.first)
        cond = self.model.condition(self.split, self.count, self.first)
        return Pairs(starts, targets[: self.count].to(starts), cond)

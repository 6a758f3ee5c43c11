"""Teacher pairs on disk: shards that are made once, checked by hash, and made again if damaged.

A folder holds ``manifest.json``, which says what the pairs are, and for each shard a safetensors file
with a JSON beside it that has its sha256 and is written last. Noises are not stored: seeds are.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.distributed import world
from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors, sha256, write_json, write_safetensors
from s4s_nb.parallel import map_batches
from s4s_nb.solvers import Solver, trajectory
from s4s_nb.teachers import Pairs, bound


@runtime_checkable
class Model(Protocol):
    """What a teacher needs of a model; :class:`s4s_nb.zoo.ImageModel` is one."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def denoise(self) -> Denoiser | Conditional: ...
    def starts(self, split: str, count: int, first: int = 0) -> Tensor: ...
    def labels(self, count: int, first: int = 0) -> Tensor | None: ...


@dataclass(frozen=True)
class PairStore:
    """``count`` pairs of a model's split and a teacher, in shards of ``shard`` pairs each.

    levels: where along the way the teacher's states are kept too: at its nodes nearest to these.
    first: number of the split's noise that the first pair starts from.
    """

    folder: Path
    model: Model
    teacher: Solver
    count: int
    split: str = "train"
    shard: int = 50
    levels: tuple[float, ...] = ()
    first: int = 0

    @property
    def shards(self) -> int:
        """How many shards there are when all are made."""
        return -(-self.count // self.shard)

    @property
    def nodes(self) -> list[int]:
        """The teacher's nodes at which states are kept."""
        distance = (self.teacher.sigmas.log()[:, None] - torch.tensor(self.levels).double().log()).abs()
        return distance.argmin(0).tolist() if self.levels else []

    def manifest(self) -> dict:
        """What the pairs are; a folder with another manifest holds other pairs."""
        return {
            "format": "s4s_nb.pairs.v1",
            "model": self.model.name,
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
            same = known["sha256"] == sha256(self.path(index))
            return same and known["pairs"] >= self.size(index)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def size(self, index: int) -> int:
        """Pairs in a shard: the last one may have fewer."""
        return min(self.shard, self.count - index * self.shard)

    def make(self, title: str | None = "teacher") -> None:
        """Make the shards that are missing or damaged.

        Killed at any moment, or run twice at once, it leaves whole shards and goes on from them: files
        appear by renaming, and everyone writes the same bytes. Under torchrun each process makes its own
        share of the shards.

        Raises:
            InputError: the folder holds other pairs.
        """
        manifest = self.folder / "manifest.json"
        if manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")) != self.manifest():
            raise InputError(
                f"{self.folder} holds other pairs (see its manifest.json); choose another folder."
            )
        write_json(manifest, self.manifest())
        rank, processes = world(self.model.device)
        own = range(rank, self.shards, processes)  # of all, since others may be done before this one looks
        missing = [index for index in own if not self.whole(index)]
        map_batches(self.make_shard, missing, self.model.device, title if rank == 0 else None)

    @torch.inference_mode()
    def make_shard(self, index: int) -> None:
        """Run the teacher for one shard and write it, then its hash."""
        first, count = self.first + index * self.shard, self.size(index)
        starts, labels = self.model.starts(self.split, count, first), self.model.labels(count, first)
        states, _ = trajectory(bound(self.model.denoise, labels), starts, self.teacher)
        tensors = {"targets": states[-1]}
        if self.levels:
            tensors["states"] = torch.stack([states[node] for node in self.nodes], dim=1)
        write_safetensors(self.path(index), tensors, {})
        record = {"sha256": sha256(self.path(index)), "pairs": count, "first": first}
        write_json(self.path(index).with_suffix(".json"), record)

    def load(self) -> Pairs:
        """All pairs; :class:`InputError` if a shard is missing or damaged."""
        bad = [index for index in range(self.shards) if not self.whole(index)]
        if bad:
            raise InputError(f"Shards {bad} of {self.folder} are missing or damaged; make them again.")
        targets = torch.cat(
            [read_safetensors(self.path(index))[0]["targets"] for index in range(self.shards)]
        )
        starts = self.model.starts(self.split, self.count, self.first)
        labels = self.model.labels(self.count, self.first)
        return Pairs(starts, targets[: self.count].to(starts), labels)

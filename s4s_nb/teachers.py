"""Teacher trajectories: pairs of a noise and the end point that a many-step solver gives it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.errors import InputError, choose
from s4s_nb.parallel import batch_size, map_batches
from s4s_nb.solvers import Solver, sample

SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
"""First noise seed of each split; a split holds at most a million, so that they are disjoint."""
PER_SEED = 10_000
"""Noises of a split for one seed of a command: seed s learns from number 10,000 s on."""


def seeded_noise(split: str, count: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """Standard normal noise (count, *shape), one CPU generator and one seed a sample.

    Sample k of a split is the same on every device and for every batch size.
    """
    start = choose(SEEDS, split, "split") + first
    if not 0 <= first <= first + count <= 1_000_000:
        raise InputError(f"A split holds a million noises; asked for {first} to {first + count}.")
    generators = (torch.Generator().manual_seed(start + k) for k in range(count))
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


@dataclass(frozen=True)
class Pairs:
    """Starts x_T at level σ_0, the teacher's end points, and each sample's label where it has one."""

    starts: Float[Tensor, "n ..."]
    targets: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, chosen: slice | Tensor) -> "Pairs":
        """Some of the pairs, by slice or by index."""
        labels = None if self.labels is None else self.labels[chosen]
        return Pairs(self.starts[chosen], self.targets[chosen], labels)

    def split(self, batch: int) -> list["Pairs"]:
        """The pairs in order, at most ``batch`` at a time."""
        return [self[first : first + batch] for first in range(0, len(self), batch)]


def bound(denoise: Denoiser | Conditional, labels: Tensor | None) -> Denoiser:
    """The denoiser of samples with these labels; an unconditional one is it already.

    Raises:
        InputError: labels are missing, or there is nothing that takes them.
    """
    if isinstance(denoise, Conditional):
        if labels is None:
            raise InputError("This model is conditional: pass a label for every sample.")
        return denoise.given(labels)
    if labels is not None:
        raise InputError("This denoiser takes no labels; leave them out.")
    return denoise


@torch.inference_mode()
def run(
    denoise: Denoiser | Conditional,
    starts: Tensor,
    solver: Solver,
    labels: Tensor | None = None,
    batch: int | None = None,
    title: str | None = None,
) -> Tensor:
    """End points of ``solver`` from many starts, by batches (see :func:`map_batches`)."""

    def end(part: slice) -> Tensor:
        given = bound(denoise, None if labels is None else labels[part])
        return sample(given, starts[part], solver)

    size = batch or batch_size(starts.device)
    parts = [slice(first, first + size) for first in range(0, len(starts), size)]
    return torch.cat(map_batches(end, parts, starts.device, title))

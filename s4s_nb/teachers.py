"""Teacher trajectories: pairs of a noise and the end point that a many-step solver gives it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from s4s_nb.denoisers import Denoiser
from s4s_nb.errors import InputError, choose
from s4s_nb.solvers import Solver, sample

SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
"""First noise seed of each split; a split holds at most a million, so that they are disjoint."""


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
    """Starts x_T at level σ_0 and the teacher's end points, both (n, …)."""

    starts: Float[Tensor, "n ..."]
    targets: Float[Tensor, "n ..."]

    def __len__(self) -> int:
        return len(self.starts)


@torch.inference_mode()
def run(
    denoise: Denoiser, starts: Tensor, solver: Solver, batch: int = 100, title: str | None = None
) -> Tensor:
    """End points of ``solver`` from many starts, batch by batch, with a bar if it has a title."""
    parts = tqdm(starts.split(batch), desc=title, disable=title is None, mininterval=1)
    return torch.cat([sample(denoise, x, solver) for x in parts])

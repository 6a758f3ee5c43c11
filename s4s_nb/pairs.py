"""Teacher trajectories: pairs of a noise and the end point that a many-step solver gives it."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser
from s4s_nb.errors import InputError, choose
from s4s_nb.runtime import batch_size, map_batches
from s4s_nb.solvers import Solver, solve

SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
"""First noise seed of each split; a split holds at most a million, so that they are disjoint."""
PER_SEED = 10_000
"""Noises of a split for one seed of a command: seed s learns from number 10,000 s on."""


def seed_range(split: str, count: int, first: int) -> range:
    """The seeds of some noises of a split.

    Raises:
        InputError: an unknown split, or numbers that it does not have.
    """
    start = choose(SEEDS, split, "split") + first
    if not 0 <= first <= first + count <= 1_000_000:
        raise InputError(f"A split holds a million noises; asked for {first} to {first + count}.")
    return range(start, start + count)


def seeded_noise(split: str, count: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """Standard normal noise (count, *shape), float32, one CPU generator and one seed a sample.

    Sample k of a split is the same on every device, for every batch size and whatever torch's defaults are.
    """
    own = {"dtype": torch.float32, "device": "cpu"}
    noise = torch.empty(count, *shape, **own)
    for k, seed in enumerate(seed_range(split, count, first)):
        noise[k] = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), **own)
    return noise


@dataclass(frozen=True)
class Way:
    """The teacher's states on its way, (n, k, …), and the k falling levels at which they are known."""

    levels: Float[Tensor, " k"]
    states: Tensor

    def __getitem__(self, chosen: slice | Tensor) -> "Way":
        return Way(self.levels, self.states[chosen])

    def at(self, sigma: Tensor) -> Tensor:
        """The states (n, …) at a level, or at one a sample (n,), differentiable in it.

        They lie on a straight line between the two nearest ones, as Euler's method itself goes.
        """
        levels = self.levels.to(sigma)
        low = torch.searchsorted(-levels, -sigma.detach()).clamp(1, len(levels) - 1)
        share = (sigma - levels[low - 1]) / (levels[low] - levels[low - 1])
        if sigma.ndim == 0:
            before, after = self.states[:, low - 1], self.states[:, low]
        else:
            each = torch.arange(len(sigma), device=sigma.device)
            before, after = self.states[each, low - 1], self.states[each, low]
            share = share.reshape(-1, *[1] * (before.ndim - 1))
        return before + share.to(before) * (after - before)


@dataclass(frozen=True)
class Pairs:
    """Starts x_T at level σ_0, (n, …), the teacher's end points, of the same shape, what each sample is
    conditioned on, and the way from one to the other where that is compared; see :meth:`checked`."""

    starts: Tensor
    targets: Tensor
    cond: Condition = field(default_factory=dict)
    way: Way | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def checked(self, what: str) -> "Pairs":
        """The same in float32, or float64 where they are, once they are found to be pairs.

        Args:
            what: how errors call them, as "training".

        Raises:
            InputError: no pairs, starts and targets of unequal shapes, what is no float or not finite, or
                conditions of another number.
        """
        for value in (self.starts, self.targets, *self.cond.values()):
            if not isinstance(value, Tensor):
                raise InputError(f"The {what} pairs are tensors; got a {type(value).__name__} among them.")
        if not len(self):
            raise InputError(f"There are no {what} pairs; learning needs at least one.")
        if self.starts.shape != self.targets.shape:
            raise InputError(
                f"The {what} pairs have starts of shape {tuple(self.starts.shape)} and targets of shape"
                f" {tuple(self.targets.shape)}; each start needs one target of its own shape."
            )
        for name, states in (("starts", self.starts), ("targets", self.targets)):
            if not states.is_floating_point():
                raise InputError(f"The {name} of the {what} pairs are {states.dtype}; they must be floats.")
            bad = (~torch.isfinite(states).flatten(1).all(1)).nonzero().flatten().tolist()
            if bad:
                raise InputError(
                    f"The {name} of the {what} pairs are NaN or infinite in {len(bad)} of {len(self)},"
                    f" first in number {bad[0]}; make those again or leave them out."
                )
        for name, value in self.cond.items():
            if value.shape[:1] != self.starts.shape[:1]:
                raise InputError(
                    f"The {what} pairs are {len(self)}, but their condition {name} has shape"
                    f" {tuple(value.shape)}; it needs one for each."
                )
        wide = torch.promote_types(
            torch.promote_types(self.starts.dtype, self.targets.dtype), torch.float32
        )
        return replace(self, starts=self.starts.to(wide), targets=self.targets.to(wide))

    def __getitem__(self, chosen: slice | Tensor) -> "Pairs":
        """Some of the pairs, by slice or by index."""
        way = None if self.way is None else self.way[chosen]
        return Pairs(self.starts[chosen], self.targets[chosen], part_of(self.cond, chosen), way)

    def split(self, batch: int) -> list["Pairs"]:
        """The pairs in order, at most ``batch`` at a time."""
        return [self[first : first + batch] for first in range(0, len(self), batch)]


def part_of(cond: Condition, chosen: slice | Tensor) -> Condition:
    """The condition of some samples."""
    return {name: value[chosen] for name, value in cond.items()}


@torch.no_grad()
def run(
    denoise: Denoiser,
    starts: Tensor,
    solver: Solver,
    cond: Condition | None = None,
    batch: int | None = None,
    title: str | None = None,
) -> Tensor:
    """End points of ``solver`` from many starts, by batches (see :func:`map_batches`)."""

    def end(part: slice) -> Tensor:
        return solve(denoise, starts[part], solver, part_of(cond or {}, part))

    size = batch or batch_size(starts.device)
    parts = [slice(first, first + size) for first in range(0, len(starts), size)]
    return torch.cat(map_batches(end, parts, starts.device, title))


@torch.no_grad()
def fingerprint(
    denoise: Denoiser, start: Tensor, sigmas: Float[Tensor, " levels"], cond: Condition | None = None
) -> list[float]:
    """Numbers by which a denoiser, with its weights, guidance and condition, is known again.

    For every level two means over D of one start: |D|, and the step from one number of it to the next.
    """
    unit, cond = start / sigmas[0], cond or {}
    outputs = []
    for sigma in sigmas.to(start.device):
        outputs.append(denoise((unit * sigma).to(start), sigma.clone(), **cond).double().clone())
    means = [(d.abs().mean(), d.flatten().diff().abs().mean()) for d in outputs]
    return [float(mean) for pair in means for mean in pair]

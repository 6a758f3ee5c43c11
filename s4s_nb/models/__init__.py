"""Models: what can be sampled, learned for and judged, bundled or anybody's."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.computed_grids import FINE, cheapest_path, dmn, step_costs
from s4s_nb.denoisers import Condition, Counted, Denoiser, examined
from s4s_nb.distances import LPIPS_SIDE, Embedding, are_images, lpips_distance
from s4s_nb.errors import InputError, choose
from s4s_nb.evaluate import Reference
from s4s_nb.first import FreeFirst, mean_answers
from s4s_nb.grids import GRID_NAMES, Grid, karras, make_grid
from s4s_nb.pairs import PER_SEED, Pairs, part_of, run, seeded_noise
from s4s_nb.runtime import batch_size, map_batches
from s4s_nb.schedules import Schedule, native_clock
from s4s_nb.solvers import Solver

CHORDS = 64
"""Noises whose fine paths GITS looks at; it takes 256."""

FIRST_NOISES = 64
"""Noises whose answers at the first level are averaged, of every class."""

Conditions = Callable[[str, int, int], Condition]
"""(split, count, first) → what samples ``first``, ``first`` + 1, … of a split are conditioned on."""


def states_are_images(states: Tensor) -> Tensor:
    """What decodes the states of a model in pixel space."""
    return states


@dataclass(eq=False)
class Model:
    """A denoiser, and what is needed to sample it, to learn a solver for it and to judge one.

    Args:
        denoise: D = denoise(x, sigma, **cond), as :mod:`s4s_nb.denoisers` says; x is float32 (b, …).
        shape: of a state, without the batch.
        sigma_max, sigma_min: the levels between which it is sampled.
        name: how tables call it.
        schedule: of its process, if its network lives in a native time: uniform and quadratic grids and
            DEIS step in it, and a learned model level moves only that time
            (:func:`s4s_nb.levels.decoupled`).
        decode: end states → images in [−1, 1], differentiable; states are images if left out.
        picture: decoded data → images in [−1, 1], differentiable, where what ``decode`` gives has another
            range, as ``lambda x: (x.clamp(-0.2, 8.5) - 4.15) / 4.35``. LPIPS, to learn by and to judge by,
            the Fréchet distance and figures are of pictures; RMSE is of the data.
        embedding: decoded data → vectors whose squared distance is to be learned by; LPIPS for images of
            one or three channels, else the data themselves, compared by their squared difference.
        conditions: (split, count, first) → what the samples first … first + count − 1 of a split are
            conditioned on, by name, a tensor each with ``count`` in front, as
            ``lambda split, count, first: {"label": torch.arange(first, first + count) % 10}``; nothing if
            left out.
        teacher_solver: whose end points are the targets; UniPC-3 with 60 evaluations on Karras's grid.
        device: where it is sampled.
        side: to how many pixels a side smaller images are enlarged in the LPIPS to learn by; judges keep
            to 64.
        network: what is counted as one evaluation; the denoiser if left out.
        prediction, guidance_scale: what its network predicts, and its guidance weight, for the records of
            solvers that are learned for it: those of other models are refused.
        load_reference: reads what bundled models are judged against.
        features: pictures → vectors (b, d) of a classifier, differentiable: to learn by, where asked for.

    Raises:
        InputError: levels that do not fall or are not positive, or a shape that is none.

    Example:
        >>> model = Model(denoise, shape=(3, 64, 64), sigma_max=80.0, sigma_min=0.002)
        >>> model.pairs("train", 80)  # noises, and the teacher's images of them
    """

    denoise: Denoiser
    shape: tuple[int, ...]
    sigma_max: float
    sigma_min: float
    name: str = "model"
    schedule: Schedule | None = None
    decode: Callable[[Tensor], Tensor] = states_are_images
    embedding: Embedding | None = None
    conditions: Conditions | None = None
    teacher_solver: Solver | None = None
    device: str = "cpu"
    side: int = 2 * LPIPS_SIDE
    network: Counted = None  # type: ignore[assignment]
    prediction: str | None = None
    guidance_scale: float | None = None
    load_reference: Callable[[], Reference] | None = field(default=None, repr=False)
    picture: Callable[[Tensor], Tensor] | None = None
    features: Embedding | None = None

    def __post_init__(self):
        self.sigma_max, self.sigma_min = float(self.sigma_max), float(self.sigma_min)  # of NumPy, too
        self.guidance_scale = None if self.guidance_scale is None else float(self.guidance_scale)
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(
                f"A model is sampled from sigma_max down to sigma_min > 0; got {self.sigma_max:g} and"
                f" {self.sigma_min:g}."
            )
        if self.network is None:
            self.denoise = self.network = Counted(self.denoise)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, shape={self.shape}, sigma {self.sigma_max:g} to {self.sigma_min:g})"

    @cached_property
    def reference(self) -> Reference | None:
        """The stored teacher and the real images of a bundled model; None for others."""
        return self.load_reference() if self.load_reference else None

    @property
    def conventions(self) -> dict[str, Any]:
        """What a solver is learned for beside the network: the level range, the process, what the network
        predicts, guidance, and the start."""
        return {
            "sigma_max": self.sigma_max,
            "sigma_min": self.sigma_min,
            "process": described(self.schedule),
            "prediction": self.prediction,
            "guidance_scale": self.guidance_scale,
            "start": "sigma_max times unit noise",
        }

    def condition(self, split: str, count: int, first: int = 0) -> Condition:
        """What the samples of a split from number ``first`` on are conditioned on.

        Raises:
            InputError: ``conditions`` gives no tensors by name with ``count`` in front.
        """
        cond = self.conditions(split, count, first) if self.conditions else {}
        for value in cond.values() if isinstance(cond, dict) else [cond]:
            if not (isinstance(cond, dict) and isinstance(value, Tensor) and value.shape[:1] == (count,)):
                told = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    "The conditions of a model are tensors by name, {name: tensor}, each with the batch in"
                    f" front; asked for {count} samples they gave {told}."
                )
        return {name: value.to(self.device) for name, value in cond.items()}

    def starts(self, split: str, count: int, first: int = 0) -> Tensor:
        """x_T = σ_max ε from seeded noise."""
        return self.sigma_max * seeded_noise(split, count, self.shape, first).to(self.device)

    @torch.no_grad()
    def images(self, states: Tensor) -> Tensor:
        """Images of many end states, or whatever data they decode to."""
        parts = states.split(batch_size(states.device))
        return torch.cat(map_batches(self.decode, parts, states.device))

    @torch.no_grad()
    def pictures(self, images: Tensor) -> Tensor:
        """What LPIPS, the Fréchet distance and figures see of many decoded images: in [−1, 1]."""
        if self.picture is None:
            return images
        parts = images.split(batch_size(images.device))
        return torch.cat(map_batches(self.picture, parts, images.device))

    @property
    def in_pixels(self) -> bool:
        """Whether its states are images themselves, not latents."""
        return self.decode is states_are_images

    @cached_property
    def has_images(self) -> bool:
        """Whether its end states decode to images of one or three channels, which LPIPS can judge."""
        with torch.no_grad():
            one = self.decode(torch.zeros(1, *self.shape, device=self.device))
            return are_images(one if self.picture is None else self.picture(one))

    def embed(self, states: Tensor) -> Tensor:
        """States (b, …) → vectors (b, p) whose squared distance is to be learned by."""
        images = self.decode(states)
        if self.embedding is not None:
            return self.embedding(images)
        if not self.has_images:
            return images.flatten(1)
        seen = images if self.picture is None else self.picture(images)
        return lpips_distance(self.device, self.side).embed(seen)

    def pictured(self, states: Tensor) -> Tensor:
        """What judges see of a batch of end states, differentiable."""
        images = self.decode(states)
        return images if self.picture is None else self.picture(images)

    def grid(self, name: str, end: float | None = None) -> Callable[[int], Grid]:
        """The function (steps) → levels of a named grid over this model's range.

        "dmn" and "gits" are searched for when it is called (:mod:`s4s_nb.computed_grids`). GITS asks
        the model 60 times for each of :data:`CHORDS` training noises, once for all numbers of steps.

        Args:
            name: one of :data:`s4s_nb.grids.GridName`.
            end: another last level than sigma_min, at which the teacher ends; the first is where the noise
                lives.

        Raises:
            InputError: an unknown name, or ``end`` is not between 0 and sigma_max.

        Example:
            >>> load("fashion").grid("logsnr", end=0.02)(5)
            >>> load("fashion").grid("gits")(5)
        """
        clock, last = native_clock(self.schedule), self.sigma_min if end is None else end
        if not 0 < last < self.sigma_max:
            raise InputError(
                f"A grid ends at a level above 0 and below sigma_max = {self.sigma_max:g}; got {last:g}."
            )
        if name == "dmn":
            return lambda steps: dmn(steps, self.sigma_max, last, latent=not self.in_pixels)
        if name == "gits":
            fine = self.fine_levels(last)
            return lambda steps: fine[cheapest_path(chord_costs(self, last), steps)]
        choose(dict.fromkeys(GRID_NAMES), name, "grid")
        return lambda steps: make_grid(name, steps, self.sigma_max, last, clock)

    def first_answer(self) -> FreeFirst:
        """What may stand for the answer at sigma_max: the mean of the model's own answers to
        :data:`FIRST_NOISES` noises; of a model whose only condition is a class, one for each class.

        For :meth:`s4s_nb.solvers.Solver.with_first`. It takes so many evaluations, once; guidance is in
        it. Where a condition is no class, as an embedded prompt, the mean is over noises and conditions.
        """
        starts, cond = self.starts("train", FIRST_NOISES), self.condition("train", FIRST_NOISES)
        sigma = torch.tensor(self.sigma_max, dtype=torch.float64)
        denoise = examined(self.denoise, starts, sigma, cond)
        by, labels = next(iter(cond.items()), (None, torch.zeros(0)))
        if by is None or len(cond) != 1 or labels.ndim != 1 or labels.is_floating_point():
            by, each = None, [cond]
        else:
            count = int(self.condition("train", PER_SEED)[by].max()) + 1
            each = [{by: torch.full_like(labels, label)} for label in range(count)]
        means = mean_answers(denoise, starts, sigma, each, batch_size(starts.device))
        return FreeFirst(means, by, FIRST_NOISES)

    def fine_levels(self, end: float) -> Grid:
        """The levels among which GITS chooses: Karras's, as many as it has."""
        return karras(FINE, self.sigma_max, end)

    def teacher(self, refine: int = 1) -> Solver:
        """The many-step solver whose end points are the targets; with ``refine`` times the steps of the
        usual one, where the model brings none of its own."""
        if self.teacher_solver is not None and refine == 1:
            self.teacher_solver.check_for(self, transfer=True)
            return self.teacher_solver
        return make_solver("unipc-3-bh2", 60 * refine, self.grid("karras"))

    def pairs(self, split: str, count: int, first: int = 0, progress: bool = True) -> Pairs:
        """``count`` starts of a split, from number ``first`` on, with the teacher's end points."""
        starts, cond = self.starts(split, count, first), self.condition(split, count, first)
        title, teacher = f"teacher, {split}" if progress else None, self.teacher()
        denoise = examined(self.denoise, starts, teacher.model_sigmas[0], cond)
        return Pairs(starts, run(denoise, starts, teacher, cond, title=title), cond)


@lru_cache(maxsize=8)
def chord_costs(model: Model, end: float) -> Tensor:
    """GITS's costs of Euler steps between the levels of a model's fine paths, which are iPNDM's."""
    starts, cond = model.starts("train", CHORDS), model.condition("train", CHORDS)
    fine = make_solver("ipndm-4", FINE, lambda steps: model.fine_levels(end))
    denoise = examined(model.denoise, starts, fine.model_sigmas[0], cond)
    size = batch_size(starts.device)
    parts = [slice(first, first + size) for first in range(0, CHORDS, size)]
    costs = map_batches(
        lambda part: len(starts[part]) * step_costs(denoise, starts[part], fine, part_of(cond, part)),
        parts,
        starts.device,
    )
    return torch.stack(costs).sum(0) / CHORDS


def described(schedule: Schedule | None) -> str | None:
    """A process in words that are the same on every machine: its class and its numbers."""
    if schedule is None or not is_dataclass(schedule):
        return None if schedule is None else type(schedule).__name__
    numbers = []
    for one in fields(schedule):
        value = getattr(schedule, one.name)
        told = f"{len(value)} down to {float(value[-1]):.4g}" if isinstance(value, Tensor) else f"{value:g}"
        numbers.append(f"{one.name} {told}")
    return f"{type(schedule).__name__}({', '.join(numbers)})"

"""Quality of a solver, from held-out noise: against the teacher, and real images if there are any."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from s4s_nb.denoisers import Counted, examined
from s4s_nb.distances import check_numbers, lpips_distance, rmse
from s4s_nb.errors import InputError
from s4s_nb.frechet import (
    Features,
    Moments,
    bootstrap_error,
    extrapolated,
    features,
    frechet_distance,
    moments,
)
from s4s_nb.grids import Grid
from s4s_nb.pairs import PER_SEED, Pairs, run
from s4s_nb.runtime import batch_size, map_batches, synchronize
from s4s_nb.schedules import Schedule
from s4s_nb.solvers import Solver
from s4s_nb.store import Sampled

TO_TEACHER = ("rmse", "lpips", "lpips_error", "fd_teacher", "fd_teacher_limit", "fd_teacher_error")
"""What a row has of distances to the teacher, which has none to itself."""
FEWEST = 4
"""Samples that a Fréchet distance and its limit can be taken of."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What a bundled model is judged against; ``data/NAME_reference.safetensors``.

    real: moments of the features of all real test images. floor: features of real training images,
    whose distance to ``real`` at the same count is what a perfect sampler would get. teacher: images
    of the teacher from test noises 0, 1, … neighbours: the training images nearest to the first ones.
    """

    real: Moments
    floor: Tensor
    teacher: Tensor
    neighbours: Tensor

    def floor_distance(self, count: int) -> float:
        """Fréchet distance of ``count`` real training images to the real test images."""
        return frechet_distance(moments(self.floor[:count]), self.real)


@runtime_checkable
class Judged(Sampled, Protocol):
    """What a judge needs of a model; :class:`s4s_nb.models.Model` is one."""

    @property
    def sigma_max(self) -> float: ...
    @property
    def conventions(self) -> dict[str, Any]: ...
    @property
    def network(self) -> Counted: ...
    @property
    def schedule(self) -> Schedule | None: ...
    @property
    def reference(self) -> Reference | None: ...
    @property
    def has_images(self) -> bool: ...
    def images(self, states: Tensor) -> Tensor: ...
    def pictures(self, images: Tensor) -> Tensor: ...
    def teacher(self, refine: int = 1) -> Solver: ...
    @property
    def sigma_min(self) -> float: ...
    def grid(self, name: str, end: float | None = None) -> Callable[[int], Grid]: ...
    def pairs(self, split: str, count: int, first: int = 0, progress: bool = True) -> Pairs: ...


@dataclass(frozen=True)
class Target:
    """The teacher's images of some noises, what LPIPS sees of them, and features where they are images."""

    images: Tensor
    pictures: Tensor

    @cached_property
    def features(self) -> Features:
        """Features of all of them."""
        return features(self.pictures)


@lru_cache(maxsize=2)
def target_of(model: Judged, samples: int, seed: int) -> Target:
    """The teacher's images of the test noises of a seed: stored ones where there are any, else made."""
    stored = model.reference.teacher if model.reference else torch.zeros(0)
    if seed == 0 and samples <= len(stored):
        images = stored[:samples].to(model.device)
    else:
        images = sampled(model, model.teacher(), samples, seed, title="teacher").images
    return Target(images, model.pictures(images))


@dataclass(frozen=True)
class Sampling:
    """Images of some noises, the evaluations of the network that each took, and the seconds of all."""

    images: Tensor
    nfe: int
    seconds: float


def sampled(
    model: Judged, solver: Solver, samples: int, seed: int = 0, title: str | None = None
) -> Sampling:
    """Images of the test noises of a seed, from x_T itself."""
    first = seed * PER_SEED
    starts, cond = model.starts("test", samples, first), model.condition("test", samples, first)
    denoise = examined(model.denoise, starts, solver.model_sigmas[0], cond)
    model.network.nfe = 0
    synchronize(model.device)
    started = time.perf_counter()
    images = model.images(run(denoise, starts, solver, cond, title=title))
    synchronize(model.device)
    batches = -(-samples // batch_size(model.device))
    return Sampling(images, model.network.nfe // batches, time.perf_counter() - started)


def checked(model: Judged, solver: Any, transfer: bool) -> Solver:
    """A solver, if it is one and may sample the model; see :meth:`s4s_nb.solvers.Solver.check_for`."""
    if not isinstance(solver, Solver):
        raise InputError(
            f"A solver is a s4s_nb.Solver, as make_solver, find_solver and learn give; got {solver!r}."
        )
    solver.check_for(model, transfer)
    return solver


def sample(model: Judged, solver: Solver, count: int = 16, seed: int = 0, transfer: bool = False) -> Tensor:
    """Images of the first ``count`` test noises of a seed, (count, c, h, w) in [−1, 1]; of a model with a
    ``picture``, its data, of which ``model.pictures`` makes such images.

    Args:
        transfer: whether the solver may have been learned for another model.

    Raises:
        InputError: no samples or more than a seed has, or a solver that is not for this model.

    Example:
        >>> images = sample(model, make_solver("dpmpp-2m", 5, model.grid("karras")), count=16)
    """
    if not 1 <= count <= PER_SEED:
        raise InputError(f"A seed has 1 to {PER_SEED:,} samples; asked for {count}.")
    return sampled(model, checked(model, solver, transfer), count, seed).images


def evaluate(
    model: Judged,
    solver: Solver,
    samples: int = 500,
    seed: int = 0,
    title: str | None = None,
    transfer: bool = False,
) -> dict[str, Any]:
    """Sample from x_T of the test noises (never from a relaxed start) and measure.

    Returns a row: nfe as counted at the network, of which guidance takes two an evaluation; rmse and, of
    images, lpips to the teacher's of the same noises, and fd_teacher, a Fréchet distance to them as a set,
    with fd_teacher_limit, what it tends to with more samples; the same to real images, where there are any;
    seconds_per_100.

    Args:
        samples: how many test noises.
        seed: which: seed s begins at number 10,000 s.
        title: of the bar; none without.
        transfer: whether the solver may have been learned for another model.

    Raises:
        InputError: fewer than four samples, more than a seed has, or a solver that is not for this model.

    Example:
        >>> evaluate(model, make_solver("dpmpp-2m", 5, model.grid("karras")), samples=100)["lpips"]
    """
    return judged(model, checked(model, solver, transfer), samples, seed, title)[0]


def judged(
    model: Judged, solver: Solver, samples: int = 500, seed: int = 0, title: str | None = None
) -> tuple[dict[str, Any], Tensor]:
    """The row of :func:`evaluate`, and the images."""
    check_count(samples)
    target = target_of(model, samples, seed)
    made = sampled(model, solver, samples, seed, title)
    row = {
        "nfe": made.nfe,
        **distances_to(model, made.images, target),
        "seconds_per_100": 100 * made.seconds / samples,
    }
    return row, made.images


def check_count(samples: int) -> None:
    """:class:`InputError` where so many samples cannot be judged."""
    if not FEWEST <= samples <= PER_SEED:
        raise InputError(
            f"A solver can be judged on {FEWEST} to {PER_SEED:,} samples; asked for {samples}."
        )


def distances_to(model: Judged, images: Tensor, target: Target) -> dict[str, Any]:
    """Distances of images from some test noises to the teacher's and to the real ones."""
    row = {"samples": len(images), "rmse": float(rmse(images, target.images).mean())}
    if not model.has_images:
        return row
    pictures, g = check_numbers(model.pictures(images)), target.features
    f = features(pictures.clamp(-1, 1))  # a solver's may be out of range, and are judged all the same

    def to_teacher(chosen: Tensor) -> float:
        return frechet_distance(moments(f[chosen]), moments(g[chosen]))

    return {
        **row,
        **lpips_of(pictures, target.pictures),
        **real_distances(f, model.reference),
        "fd_teacher": frechet_distance(moments(f), moments(g)),
        "fd_teacher_limit": extrapolated(to_teacher, len(images)),
        "fd_teacher_error": bootstrap_error(f, moments(g)),
    }


def lpips_of(images: Tensor, target: Tensor) -> dict[str, float]:
    """Mean LPIPS to the images of the same noises, and its standard error."""
    lpips = pairwise(lpips_distance(str(images.device)), images, target).cpu()
    return {"lpips": float(lpips.mean()), "lpips_error": float(lpips.std() / len(lpips) ** 0.5)}


def real_distances(f: Features, ref: Reference | None) -> dict[str, float]:
    """Fréchet distance of samples to the real images, and its limit; nothing where there are none."""
    if ref is None:
        return {}

    def to_real(chosen: Tensor) -> float:
        return frechet_distance(moments(f[chosen]), ref.real)

    return {"fd_real": to_real(torch.arange(len(f))), "fd_real_limit": extrapolated(to_real, len(f))}


def evaluate_teacher(model: Judged, samples: int = 500, seed: int = 0) -> dict[str, Any]:
    """The teacher's own row: its images against the real ones; a stored teacher is timed on 100 noises."""
    check_count(samples)
    target = target_of(model, samples, seed)
    few = min(100, samples)
    made = sampled(model, model.teacher(), few, seed, title="teacher")
    own = dict.fromkeys(TO_TEACHER if model.has_images else TO_TEACHER[:1], 0.0)
    real = real_distances(target.features, model.reference) if model.has_images else {}
    seconds = {"seconds_per_100": 100 * made.seconds / few}
    return {"nfe": made.nfe, "samples": samples, **own, **real, **seconds}


@torch.inference_mode()
def pairwise(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Distances of many pairs of images."""
    size = batch_size(x.device)
    parts = list(zip(x.split(size), y.split(size), strict=True))
    return torch.cat(map_batches(lambda part: distance(*part), parts, x.device))

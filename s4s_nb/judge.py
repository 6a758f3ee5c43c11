"""Quality of a solver on a bundled model, from held-out noise: against the teacher and the truth."""

import time
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from s4s_nb.distances import lpips_distance, rmse
from s4s_nb.errors import InputError
from s4s_nb.files import bundled, read_safetensors
from s4s_nb.learn import Distance
from s4s_nb.metrics import Features, Moments, extrapolated, features, frechet_distance, moments
from s4s_nb.parallel import batch_size, map_batches
from s4s_nb.solvers import Solver
from s4s_nb.teachers import run
from s4s_nb.zoo import ImageModel, load_model


@dataclass(frozen=True)
class Reference:
    """What a setting is judged against; ``data/NAME_reference.safetensors``.

    real: moments of the features of all real test images. floor: features of real training images,
    whose distance to ``real`` at the same count is what a perfect sampler would get. teacher: images
    of the teacher from test noises 0, 1, … neighbours: the training images nearest to the first ones.
    """

    real: Moments
    floor: Tensor
    teacher: Tensor
    neighbours: Tensor

    @property
    def limit(self) -> int:
        """How many samples can be judged."""
        return len(self.teacher)

    @cached_property
    def teacher_features(self) -> Tensor:
        """Features of all the teacher's images; the first n belong to the first n noises."""
        return features(self.teacher)

    def floor_distance(self, count: int) -> float:
        """Fréchet distance of ``count`` real training images to the real test images."""
        return frechet_distance(moments(self.floor[:count]), self.real)


@lru_cache
def reference(name: str) -> Reference:
    """The reference of a setting, read from ``data/`` and checked against the manifest."""
    t, _ = read_safetensors(bundled(f"{name}_reference.safetensors"))
    real = t["real_mean"].double(), t["real_covariance"].double()
    teacher = load_model(name).images(t["teacher"].float())
    return Reference(real, t["floor"].double(), teacher, t["neighbours"])


def judge(
    model: ImageModel, solver: Solver, samples: int = 500, title: str | None = None
) -> tuple[dict, Tensor]:
    """Sample from x_T of the test noises (never from a relaxed start) and measure.

    Returns the row (nfe as counted at the network, of which guidance takes two an evaluation; rmse
    and lpips to the teacher's images of the same noises; fd_real and fd_teacher of so many samples, and
    what they tend to with more, fd_real_limit and fd_teacher_limit; seconds_per_100) and the images.

    Raises:
        InputError: more samples than the stored teacher has, or fewer than four.
    """
    check_count(model, samples)
    starts, labels = model.starts("test", samples), model.labels(samples)
    model.network.nfe = 0
    started = time.perf_counter()
    images = model.images(run(model.denoise, starts, solver, labels, title=title))
    seconds = time.perf_counter() - started
    row = {
        "nfe": model.network.nfe // -(-samples // batch_size(model.device)),
        **compare(model, images),
        "seconds_per_100": 100 * seconds / samples,
    }
    return row, images


def check_count(model: ImageModel, samples: int) -> Reference:
    """The model's reference, if it has that many teacher samples."""
    ref = reference(model.name)
    if not 4 <= samples <= ref.limit:
        raise InputError(f"{model.name} can be judged on 4 to {ref.limit} samples; asked for {samples}.")
    return ref


def compare(model: ImageModel, images: Tensor) -> dict:
    """Distances of images from the first test noises to the teacher's and to the real ones."""
    samples, ref = len(images), reference(model.name)
    target = ref.teacher[:samples].to(images)
    f, g = features(images), ref.teacher_features[:samples]

    def to_teacher(chosen: Tensor) -> float:
        return frechet_distance(moments(f[chosen]), moments(g[chosen]))

    return {
        "samples": samples,
        "rmse": float(rmse(images, target).mean()),
        **lpips_of(images, target),
        **real_distances(f, ref),
        "fd_teacher": frechet_distance(moments(f), moments(g)),
        "fd_teacher_limit": extrapolated(to_teacher, samples),
        "fd_teacher_error": bootstrap_error(f, moments(g)),
    }


def lpips_of(images: Tensor, target: Tensor) -> dict[str, float]:
    """Mean LPIPS to the images of the same noises, and its standard error."""
    lpips = pairwise(lpips_distance(str(images.device)), images, target).cpu()
    return {"lpips": float(lpips.mean()), "lpips_error": float(lpips.std() / len(lpips) ** 0.5)}


def real_distances(f: Features, ref: Reference) -> dict[str, float]:
    """Fréchet distance of samples to the real images, and its limit."""

    def to_real(chosen: Tensor) -> float:
        return frechet_distance(moments(f[chosen]), ref.real)

    return {"fd_real": to_real(torch.arange(len(f))), "fd_real_limit": extrapolated(to_real, len(f))}


def judge_teacher(model: ImageModel, samples: int = 500) -> dict:
    """The teacher's own row: its stored images against the real ones, timed on 100 noises at most."""
    ref = check_count(model, samples)
    timed, _ = judge(model, model.teacher(), min(100, samples), title="teacher")
    own = dict.fromkeys(("rmse", "lpips", "fd_teacher", "fd_teacher_limit"), 0.0)
    return {**timed, "samples": samples, **own, **real_distances(ref.teacher_features[:samples], ref)}


@torch.inference_mode()
def pairwise(distance: Distance, x: Tensor, y: Tensor) -> Tensor:
    """Distances of many pairs of images."""
    size = batch_size(x.device)
    parts = list(zip(x.split(size), y.split(size), strict=True))
    return torch.cat(map_batches(lambda part: distance(*part), parts, x.device))


def bootstrap_error(f: Tensor, target: Moments, resamples: int = 20, seed: int = 0) -> float:
    """Standard error of the Fréchet distance over resamples of the images with replacement.

    Only the spread is used: resampled sets hold doubles, which shifts the distance itself upwards.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(f)
    draws = [torch.randint(n, (n,), generator=generator) for _ in range(resamples)]
    values = [frechet_distance(moments(f[i]), target) for i in draws]
    return float(torch.tensor(values).std())

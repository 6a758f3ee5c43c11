"""What judges take for images: shape, kind and range in one sentence each; and pictures of other data."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from s4s_nb.classic import make_solver
from s4s_nb.distances import as_colour, check_range, lpips_distance, rmse
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.evaluate import judged, target_of
from s4s_nb.frechet import (
    bootstrap_error,
    extractor,
    extrapolated,
    features,
    frechet_distance,
    moments,
)
from s4s_nb.learn import learn
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, reference
from s4s_nb.pairs import run


def images(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth ones in [−1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], 3, 3, generator=generator)
    return torch.tanh(F.interpolate(coarse, size=shape[1:], mode="bilinear"))


# ---------------------------------------------------------------- proportions


@pytest.mark.parametrize(
    "shape, enlarged",
    [
        ((28, 28), (64, 64)),
        ((28, 400), (64, 914)),
        ((400, 28), (914, 64)),
        ((80, 100), (80, 100)),
        ((63, 64), (64, 65)),
    ],
)
def test_images_keep_their_proportions(shape, enlarged):
    assert as_colour(images(1, 3, *shape), 64).shape[2:] == enlarged


def test_a_square_image_is_enlarged_as_ever():
    x = images(2, 1, 28, 28)
    before = F.interpolate(x.expand(-1, 3, -1, -1), size=(64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(as_colour(x, 64), before)


def test_lpips_of_a_wide_image_is_that_of_the_image_enlarged_in_proportion():
    x, y = images(2, 3, 16, 100), images(2, 3, 16, 100, seed=1)
    enlarged = (F.interpolate(z, scale_factor=4, mode="bilinear", align_corners=False) for z in (x, y))
    assert lpips_distance()(x, y).allclose(lpips_distance()(*enlarged), rtol=1e-5)
    squashed = (F.interpolate(z, size=(64, 64), mode="bilinear", align_corners=False) for z in (x, y))
    assert not lpips_distance()(x, y).allclose(lpips_distance()(*squashed), rtol=1e-2)


# ---------------------------------------------------------------- what is no image


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bad, sentence",
    [
        (torch.zeros(4, 2, 32, 32), "1 or 3, h, w"),
        (torch.zeros(4, 4, 32, 32), "1 or 3, h, w"),
        (torch.zeros(4, 3, 1, 32), "at least 4 pixels"),
        (torch.zeros(4, 3, 32), "1 or 3, h, w"),
        (torch.zeros(4, 3, 32, 32).byte(), "x / 127.5 - 1"),
        (torch.zeros(4, 3, 32, 32).long(), "x / 127.5 - 1"),
        (torch.full((4, 3, 32, 32), torch.nan), "NaN"),
        (torch.full((4, 3, 32, 32), torch.inf), "NaN"),
        (127.5 * images(4, 3, 32, 32) + 127.5, "run from .* picture= .* embedding="),
        (2 * images(4, 3, 32, 32) + 1, "run from"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype} {tuple(value.shape)}",
)
def test_both_judges_refuse_what_is_no_image_in_one_sentence(bad, sentence):
    for judge in (features, lambda x: lpips_distance()(x, x)):
        with pytest.raises(InputError, match=sentence) as caught:
            judge(bad)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_images_are_compared_one_by_one_or_all_with_one():
    x = images(3, 3, 32, 32)
    for distance in (lpips_distance(), rmse):
        for other in (images(3, 3, 32, 30), images(2, 3, 32, 32), images(3, 1, 32, 32)):
            with pytest.raises(InputError, match="pairs of one shape"):
                distance(x, other)
        assert torch.allclose(distance(x, x[:1]), distance(x, x[:1].expand(3, -1, -1, -1)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_another_precision_are_judged_in_single_precision(dtype):
    x, y = (images(2, 3, 32, 32, seed=seed).to(dtype) for seed in (0, 1))
    assert torch.equal(lpips_distance()(x, y), lpips_distance()(x.float(), y.float()))
    assert torch.equal(features(x), features(x.float()))
    assert rmse(x, y).allclose(rmse(x.float(), y.float()).to(rmse(x, y)), rtol=1e-6)


def test_a_solver_that_blew_up_is_judged_as_far_off_not_refused():
    """The range is that of what it is compared with; its own images are as they are."""
    y = images(4, 1, 28, 28)
    for factor in (3.0, 1e10, 1e30):
        x = factor * images(4, 1, 28, 28, seed=1)
        lpips = lpips_distance()(x, y)
        assert torch.isfinite(lpips).all() and (lpips > 0.1).all() and torch.isfinite(rmse(x, y)).all()
        with pytest.raises(InputError, match="run from"):
            lpips_distance()(y, x)
    with pytest.raises(DivergedError):
        lpips_distance()(torch.full_like(y, torch.nan), y)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_overshoot_of_every_bundled_teacher_is_allowed(name):
    teacher = reference(name).teacher
    assert torch.equal(check_range(teacher), teacher)
    for beyond in (2 * teacher, teacher + 1):
        with pytest.raises(InputError, match="run from"):
            check_range(beyond)


# ---------------------------------------------------------------- Fréchet distances of too little


@pytest.mark.usefixtures("unchecked")
def test_a_frechet_distance_of_too_little_is_refused_in_a_sentence():
    f = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = moments(f)
    with pytest.raises(InputError, match="at least two samples"):
        moments(f[:1])
    with pytest.raises(InputError, match="Features hold NaN"):
        moments(f * torch.nan)
    with pytest.raises(InputError, match="5 and 4 dimensions"):
        frechet_distance(whole, moments(f[:, :4]))
    with pytest.raises(InputError, match="Moments of a"):
        frechet_distance(whole, (whole[0] * torch.nan, whole[1]))
    for count in (0, 1, 3):
        with pytest.raises(InputError, match=f"4 samples; got {count}"):
            extrapolated(lambda chosen: frechet_distance(moments(f[chosen]), whole), count)
    for count in (0, 1):
        with pytest.raises(InputError, match=f"2 samples; got {count}"):
            bootstrap_error(f[:count], whole)
    assert bootstrap_error(f[:2], whole) >= 0
    assert extrapolated(lambda chosen: frechet_distance(moments(f[chosen]), whole), 4) < float("inf")


# ---------------------------------------------------------------- data of another range

LOW, HIGH = -0.2, 8.5


def picture(data: torch.Tensor) -> torch.Tensor:
    """Data from LOW to HIGH → [−1, 1]."""
    return (data - (HIGH + LOW) / 2) / ((HIGH - LOW) / 2)


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Two images of data from LOW to HIGH, the posterior mean."""
    data = (HIGH - LOW) / 2 * images(2, 1, 16, 16).to(x) + (HIGH + LOW) / 2
    squares = (x[:, None] - data).square().flatten(2).sum(2)
    return torch.einsum("bk,kchw->bchw", torch.softmax(-squares / (2 * sigma**2 + 1), 1).to(x), data)


@pytest.fixture(scope="module")
def galaxies() -> Model:
    few = make_solver("unipc-3-bh2", 8, Model(denoise, (1, 16, 16), 80.0, 0.01).grid("karras"))
    return Model(denoise, (1, 16, 16), 80.0, 0.01, teacher_solver=few, picture=picture, side=64)


def test_lpips_and_features_are_of_pictures_and_the_error_is_of_the_data(galaxies):
    solver = make_solver("euler", 4, galaxies.grid("karras"))
    row, data = judged(galaxies, solver, 4)
    target = galaxies.images(run(galaxies.denoise, galaxies.starts("test", 4), galaxies.teacher()))
    assert target.max() > 4
    assert row["rmse"] == pytest.approx(float(rmse(data, target).mean()))
    lpips = lpips_distance()(picture(data), picture(target)).mean()
    assert row["lpips"] == pytest.approx(float(lpips), rel=1e-4)
    f, g = (moments(extractor()(picture(x).clamp(-1, 1)).double()) for x in (data, target))
    assert row["fd_teacher"] == pytest.approx(frechet_distance(f, g), rel=1e-4)
    assert torch.equal(
        target_of(galaxies, 4, 0).pictures, galaxies.pictures(target_of(galaxies, 4, 0).images)
    )
    ends = target + 1
    seen = (galaxies.embed(ends) - galaxies.embed(target)).square().sum(1)
    assert seen.allclose(lpips_distance(side=64)(picture(ends), picture(target)), rtol=1e-4)


def test_without_a_picture_such_data_are_neither_learned_nor_judged_by_lpips(galaxies, tmp_path):
    bare = replace(galaxies, picture=None)
    options = {"method": "s4s", "start": "dpmpp-2m", "grid": "karras", "pairs": 4, "progress": False}
    with pytest.raises(InputError, match="picture= .* embedding="):
        learn(bare, 3, **options)
    with pytest.raises(InputError, match="picture= .* embedding="):
        judged(bare, make_solver("euler", 4, bare.grid("karras")), 4)
    for whole in (galaxies, replace(bare, embedding=lambda data: data.flatten(1) / 100)):
        assert learn(whole, 3, **options, iterations=1).solver.nfe == 3

"""LPIPS, features and the Fréchet distance: published values, closed forms, invariances."""

import numpy as np
import pytest
import torch
from PIL import Image

from s4s_nb.distances import lpips_distance, rmse
from s4s_nb.files import bundled
from s4s_nb.judge import reference
from s4s_nb.metrics import extractor, extrapolated, features, frechet_distance, moments


def picture(name: str) -> torch.Tensor:
    pixels = np.asarray(Image.open(bundled(f"lpips_example/ex_{name}.png")).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize("name, published", [("p0", 0.722), ("p1", 0.138)])
def test_lpips_gives_the_values_that_its_authors_publish(name, published):
    assert lpips_distance()(picture("ref"), picture(name)).item() == pytest.approx(published, abs=1e-3)


def test_lpips_of_small_grey_images_is_zero_on_equals_and_has_gradients():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = x.flip(-1).requires_grad_()
    assert lpips_distance()(x, x).abs().max() == 0
    lpips_distance()(x, y).sum().backward()
    assert y.grad is not None and y.grad.abs().max() > 0


def test_lpips_is_a_sum_of_squares():
    x, y = picture("ref"), picture("p0")
    embed = lpips_distance().embed
    assert (embed(x) - embed(y)).square().sum().item() == pytest.approx(
        lpips_distance()(x, y).item(), rel=1e-4
    )


def test_rmse_is_per_image():
    x = torch.zeros(2, 1, 4, 4)
    y = torch.stack([torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), -2.0)])
    assert rmse(x, y).tolist() == [0.5, 2.0]


def test_frechet_distance_of_gaussians_in_closed_form():
    """Commuting covariances: ‖Δμ‖² + Σ (√a − √b)²."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    a, b = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(2))
    shift = torch.arange(6, dtype=torch.float64)
    p = torch.zeros(6, dtype=torch.float64), basis * a @ basis.T
    q = shift, basis * b @ basis.T
    exact = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(p, q) == pytest.approx(exact, rel=1e-10)
    assert frechet_distance(q, q) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_agrees_with_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(1)
    p, q = (
        moments(torch.randn(40, 8, generator=generator, dtype=torch.float64) @ torch.diag(scale))
        for scale in (torch.ones(8).double(), torch.linspace(0.5, 2, 8).double())
    )
    root = linalg.sqrtm((p[1] @ q[1]).numpy()).real
    other = (p[0] - q[0]).square().sum() + torch.trace(p[1] + q[1]) - 2 * np.trace(root)
    assert frechet_distance(p, q) == pytest.approx(float(other), rel=1e-8)


def test_feature_network_sees_noise_and_blur_but_not_8_bit_rounding():
    x = picture("ref")
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    f, g, h = features(torch.cat([x, x + 1e-4, noisy]))
    assert f.shape == (256,)
    assert (f - g).norm() < 1e-3 * (f - h).norm()


def test_feature_weights_are_frozen():
    assert not any(p.requires_grad for p in extractor().parameters())


def test_real_floor_shrinks_with_the_sample_count():
    """The bias of a Fréchet distance falls with n: the reason why counts must agree."""
    ref = reference("fashion")
    assert ref.floor_distance(125) > ref.floor_distance(250) > ref.floor_distance(500) > 0


def test_extrapolation_removes_most_of_the_bias_of_few_samples():
    """Two Gaussians with means a unit apart: F = 1, and some 0.5 more of 60 samples in 8 dimensions."""
    generator = torch.Generator().manual_seed(0)
    plain, limit = [], []
    for _ in range(30):
        f, g = torch.randn(2, 60, 8, generator=generator, dtype=torch.float64).unbind()
        f[:, 0] += 1

        def distance(chosen, f=f, g=g):
            return frechet_distance(moments(f[chosen]), moments(g[chosen]))

        plain.append(distance(torch.arange(60)))
        limit.append(extrapolated(distance, 60))
    bias, left = (sum(values) / 30 - 1 for values in (plain, limit))
    assert bias > 0.3 and abs(left) < bias / 3

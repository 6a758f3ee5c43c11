"""Fréchet distance in EfficientNet-Lite0 features: a judge that the LPIPS objective never saw.

The number is not FID, which means Inception features: compare it only with itself, at the same
sample count, beside the real-vs-real floor.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.distances import Images, as_colour, as_judged, check_range
from s4s_nb.errors import InputError
from s4s_nb.files import data_file, read_safetensors
from s4s_nb.runtime import batch_size, map_batches

FEATURE_SIDE = 96
Features = Float[Tensor, "n d"]
Moments = tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]


class Extractor(torch.nn.Module):
    """256 features an image: EfficientNet-Lite0's 1280 pooled features under a fixed PCA.

    Images in [−1, 1] are rounded to 8 bits as if saved, enlarged until the shorter side has 96 px
    (bilinear) and given as
    (x − 127)/128 with x in 0 … 255. Network and PCA come from ``data/``; nothing is downloaded.
    """

    def __init__(self):
        import timm  # seconds, that nobody else has to wait for

        super().__init__()
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        weights, _ = read_safetensors(data_file("efficientnet_lite0.safetensors"))
        counters = {k: v for k, v in self.net.state_dict().items() if k.endswith("batches_tracked")}
        self.net.load_state_dict({k: v.float() for k, v in weights.items()} | counters)
        self.requires_grad_(False).eval()

    def pooled(self, x: Images) -> Float[Tensor, "b 1280"]:
        """The network's own features."""
        pixels = ((as_judged(x).clamp(-1, 1) + 1) * 127.5).round()
        return self.net((as_colour(pixels, FEATURE_SIDE) - 127) / 128)

    @torch.inference_mode()
    def forward(self, x: Images) -> Float[Tensor, "b 256"]:
        pca = feature_pca(str(x.device))
        return (self.pooled(x) - pca["mean"]) @ pca["components"].T


@lru_cache
def feature_pca(device: str) -> dict[str, Tensor]:
    """``mean`` (1280,) and ``components`` (256, 1280): part of the metric's definition."""
    tensors, _ = read_safetensors(data_file("feature_pca.safetensors"))
    return {name: t.float().to(device) for name, t in tensors.items()}


@lru_cache
def extractor(device: str = "cpu") -> Extractor:
    """The one feature network of this process on a device."""
    return Extractor().to(device)


def features(x: Images) -> Float[Tensor, "b 256"]:
    """Features of many images, as float64 on the CPU.

    Those of a solver that may have blown up are clamped to [−1, 1] first, as an image file would be.

    Raises:
        InputError: what is no image, or not in [−1, 1] (:func:`s4s_nb.distances.check_range`).
    """
    check_range(as_judged(x))
    parts = map_batches(extractor(str(x.device)), x.split(batch_size(x.device)), x.device)
    return torch.cat(parts).double().cpu()


def extrapolated(distance: Callable[[Tensor], float], count: int, draws: int = 4) -> float:
    """What a Fréchet distance of ``count`` samples tends to with more and more of them.

    Of n samples it is too large by about c/n (Chong and Forsyth 2020, section 3), so that two counts
    give the limit:  (n F_n − h F_h)/(n − h)  with h = n/2 and F_h the mean over disjoint halves, drawn
    ``draws`` times.

    Args:
        distance: that of the samples with the given indices.

    Raises:
        InputError: fewer than four samples, of which a half has no covariance.
    """
    if count < 4:
        raise InputError(f"The limit of a Fréchet distance needs at least 4 samples; got {count}.")
    half, generator = count // 2, torch.Generator().manual_seed(0)
    orders = [torch.randperm(count, generator=generator) for _ in range(draws)]
    halves = [distance(part) for order in orders for part in (order[:half], order[-half:])]
    whole = distance(torch.arange(count))
    return (count * whole - half * sum(halves) / len(halves)) / (count - half)


def moments(f: Features) -> Moments:
    """Mean and covariance.

    Raises:
        InputError: fewer than two samples, or features that are no numbers.
    """
    if f.ndim != 2 or len(f) < 2:
        raise InputError(f"Moments need the features (n, d) of at least two samples; got {tuple(f.shape)}.")
    if not torch.isfinite(f).all():
        raise InputError("Features hold NaN or infinity; check the images that they are of.")
    return f.mean(0), torch.cov(f.T)


def frechet_distance(p: Moments, q: Moments) -> float:
    """‖μ_p − μ_q‖² + tr(Σ_p + Σ_q − 2 (Σ_p Σ_q)^½) (Dowson and Landau 1982).

    tr (Σ_p Σ_q)^½ is the sum of the roots of the eigenvalues of Σ_p^½ Σ_q Σ_p^½, which is
    symmetric: no root of a non-symmetric matrix, no imaginary parts to drop.

    Raises:
        InputError: moments of unequal dimensions, or that are no numbers.
    """
    (mu_p, cov_p), (mu_q, cov_q) = p, q
    if cov_p.shape != cov_q.shape:
        raise InputError(
            f"A Fréchet distance is of features of one kind; got {len(mu_p)} and {len(mu_q)} dimensions."
        )
    if not all(torch.isfinite(t).all() for t in (*p, *q)):
        raise InputError("Moments of a Fréchet distance hold NaN or infinity; check the features.")
    values, vectors = torch.linalg.eigh(cov_p)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_q @ root).clamp(min=0).sqrt().sum()
    return float((mu_p - mu_q).square().sum() + cov_p.trace() + cov_q.trace() - 2 * cross)


def bootstrap_error(f: Features, target: Moments, resamples: int = 20, seed: int = 0) -> float:
    """Standard error of the Fréchet distance over resamples of the images with replacement.

    Only the spread is used: resampled sets hold doubles, which shifts the distance itself upwards.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(f)
    if n < 2:
        raise InputError(f"An error by resampling needs at least 2 samples; got {n}.")
    draws = [torch.randint(n, (n,), generator=generator) for _ in range(resamples)]
    values = [frechet_distance(moments(f[i]), target) for i in draws]
    return float(torch.tensor(values).std())

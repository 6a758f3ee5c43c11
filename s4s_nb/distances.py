"""Distances between images in [−1, 1], one number a pair: RMSE and LPIPS, both offline.

What LPIPS and the Fréchet distance take is checked here, for both. A solver's images may overshoot the
range, wildly where it blew up: they are judged all the same, and are far off. What they are compared with,
the teacher's or a user's images, must lie in it, since a judge of 0 … 255 tells nothing of [−1, 1].
"""

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from s4s_nb.errors import DivergedError, InputError
from s4s_nb.files import data_file, read_safetensors

Images = Float[Tensor, "b c h w"]
Embedding = Callable[[Tensor], Tensor]
"""Images (b, …) → vectors (b, p) whose squared distance is the distance to be learned by."""

LPIPS_SIDE = 64  # AlexNet's strides leave nothing of images below 31 px; smaller ones are enlarged


SHORTEST = 4
"""Pixels a side of what is judged as an image."""
FURTHEST, SLIGHT, SHARE = 4.0, 1.2, 0.05
"""Images in [−1, 1] have no number beyond ±4, and at most a twentieth of them beyond ±1.2: those of the
bundled teachers, whose autoencoder overshoots, reach 2.7, with a 600th beyond ±1.2."""
FAR = 1e6
"""Where images of a solver that blew up are cut off, which LPIPS does not see: float32 holds its sums."""


def are_images(x: Tensor) -> bool:
    """Whether both judges can take x by its shape: one or three channels, and no side too small."""
    return x.ndim == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) >= SHORTEST


def as_judged(x: Images) -> Images:
    """Images in float32, in which both judges work.

    Raises:
        InputError: another shape than (b, 1 or 3, h, w), a side of fewer than four pixels, or integers.
    """
    if not are_images(x):
        raise InputError(
            f"Judged are images (b, 1 or 3, h, w) of at least {SHORTEST} pixels a side;"
            f" got {tuple(x.shape)}."
        )
    if not x.is_floating_point():
        raise InputError(f"Images must be numbers in [-1, 1], not {x.dtype}; take x / 127.5 - 1 of 8 bits.")
    return x.float()


def check_numbers(x: Images) -> Images:
    """Images, of whatever range, if they are numbers; else :class:`DivergedError`."""
    if not torch.isfinite(x).all():
        raise DivergedError("Images to be judged hold NaN or infinity: what made them has blown up.")
    return x


def check_range(x: Images) -> Images:
    """Images to compare with, if they lie in [−1, 1] but for an overshoot.

    Raises:
        InputError: they do not (:data:`FURTHEST`), or hold NaN. That 0 … 1 was meant cannot be told.
    """
    size = check_numbers(x).abs()
    if (size > FURTHEST).any() or (size > SLIGHT).sum() > SHARE * size.numel():
        raise InputError(
            "LPIPS and the Fréchet distance are of images in [-1, 1], and these run from"
            f" {float(x.min()):.3g} to {float(x.max()):.3g}: scale them, give the Model a picture= that"
            " does, or an embedding= of your own to learn by."
        )
    return x


def check_alike(x: Tensor, y: Tensor) -> None:
    """:class:`InputError` unless two sets can be compared one by one, or all with a single one."""
    if x.shape[1:] != y.shape[1:] or (len(x) != len(y) and 1 not in (len(x), len(y))):
        raise InputError(
            f"Distances are of pairs of one shape; got {tuple(x.shape)} beside {tuple(y.shape)}."
        )


def rmse(x: Float[Tensor, "b ..."], y: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """√ mean_pixels (x − y)², in float32 at least.

    Raises:
        InputError: unequal shapes.
    """
    check_alike(x, y)
    apart = (x if x.dtype == torch.float64 else x.float()) - y
    size = apart.detach().flatten(1).abs().amax(1).clamp(min=1)  # else the squares of 1e20 are infinite
    return size * (apart.flatten(1) / size[:, None]).square().mean(1).sqrt()


def as_colour(x: Images, side: int) -> Float[Tensor, "b 3 height width"]:
    """Three channels, and at least ``side`` pixels a side (bilinear), in the same proportions."""
    x = x.expand(-1, 3, -1, -1)
    short = min(x.shape[-2:])
    if short < side:
        size = [round(length * side / short) for length in x.shape[-2:]]
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x


class Lpips(torch.nn.Module):
    """LPIPS 0.1 on AlexNet features (Zhang et al. 2018, eq. 1), by the authors' package.

    Σ_l mean_hw ‖w_l ⊙ (f̂_l(x) − f̂_l(y))‖² over five layers of unit-normalised features. The
    backbone comes from ``data/``; nothing is downloaded.

    Args:
        side: smaller images are enlarged, until their shorter side has so many pixels.
    """

    def __init__(self, side: int = LPIPS_SIDE):
        import lpips  # with torchvision, seconds that nobody else has to wait for

        super().__init__()
        self.side = side
        with warnings.catch_warnings():
            # lpips 0.1.4 still calls torchvision with its old argument names.
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        weights, _ = read_safetensors(data_file("alexnet_features.safetensors"))
        slices = [layer for part in self.net.net.children() for layer in part.named_children()]
        for name, layer in slices:  # the slices keep torchvision's numbering of the layers
            if isinstance(layer, torch.nn.Conv2d):
                keys = ("weight", "bias")
                layer.load_state_dict({key: weights[f"features.{name}.{key}"] for key in keys})
        self.requires_grad_(False).eval()

    @property
    def heads(self) -> list[Tensor]:
        """w_l of every layer, (1, channels, 1, 1)."""
        return [p for name, p in self.net.named_parameters() if name.startswith("lin")]

    def forward(self, x: Images, y: Images) -> Float[Tensor, " b"]:
        """LPIPS of images x, which may be out of range, to the images y that they should be.

        Raises:
            InputError: what is no image (:func:`as_judged`), unequal shapes, y out of range
                (:func:`check_range`), or NaN.
        """
        x, y = as_judged(x), as_judged(y)
        check_alike(x, y)
        x, y = check_numbers(x).clamp(-FAR, FAR), check_range(y)
        return self.net(as_colour(x, self.side), as_colour(y, self.side)).flatten()

    def embed(self, x: Images) -> Float[Tensor, "b p"]:
        """e(x) with LPIPS(x, y) = ‖e(x) − e(y)‖²: the normalised features, scaled by √(w_l/hw).

        The range is not checked, by which derivatives by torch's vmap could not pass.
        """
        from lpips import normalize_tensor

        features = self.net.net(self.net.scaling_layer(as_colour(as_judged(x), self.side)))
        scaled = [
            normalize_tensor(f) * (weight.clamp(min=0) / f[0, 0].numel()).sqrt()
            for f, weight in zip(features, self.heads, strict=True)
        ]
        return torch.cat([f.flatten(1) for f in scaled], dim=1)


@lru_cache
@torch.inference_mode(False)  # a first call from within would cache weights that no gradient may pass
def lpips_distance(device: str = "cpu", side: int = LPIPS_SIDE) -> Lpips:
    """The one LPIPS network of this process on a device, at a side."""
    return Lpips(side).to(device)

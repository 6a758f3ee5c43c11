"""Distances between images in [−1, 1], one number a pair: RMSE and LPIPS, both offline."""

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from s4s_nb.files import data_file, read_safetensors

Images = Float[Tensor, "b c h w"]
Embedding = Callable[[Tensor], Tensor]
"""Images (b, …) → vectors (b, p) whose squared distance is the distance to be learned by."""

LPIPS_SIDE = 64  # AlexNet's strides leave nothing of images below 31 px; smaller ones are enlarged


def rmse(x: Float[Tensor, "b ..."], y: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """√ mean_pixels (x − y)²."""
    return (x - y).square().flatten(1).mean(1).sqrt()


def as_colour(x: Images, side: int) -> Float[Tensor, "b 3 height width"]:
    """Three channels, and at least ``side`` pixels a side (bilinear)."""
    x = x.expand(-1, 3, -1, -1)
    if min(x.shape[-2:]) < side:
        x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    return x


class Lpips(torch.nn.Module):
    """LPIPS 0.1 on AlexNet features (Zhang et al. 2018, eq. 1), by the authors' package.

    Σ_l mean_hw ‖w_l ⊙ (f̂_l(x) − f̂_l(y))‖² over five layers of unit-normalised features. The
    backbone comes from ``data/``; nothing is downloaded.

    Args:
        side: smaller images are enlarged to so many pixels a side.
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
        x, y = (as_colour(z, self.side) for z in (x, y))
        return self.net(x, y).flatten()

    def embed(self, x: Images) -> Float[Tensor, "b p"]:
        """e(x) with LPIPS(x, y) = ‖e(x) − e(y)‖²: the normalised features, scaled by √(w_l/hw)."""
        from lpips import normalize_tensor

        features = self.net.net(self.net.scaling_layer(as_colour(x, self.side)))
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

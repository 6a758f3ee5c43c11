"""A small class-conditional U-Net with EDM preconditioning (Karras et al. 2022, section 5)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def fourier_features(x: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Sine and cosine of x at geometrically spaced frequencies from 1/4 to 16."""
    frequencies = torch.logspace(-2, 4, width // 2, base=2.0, device=x.device, dtype=x.dtype)
    angles = x[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """Two 3×3 convolutions around a scale and shift from the embedding, plus optional attention."""

    def __init__(self, c_in: int, c_out: int, width: int, attention: bool = False):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.embed = nn.Linear(width, 2 * c_out)
        self.norm2 = nn.GroupNorm(8, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b width"]):
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.embed(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.attention(self.skip(x) + h)


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, 32 channels a head, as a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = channels // 32
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b c h w"]):
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (b, heads, h·w, 32)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(-1, -2).reshape(b, c, h, w))


class UNet(nn.Module):
    """F(x, c_noise, label): one block a level down, two in the middle, skips on the way up.

    Args:
        image_channels: 1 for grey, 3 for colour.
        channels: feature maps at each resolution, halved in size from one to the next.
        blocks: residual blocks a level, each way.
        classes: number of labels; label ``classes`` stands for "no label".
    """

    def __init__(
        self,
        image_channels: int = 1,
        channels: tuple[int, ...] = (24, 64, 128),
        blocks: int = 1,
        classes: int = 10,
        width: int = 128,
    ):
        super().__init__()
        self.classes = classes
        self.label = nn.Embedding(classes + 1, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.width = width
        self.stem = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, skips = channels[0], []
        last = len(channels) - 1
        for level, c_out in enumerate(channels):
            for _ in range(blocks):
                self.down.append(Block(c, c_out, width, attention=level == last))
                c = c_out
                skips.append(c)
            if level < last:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
        self.middle = Block(c, c, width, attention=True)
        for level, c_out in reversed(list(enumerate(channels))):
            for _ in range(blocks):
                self.up.append(Block(c + skips.pop(), c_out, width, attention=level == last))
                c = c_out
            if level > 0:
                self.up.append(nn.Upsample(scale_factor=2, mode="nearest"))
        self.head = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), nn.Conv2d(c, image_channels, 3, padding=1))
        nn.init.zeros_(self.head[-1].weight)

    def forward(self, x: Float[Tensor, "b c h w"], c_noise: Float[Tensor, " b"], label: Int[Tensor, " b"]):
        emb = F.silu(self.mlp(fourier_features(c_noise, self.width)) + self.label(label))
        x, skips = self.stem(x), []
        for layer in self.down:
            if isinstance(layer, Block):
                x = layer(x, emb)
                skips.append(x)
            else:
                x = layer(x)
        x = self.middle(x, emb)
        for layer in self.up:
            if isinstance(layer, Block):
                x = layer(torch.cat([x, skips.pop()], dim=1), emb)
            else:
                x = layer(x)
        return self.head(x)


class EDM(nn.Module):
    """Denoiser D(x, σ) = c_skip x + c_out F(c_in x, ln σ / 4, label) of Karras et al. 2022, eq. 7.

    With σ_d the root mean square of the data: c_skip = σ_d² / (σ² + σ_d²),
    c_out = σ σ_d / √(σ² + σ_d²) and c_in = 1 / √(σ² + σ_d²) (their table 1).
    """

    def __init__(self, net: nn.Module, sigma_data: float):
        super().__init__()
        self.net, self.sigma_data, self.classes = net, sigma_data, net.classes

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        label: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        total = (sigma**2 + self.sigma_data**2).sqrt()[:, None, None, None]
        f = self.net(x / total, sigma.log() / 4, label).to(x.dtype)
        s = sigma[:, None, None, None]
        return (self.sigma_data / total) ** 2 * x + (s * self.sigma_data / total) * f


class NativeTime(nn.Module):
    """A network asked in its process's own time t: F(x_t, time_scale · t, label), t scaled to 0 … 4."""

    def __init__(self, net: nn.Module, time_scale: float):
        super().__init__()
        self.net, self.time_scale, self.classes = net, time_scale, net.classes

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int[Tensor, " b"]):
        return self.net(x, self.time_scale * t, label)

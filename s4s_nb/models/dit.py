"""A small diffusion transformer (Peebles and Xie 2023, "DiT", the adaLN-Zero variant)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from s4s_nb.models.unet import fourier_features


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a norm whose scale and shift, and a gate, come from the embedding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "b n width"], emb: Float[Tensor, "b width"]):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attend(modulated(x, shift1, scale1))
        return x + gate2 * self.mlp(modulated(x, shift2, scale2))

    def attend(self, x: Float[Tensor, "b n width"]):
        b, n, width = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, n, width / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, width))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then the given scale and shift."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class DiT(nn.Module):
    """F(x, c_noise, label) on patches: every patch a token, with a learned position.

    Args:
        image_channels: channels of the image or latent.
        side: its height and width, a multiple of ``patch``.
        patch: side of a patch.
        width: of the tokens, a multiple of 32 (32 channels a head).
        classes: number of labels; label ``classes`` stands for "no label".
    """

    def __init__(
        self,
        image_channels: int = 4,
        side: int = 16,
        patch: int = 2,
        width: int = 128,
        depth: int = 6,
        classes: int = 3,
    ):
        super().__init__()
        self.classes, self.patch, self.side, self.width = classes, patch, side, width
        self.label = nn.Embedding(classes + 1, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.stem = nn.Linear(image_channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, width // 32) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, image_channels * patch**2)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b c h w"], c_noise: Float[Tensor, " b"], label: Int[Tensor, " b"]):
        emb = F.silu(self.mlp(fourier_features(c_noise, self.width)) + self.label(label))
        tokens = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)
        h = self.stem(tokens) + self.position
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=-1)
        out = self.head(modulated(h, shift, scale)).transpose(1, 2)
        grid = self.side // self.patch
        return F.pixel_shuffle(out.unflatten(2, (grid, grid)), self.patch)

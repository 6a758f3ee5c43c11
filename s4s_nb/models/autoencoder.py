"""A small KL autoencoder (Rombach et al. 2022, section 3.1), so that a diffusion can run in its latents."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s4s_nb.distances import lpips_distance

ColourImages = Float[Tensor, "b 3 h w"]
Latents = Float[Tensor, "b c h4 w4"]
"""A quarter of the side of the images: h4 = h/4."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions on normalised features, as a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Autoencoder(nn.Module):
    """Images in [−1, 1] ↔ latents of a quarter of the side, normalised to mean 0 and variance 1.

    The first and the last 2× are a pixel shuffle, without convolutions at full size: what decodes is
    cheap, about the cost of one evaluation of the diffusion network.

    Args:
        latent_channels: of the latents.
        narrow, wide: feature maps at half and at a quarter of the image's side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, latent_channels: int = 4, narrow: int = 32, wide: int = 64):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, narrow, 3, padding=1),
            ResidualBlock(narrow),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
            ResidualBlock(wide),
            nn.GroupNorm(8, wide),
            nn.SiLU(),
            nn.Conv2d(wide, 2 * latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, wide, 3, padding=1),
            ResidualBlock(wide),
            ResidualBlock(wide),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(wide, narrow, 3, padding=1),
            ResidualBlock(narrow),
            nn.GroupNorm(8, narrow),
            nn.SiLU(),
            nn.Conv2d(narrow, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(latent_channels, 1, 1))

    def posterior(self, x: ColourImages) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), before normalisation."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def encode(self, x: ColourImages) -> Latents:
        """Normalised latents: the posterior's mean."""
        return (self.posterior(x)[0] - self.mean) / self.std

    def decode(self, z: Latents) -> ColourImages:
        """Images from normalised latents; differentiable, and not clamped to [−1, 1]."""
        return self.decoder(z * self.std + self.mean)

    @torch.no_grad()
    def normalise(self, images: ColourImages, batch: int = 100) -> None:
        """Set mean and std of each channel so that the latents of ``images`` have mean 0, variance 1."""
        z = torch.cat([self.posterior(part)[0] for part in images.split(batch)])
        self.mean.copy_(z.mean((0, 2, 3))[:, None, None])
        self.std.copy_(z.std((0, 2, 3))[:, None, None])


def autoencoder_loss(
    model: Autoencoder,
    images: ColourImages,
    labels: Tensor,
    generator: torch.Generator,
    kl_weight: float = 1e-3,
) -> Float[Tensor, ""]:
    """Mean |x̂ − x| + LPIPS(x̂, x) + w · KL(q(z|x) ‖ N(0, 1)), the KL per latent number.

    Rombach et al. 2022, eq. 25, without its adversarial term; labels play no part.
    """
    mean, log_variance = model.posterior(images)
    noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean.device)
    decoded = model.decoder(mean + (0.5 * log_variance).exp() * noise)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    perceptual = lpips_distance(str(images.device))(decoded, images).mean()
    return (decoded - images).abs().mean() + perceptual + kl_weight * kl

"""Training losses of the bundled diffusion networks: EDM, and noise or velocity in native time."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from s4s_nb.distances import Images
from s4s_nb.models.unet import EDM
from s4s_nb.schedules import Schedule

Labels = Int[Tensor, " b"]


def drop_labels(labels: Labels, classes: int, dropout: float, generator: torch.Generator) -> Labels:
    """Labels, of which a random share becomes ``classes``, "no label" (Ho and Salimans 2022)."""
    drop = torch.rand(len(labels), generator=generator, device=generator.device) < dropout
    return torch.where(drop.to(labels.device), classes, labels)


def edm_loss(
    model: EDM,
    images: Images,
    labels: Labels,
    generator: torch.Generator,
    label_dropout: float = 0.1,
    p_mean: float = -0.8,
    p_std: float = 1.4,
) -> Float[Tensor, ""]:
    """E λ(σ) ‖D(x₀ + σε, σ) − x₀‖² with ln σ ~ N(p_mean, p_std²), λ = (σ² + σ_d²)/(σ σ_d)².

    Karras et al. 2022, eq. 2 and table 1; mean over pixels. A label is dropped with probability
    ``label_dropout``, so that one network serves conditional and unconditional sampling.
    """
    sigma = (p_mean + p_std * normal(len(images), generator)).exp().to(images.device)
    noise = normal(images.shape, generator).to(images.device)
    labels = drop_labels(labels, model.classes, label_dropout, generator)
    denoised = model(images + sigma[:, None, None, None] * noise, sigma, labels)
    weight = (sigma**2 + model.sigma_data**2) / (sigma * model.sigma_data) ** 2
    return (weight * (denoised - images).square().mean(dim=(1, 2, 3))).mean()


def normal(
    shape: int | torch.Size, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Unit noise, drawn where the generator lives: the device of the training, without a way to it."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)


Times = Callable[[int, torch.Generator], Tensor]


def timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Uniform over the integers 0 … 999 of a DDPM."""
    return torch.randint(1000, (count,), generator=generator, device=generator.device).double()


def uniform_times(count: int, generator: torch.Generator) -> Tensor:
    """Uniform over [0, 0.999]: at t = 1 the level would be infinite."""
    unit = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    return 0.999 * unit


def logit_normal_times(count: int, generator: torch.Generator) -> Tensor:
    """1/(1 + e^−n) with n ~ N(0, 1): more of the middle of a flow (Esser et al. 2024, eq. 19)."""
    return normal(count, generator, torch.float64).sigmoid()


def native_loss(
    model: nn.Module,
    images: Images,
    labels: Labels,
    generator: torch.Generator,
    schedule: Schedule,
    prediction: str,
    times: Times,
    label_dropout: float,
) -> Float[Tensor, ""]:
    """E ‖net(x_t, t) − target‖² with x_t = α (x_0 + σ̃ ε); the target is the noise or the velocity.

    Ho et al. 2020, eq. 14 (noise); Salimans and Ho 2022 and Liu et al. 2023 (velocity). Mean over
    pixels, in float32; t and its level are float64.
    """
    t = times(len(images), generator)
    sigma = schedule.level(t)[:, None, None, None].to(images)
    noise = normal(images.shape, generator).to(images)
    labels = drop_labels(labels, model.classes, label_dropout, generator)
    target = noise if prediction == "noise" else schedule.velocity(images, noise, sigma)
    native = schedule.alpha(sigma) * (images + sigma * noise)
    return (model(native, t.to(images), labels).float() - target).square().mean()

"""The bundled networks: architecture, training images, loss and budget of each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from s4s_nb.autoencoder import Autoencoder, autoencoder_loss
from s4s_nb.classifier import Classifier, classifier_loss
from s4s_nb.datasets import Images, faces, fashion_mnist
from s4s_nb.errors import choose
from s4s_nb.losses import Times, edm_loss, logit_normal_times, native_loss, timesteps, uniform_times
from s4s_nb.schedules import VE, Flow, Schedule, VPCosine, VPDiscrete
from s4s_nb.training import Loss
from s4s_nb.transformer import DiT
from s4s_nb.unet import EDM, NativeTime, UNet

DDPM = VPDiscrete.from_betas("linear")
COSINE = VPCosine()
FLOW = Flow()

FASHION_LICENCE = "MIT (weights); Fashion-MNIST by Zalando SE: MIT"
FACES_LICENCE = (
    "MIT (weights). Drawn with DiceBear 9: Pixel Art by DiceBear, CC0 1.0; Adventurer by Lisa Wischofsky,"
    " CC BY 4.0; Personas by Draftbit, CC BY 4.0"
)


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained.

    images: reads the image set, from a local file or from where it is fetched.
    schedule, prediction: of a diffusion network: its process and what it predicts.
    autoencoder: the recipe in whose latents the network works, instead of pixels.
    classifier: the recipe that tells the classes of its samples.
    """

    images: Callable[[Path | None], Images]
    build: Callable[[], nn.Module]
    loss: Loss
    total_images: int
    licence: str
    schedule: Schedule | None = None
    prediction: str | None = None
    autoencoder: str | None = None
    classifier: str | None = None


def native(schedule: Schedule, prediction: str, times: Times, label_dropout: float, **others) -> Recipe:
    """The recipe of a network that lives in its schedule's own time."""
    options = {"schedule": schedule, "prediction": prediction}
    loss = partial(native_loss, **options, times=times, label_dropout=label_dropout)
    return Recipe(loss=loss, **options, **others)


FASHION = {"images": fashion_mnist, "licence": FASHION_LICENCE}
FACES = {"images": faces, "licence": FACES_LICENCE}
LATENT = {**FACES, "autoencoder": "faces-autoencoder", "classifier": "faces-classifier"}

RECIPES = {
    "fashion": Recipe(
        **FASHION,
        build=lambda: EDM(UNet(image_channels=1), sigma_data=0.83),
        loss=edm_loss,
        total_images=400_000,
        schedule=VE(),
        prediction="data",
        classifier="fashion-classifier",
    ),
    "fashion-classifier": Recipe(
        **FASHION,
        build=lambda: Classifier(image_channels=1, classes=10),
        loss=classifier_loss,
        total_images=300_000,
    ),
    "faces": native(
        DDPM,
        "noise",
        timesteps,
        label_dropout=1.0,
        images=partial(faces, side=32),
        licence=FACES_LICENCE,
        build=lambda: NativeTime(UNet(image_channels=3, channels=(32, 64, 128), classes=3), 4 / 1000),
        total_images=130_000,
    ),
    "faces-autoencoder": Recipe(
        **FACES,
        build=Autoencoder,
        loss=autoencoder_loss,
        total_images=100_000,
    ),
    "faces-latent": native(
        COSINE,
        "velocity",
        uniform_times,
        label_dropout=0.3,
        **LATENT,
        build=lambda: NativeTime(UNet(image_channels=4, channels=(48, 96), classes=3), 4.0),
        total_images=240_000,
    ),
    "faces-flow": native(
        FLOW,
        "velocity",
        logit_normal_times,
        label_dropout=0.1,
        **LATENT,
        build=lambda: NativeTime(DiT(), 4.0),
        total_images=200_000,
    ),
    "faces-classifier": Recipe(
        **FACES,
        build=lambda: Classifier(image_channels=3, classes=3),
        loss=classifier_loss,
        total_images=10_000,
    ),
}


def new_network(name: str) -> nn.Module:
    """The untrained network of a recipe, initialised from seed 0."""
    recipe = choose(RECIPES, name, "network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return recipe.build()

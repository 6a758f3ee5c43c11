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
from s4s_nb.losses import edm_loss, logit_normal_times, native_loss, timesteps, uniform_times
from s4s_nb.schedules import Flow, VPCosine, VPDiscrete
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
    latent: the network sees the latents of ``faces-autoencoder`` instead of pixels.
    """

    images: Callable[[Path | None], Images]
    build: Callable[[], nn.Module]
    loss: Loss
    total_images: int
    licence: str
    latent: bool = False


RECIPES = {
    "fashion": Recipe(
        images=fashion_mnist,
        build=lambda: EDM(UNet(image_channels=1), sigma_data=0.83),
        loss=edm_loss,
        total_images=400_000,
        licence=FASHION_LICENCE,
    ),
    "fashion-classifier": Recipe(
        images=fashion_mnist,
        build=lambda: Classifier(image_channels=1, classes=10),
        loss=classifier_loss,
        total_images=300_000,
        licence=FASHION_LICENCE,
    ),
    "faces": Recipe(
        images=partial(faces, side=32),
        build=lambda: NativeTime(UNet(image_channels=3, channels=(32, 64, 128), classes=3), 4 / 1000),
        loss=partial(native_loss, schedule=DDPM, prediction="noise", times=timesteps, label_dropout=1.0),
        total_images=130_000,
        licence=FACES_LICENCE,
    ),
    "faces-autoencoder": Recipe(
        images=faces,
        build=Autoencoder,
        loss=autoencoder_loss,
        total_images=100_000,
        licence=FACES_LICENCE,
    ),
    "faces-latent": Recipe(
        images=faces,
        build=lambda: NativeTime(UNet(image_channels=4, channels=(48, 96), classes=3), 4.0),
        loss=partial(
            native_loss, schedule=COSINE, prediction="velocity", times=uniform_times, label_dropout=0.3
        ),
        total_images=240_000,
        licence=FACES_LICENCE,
        latent=True,
    ),
    "faces-flow": Recipe(
        images=faces,
        build=lambda: NativeTime(DiT(), 4.0),
        loss=partial(
            native_loss,
            schedule=FLOW,
            prediction="velocity",
            times=logit_normal_times,
            label_dropout=0.1,
        ),
        total_images=200_000,
        licence=FACES_LICENCE,
        latent=True,
    ),
    "faces-classifier": Recipe(
        images=faces,
        build=lambda: Classifier(image_channels=3, classes=3),
        loss=classifier_loss,
        total_images=10_000,
        licence=FACES_LICENCE,
    ),
}


def new_network(name: str) -> nn.Module:
    """The untrained network of a recipe, initialised from seed 0."""
    recipe = choose(RECIPES, name, "network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return recipe.build()

"""How the bundled networks are trained: images, loss and budget of each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from s4s_nb.models.autoencoder import autoencoder_loss
from s4s_nb.models.bundled import NETWORKS
from s4s_nb.models.classifier import classifier_loss
from s4s_nb.training.datasets import ImageSet, faces, fashion_mnist
from s4s_nb.training.losses import (
    Times,
    edm_loss,
    logit_normal_times,
    native_loss,
    timesteps,
    uniform_times,
)
from s4s_nb.training.train import Loss


@dataclass(frozen=True)
class Recipe:
    """images: reads the image set, from a local file or from where it is fetched. loss: what is minimised.
    total_images: how many images are seen."""

    images: Callable[[Path | None], ImageSet]
    loss: Loss
    total_images: int


def native(name: str, times: Times, label_dropout: float) -> Loss:
    """The loss of a network that lives in its schedule's own time."""
    network = NETWORKS[name]
    return partial(
        native_loss,
        schedule=network.schedule,
        prediction=network.prediction,
        times=times,
        label_dropout=label_dropout,
    )


RECIPES = {
    "fashion": Recipe(fashion_mnist, edm_loss, 400_000),
    "fashion-classifier": Recipe(fashion_mnist, classifier_loss, 300_000),
    "faces": Recipe(partial(faces, side=32), native("faces", timesteps, label_dropout=1.0), 130_000),
    "faces-autoencoder": Recipe(faces, autoencoder_loss, 100_000),
    "faces-latent": Recipe(faces, native("faces-latent", uniform_times, label_dropout=0.3), 240_000),
    "faces-flow": Recipe(faces, native("faces-flow", logit_normal_times, label_dropout=0.1), 200_000),
    "faces-classifier": Recipe(faces, classifier_loss, 10_000),
}
"""By network."""

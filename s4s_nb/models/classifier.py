"""A small convolutional classifier: it tells whether a guided sample shows the class asked for."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Classifier(nn.Module):
    """Three pairs of 3×3 convolutions, the first of each halving the side, then the mean over pixels."""

    def __init__(self, image_channels: int, classes: int, width: int = 32):
        super().__init__()
        sizes = [image_channels, width, 2 * width, 4 * width]
        layers = []
        for c_in, c_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(c_out, c_out, 3, padding=1), nn.GroupNorm(8, c_out), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], classes)

    def seen(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features before the last layer."""
        return self.features(x).mean((2, 3))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        return self.head(self.seen(x))


def classifier_loss(
    model: Classifier,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Cross entropy; there is nothing random in it."""
    return F.cross_entropy(model(images), labels)


@torch.inference_mode()
def accuracy(model: Classifier, images: Tensor, labels: Tensor, batch: int = 250) -> float:
    """Share of images that the classifier takes for their label."""
    parts = zip(images.split(batch), labels.split(batch), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return right / len(labels)

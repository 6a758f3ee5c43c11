"""Image sets that the bundled models are trained on: a local file, or fetched by torchvision."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s4s_nb.errors import InputError

CACHE = Path.home() / ".cache" / "s4s_nb"

# sha256 of the pixels of the canonical Fashion-MNIST, whichever file they came in.
FASHION_SHA256 = {
    "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
}


def fashion_mnist(split: str, file: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) uint8 and labels (n,) of ``split``, "train" or "test".

    ``file`` is an .npz with ``train_images``, ``train_labels``, ``test_images``, ``test_labels``;
    without it torchvision fetches the set into ~/.cache/s4s_nb.

    Raises:
        InputError: the file is missing or not Fashion-MNIST.
    """
    if file is None:
        from torchvision.datasets import FashionMNIST

        data = FashionMNIST(str(CACHE), train=split == "train", download=True)
        images, labels = data.data.numpy(), data.targets.numpy()
    else:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{file} is no .npz of Fashion-MNIST ({error}).") from None
    if hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest() != FASHION_SHA256[split]:
        raise InputError(
            f"The {split} images of {file or CACHE} are not Fashion-MNIST's (their sha256 differs);"
            " delete the file and fetch it again."
        )
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()

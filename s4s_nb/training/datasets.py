"""Image sets that the bundled models are trained on: a local file, or fetched where they live."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from s4s_nb.errors import InputError

CACHE = Path.home() / ".cache" / "s4s_nb"


@dataclass(frozen=True)
class ImageSet:
    """Pixels and class labels, for training and for judging."""

    train: UInt8[Tensor, "n c h w"]
    train_labels: Int[Tensor, " n"]
    test: UInt8[Tensor, "m c h w"]
    test_labels: Int[Tensor, " m"]


def fashion_mnist(file: Path | None = None) -> ImageSet:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 garments, grey, 28 px, 10 classes.

    ``file`` is an .npz with ``train_images``, ``train_labels``, ``test_images``, ``test_labels``;
    without it torchvision fetches the set into ~/.cache/s4s_nb.

    Raises:
        InputError: the file is missing or not Fashion-MNIST.
    """
    if file is None:
        from torchvision.datasets import FashionMNIST

        parts = [FashionMNIST(str(CACHE), train=train, download=True) for train in (True, False)]
        arrays = [array.numpy() for part in parts for array in (part.data, part.targets)]
    else:
        names = ("train_images", "train_labels", "test_images", "test_labels")
        arrays = read_arrays(file, names, "Fashion-MNIST")
    check_pixels(arrays[0], "train", file or CACHE, "Fashion-MNIST")
    check_pixels(arrays[2], "test", file or CACHE, "Fashion-MNIST")
    pixels, labels = ([torch.from_numpy(a) for a in arrays[i::2]] for i in (0, 1))
    return ImageSet(pixels[0][:, None], labels[0].long(), pixels[1][:, None], labels[1].long())


FACE_STYLES = ("pixel art", "adventurer", "personas")
TEST_FACES = 500


def faces(file: Path | None = None, side: int = 64) -> ImageSet:
    """Drawn avatars of three DiceBear styles, 4,000 of each, colour, 64 px or averaged down to 32.

    The last 500 seeds of every style are the test set. ``file`` is what ``data/faces.mjs`` draws, or
    an .npz with these ``images``; without it ~/.cache/s4s_nb/faces.npy is read.

    Raises:
        InputError: no file, or not these images.
    """
    file = file or CACHE / "faces.npy"
    if not file.exists():
        raise InputError(f"There is no {file}; data/faces.mjs draws it, and says how in its first lines.")
    if file.suffix == ".npy":
        pixels = np.load(file, allow_pickle=False)
    else:
        (pixels,) = read_arrays(file, ("images",), "the faces")
    check_pixels(pixels, "faces", file, "the 12,000 faces")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    if side < 64:
        images = F.avg_pool2d(images.float(), 64 // side).round().to(torch.uint8)
    seeds = len(images) // len(FACE_STYLES)
    labels = torch.arange(len(FACE_STYLES)).repeat_interleave(seeds)
    test = torch.arange(len(images)) % seeds >= seeds - TEST_FACES
    return ImageSet(images[~test], labels[~test], images[test], labels[test])


def read_arrays(file: Path, names: tuple[str, ...], what: str) -> list[np.ndarray]:
    """Named arrays of an .npz; :class:`InputError` if it is missing or lacks one."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} is no .npz of {what} ({error}).") from None


# sha256 of the canonical pixels, whichever file they came in.
PIXELS_SHA256 = {
    "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "faces": "1900ea1694a42c6a006ffb1bbd341a55beef2f5c588537e9b2a8a4eebafc5438",
}


def check_pixels(pixels: np.ndarray, part: str, origin: Path, what: str) -> None:
    """:class:`InputError` unless the pixels are the ones that the bundled models were trained on."""
    if hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() != PIXELS_SHA256[part]:
        raise InputError(
            f"The images of {origin} are not those of {what} (their sha256 differs);"
            " delete the file and fetch it again."
        )

"""Image sets that the bundled models are trained on: a local file, or fetched where they live."""

import hashlib
import tokenize
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from s4s_nb.errors import InputError
from s4s_nb.files import there

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
"""What NumPy and zipfile raise for files that are cut short, damaged or something else."""


def cache() -> Path:
    """Where fetched image sets are kept: ~/.cache/s4s_nb.

    Raises:
        InputError: this user has no home.
    """
    try:
        return Path.home() / ".cache" / "s4s_nb"
    except RuntimeError as error:
        raise InputError(f"There is no folder to keep images in ({error}); give --dataset.") from None


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
        file = cache()
        arrays = fetched_fashion(file)
    else:
        names = ("train_images", "train_labels", "test_images", "test_labels")
        arrays = read_arrays(file, names, "Fashion-MNIST")
    labels = [array.astype(np.uint8) if array.dtype.kind in "iu" else array for array in arrays[1::2]]
    arrays = [arrays[0], labels[0], arrays[2], labels[1]]
    for part, array in zip(("train", "train labels", "test", "test labels"), arrays, strict=True):
        check_known(array, part, file, "Fashion-MNIST")
    pixels, labels = ([torch.from_numpy(a) for a in arrays[i::2]] for i in (0, 1))
    return ImageSet(pixels[0][:, None], labels[0].long(), pixels[1][:, None], labels[1].long())


def fetched_fashion(folder: Path) -> list[np.ndarray]:
    """Images and labels to train, then to test, fetched by torchvision unless they are there."""
    from torchvision.datasets import FashionMNIST

    try:
        parts = [FashionMNIST(str(folder), train=train, download=True) for train in (True, False)]
    except (*UNREADABLE, RuntimeError) as error:
        raise InputError(
            f"Fashion-MNIST can be neither fetched nor read in {folder} ({first_line(error)}); give a local"
            " file by --dataset."
        ) from None
    return [array.numpy() for part in parts for array in (part.data, part.targets)]


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


FACE_STYLES = ("pixel art", "adventurer", "personas")
TEST_FACES = 500


def faces(file: Path | None = None, side: int = 64) -> ImageSet:
    """Drawn avatars of three DiceBear styles, 4,000 of each, colour, 64 px or averaged down to 32.

    The last 500 seeds of every style are the test set. ``file`` is what ``data/faces.mjs`` draws, or
    an .npz with these ``images``; without it ~/.cache/s4s_nb/faces.npy is read.

    Raises:
        InputError: no file, or not these images.
    """
    file = file or cache() / "faces.npy"
    if not file.exists():
        raise InputError(f"There is no {file}; data/faces.mjs draws it, and says how in its first lines.")
    if file.suffix == ".npy":
        pixels = read_array(file, "the faces", lambda: np.load(file, allow_pickle=False))
    else:
        (pixels,) = read_arrays(file, ("images",), "the faces")
    check_known(pixels, "faces", file, "the 12,000 faces")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    if side < 64:
        images = F.avg_pool2d(images.float(), 64 // side).round().to(torch.uint8)
    seeds = len(images) // len(FACE_STYLES)
    labels = torch.arange(len(FACE_STYLES)).repeat_interleave(seeds)
    test = torch.arange(len(images)) % seeds >= seeds - TEST_FACES
    return ImageSet(images[~test], labels[~test], images[test], labels[test])


def read_arrays(file: Path, names: tuple[str, ...], what: str) -> list[np.ndarray]:
    """Named arrays of an .npz; :class:`InputError` if it is missing, damaged or lacks one."""

    def read() -> list[np.ndarray]:
        with np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]

    return read_array(file, what, read)


def read_array(file: Path, what: str, read: Callable[[], Any]) -> Any:
    """What NumPy reads of a file; :class:`InputError` if it is missing or damaged."""
    there(file)
    try:
        return read()
    except (*UNREADABLE, TypeError, AttributeError) as error:  # the last two where it is no archive
        raise InputError(f"{file} is damaged or no file of {what} ({first_line(error)}).") from None


@dataclass(frozen=True)
class Known:
    """Canonical pixels or labels, as uint8, whichever file they come in."""

    shape: tuple[int, ...]
    sha256: str


KNOWN = {
    "train": Known((60_000, 28, 28), "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"),
    "test": Known((10_000, 28, 28), "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"),
    "train labels": Known((60_000,), "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"),
    "test labels": Known((10_000,), "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"),
    "faces": Known((12_000, 64, 64, 3), "1900ea1694a42c6a006ffb1bbd341a55beef2f5c588537e9b2a8a4eebafc5438"),
}


def check_known(array: np.ndarray, part: str, origin: Path, what: str) -> None:
    """:class:`InputError` unless these are the pixels or labels that the bundled models were trained on."""
    known = KNOWN[part]
    same = isinstance(array, np.ndarray) and (array.shape, array.dtype) == (known.shape, np.uint8)
    if not same or hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() != known.sha256:
        raise InputError(
            f"The images of {origin} are not those of {what} (shape or sha256 of its {part} differs);"
            " delete the file and fetch it again."
        )

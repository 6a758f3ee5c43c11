"""Image sets are read whole, or refused in one sentence."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from s4s_nb.errors import InputError
from s4s_nb.training import datasets
from s4s_nb.training.datasets import Known, faces, fashion_mnist


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.fixture
def small(monkeypatch, tmp_path) -> dict[str, np.ndarray]:
    """Arrays of a small set that passes for Fashion-MNIST."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in {"train": 20, "test": 10}.items():
        pixels, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10
        arrays |= {f"{part}_images": pixels, f"{part}_labels": labels}
        known = {part: pixels, f"{part} labels": labels.astype(np.uint8)}
        for name, array in known.items():
            monkeypatch.setitem(datasets.KNOWN, name, Known(array.shape, digest(array)))
    return arrays


def test_a_whole_file_is_read_and_one_that_is_cut_or_damaged_is_a_sentence(small, tmp_path):
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, **small)
        assert fashion_mnist(path).train.shape == (20, 1, 28, 28)
        whole = path.read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match="damaged or no file of Fashion-MNIST") as caught:
                fashion_mnist(path)
            assert "\n" not in str(caught.value)
        for place in range(0, len(whole), max(1, len(whole) // 200)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            try:
                fashion_mnist(path)
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"train_images": lambda a: a.reshape(20, 784)}, "shape or sha256"),
        ({"test_images": lambda a: a.view(np.int8)}, "shape or sha256"),
        ({"train_labels": lambda a: a[:-1]}, "its train labels differs"),
        ({"train_labels": lambda a: a + 1}, "its train labels differs"),
        ({"train_labels": lambda a: np.where(np.arange(20) == 7, 3, a)}, "its train labels differs"),
        ({"test_labels": lambda a: a.astype(float)}, "its test labels differs"),
    ],
)
def test_other_arrays_are_refused(small, tmp_path, change, sentence):
    arrays = {name: change.get(name, lambda a: a)(array) for name, array in small.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        fashion_mnist(tmp_path / "a.npz")


def test_faces_that_are_cut_or_no_file_are_a_sentence(tmp_path):
    path = tmp_path / "faces.npy"
    np.save(path, np.zeros((3, 4, 4, 3), dtype=np.uint8))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged or no file of the faces"):
            faces(path)
    with pytest.raises(InputError, match="is a folder"):
        faces(tmp_path)


@pytest.mark.parametrize(
    "error", [URLError("no network"), RuntimeError("not found\nor damaged"), PermissionError(13, "no")]
)
def test_what_cannot_be_fetched_is_a_sentence(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fail)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(InputError, match="give a local file by --dataset") as caught:
        fashion_mnist()
    assert "\n" not in str(caught.value)


def test_a_user_without_a_home_is_told_to_give_a_file(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for read in (fashion_mnist, faces):
        with pytest.raises(InputError, match="give --dataset"):
            read()

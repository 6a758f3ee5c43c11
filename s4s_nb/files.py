"""Files: safetensors and JSON only, never half-written; and the bundled ones of ``data/``."""

import hashlib
import json
import math
import os
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from s4s_nb.atomic import AnyPath, check_ordinary, reason, replace_file
from s4s_nb.errors import InputError, choose


def write_safetensors(path: AnyPath, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and string metadata, with a checksum over all of them, as one safetensors file."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    checked = metadata | {CHECKSUM: checksum(tensors, metadata)}
    replace_file(path, lambda p: p.write_bytes(save(tensors, checked)))


def read_safetensors(path: AnyPath) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read back (tensors, metadata).

    Raises:
        InputError: the file is missing, no (whole) safetensors file, or not what its checksum says, which
            files of other programs lack.
    """
    file = there(path)
    try:
        data = file.read_bytes()  # at once: another process may replace the file meanwhile
        tensors, size = load(data), int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged or no safetensors file ({error}).") from None
    known = metadata.pop(CHECKSUM, None)
    if known is not None and known != checksum(tensors, metadata):
        raise InputError(f"{file} is damaged: its contents are not those of its checksum.")
    return tensors, metadata


CHECKSUM = "sha256"
"""The name of the checksum in the metadata of a safetensors file of ours."""


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Hex digest of metadata and of the tensors' names, dtypes, shapes and bytes."""
    sha = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def write_json(path: AnyPath, value: Any) -> None:
    """Write a JSON file. It has no NaN and no infinity: they become null, which pandas reads as NaN."""
    text = json.dumps(without_nan(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # A path that is no UTF-8 has lone surrogates: \udcff in JSON, and from this handler.
    replace_file(path, lambda p: p.write_bytes(text.encode("utf-8", "backslashreplace")))


def without_nan(value: Any) -> Any:
    """The same, with None for every float that is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: AnyPath) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing, damaged or no JSON, which NaN and Infinity are not either.
    """
    file = there(path)

    def refuse(constant: str) -> None:
        raise ValueError(f"JSON has no {constant}")

    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged or no JSON file ({error}).") from None


def there(path: AnyPath) -> Path:
    """The path of a file to read; :class:`InputError` if there is none, or a folder, a device or a pipe."""
    file = Path(os.fsdecode(path))
    try:
        check_ordinary(file)
        if file.exists():
            return file
    except OSError as error:
        raise InputError(f"{file} cannot be read ({reason(error)}).") from None
    raise InputError(f"There is no file {file}; check the name.")


def same_run(a: Any, b: Any) -> bool:
    """Whether two records of what a run is are the same; floats to a ten-thousandth.

    What is measured of a network is rounded otherwise by another processor, which makes no other run of it.
    """
    a, b = (json.loads(json.dumps(record)) for record in (a, b))

    def same(x: Any, y: Any) -> bool:
        if isinstance(x, dict) and isinstance(y, dict):
            return x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
        if isinstance(x, list) and isinstance(y, list):
            return len(x) == len(y) and all(map(same, x, y))
        if isinstance(x, float) and isinstance(y, float):
            return math.isclose(x, y, rel_tol=1e-4)
        return x == y

    return same(a, b)


PACKAGE = Path(str(resources.files("s4s_nb"))).resolve()
INSTALLED = (PACKAGE / "data/MANIFEST.json").is_file()
"""Whether this is an installed wheel: it has ``data/`` within the package, a checkout has it beside it."""
DATA = (PACKAGE if INSTALLED else PACKAGE.parent) / "data"
"""The folder of everything that is bundled: weights, references, learned solvers and results."""


@lru_cache
def manifest() -> dict[str, dict[str, Any]]:
    """What ``data/`` must hold: {file: {"sha256", "bytes", "origin", "licence"}}.

    Raises:
        InputError: ``data/MANIFEST.json`` is missing, damaged or no such record.
    """
    known = read_json(DATA / "MANIFEST.json")
    entries = known.values() if isinstance(known, dict) else [None]
    if not all(isinstance(e, dict) and isinstance(e.get("sha256"), str) for e in entries):
        raise InputError(f"{DATA / 'MANIFEST.json'} is no record of files and their sha256; {cure()}")
    return known


def cure(name: str = "MANIFEST.json") -> str:
    """How a file of ``data/`` is brought back."""
    return "install s4s_nb again." if INSTALLED else f"bring it back by git checkout -- 'data/{name}'."


@lru_cache
def data_file(name: str) -> Path:
    """The path of a file of ``data/``, once its sha256 was found to be that of the manifest.

    Raises:
        InputError: the file is not in the manifest, missing, or not what the manifest says.
    """
    expected = choose(manifest(), name, "file of data/")["sha256"]
    path = DATA / name
    if not path.is_file():
        raise InputError(f"data/{name} is missing; {cure(name)}")
    if sha256(path) != expected:
        raise InputError(
            f"data/{name} is damaged or was replaced (its sha256 is not the manifest's); {cure(name)}"
        )
    return path


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(*tensors: Tensor) -> str:
    """Hex digest of some tensors' bytes, to tell runs on different data apart."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def check_writable_data() -> None:
    """Check that ``data/`` is that of a checkout, the only one to write to.

    Raises:
        InputError: it is that of an installed wheel.
    """
    if INSTALLED:
        raise InputError(
            "The data/ of an installed s4s_nb stays as it is; to write to it, work in a checkout of the"
            " repository, installed with: pip install -e ."
        )


def enter_in_manifest(name: str, origin: str, licence: str) -> None:
    """Enter (or renew) a file of ``data/`` in the manifest; only in a checkout."""
    check_writable_data()
    path = DATA / name
    manifest.cache_clear()  # another process may have entered its own
    entries = manifest() if (DATA / "MANIFEST.json").exists() else {}
    entries[name] = {
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "origin": origin,
        "licence": licence,
    }
    write_json(DATA / "MANIFEST.json", dict(sorted(entries.items())))
    manifest.cache_clear()
    data_file.cache_clear()

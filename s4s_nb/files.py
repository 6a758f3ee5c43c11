"""Files: safetensors and JSON only, written to a temporary name and renamed, so never half-written."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from s4s_nb.errors import InputError, choose


def replace_file(path: Path, write) -> None:
    """Call ``write(temporary_path)``, then rename the result to ``path`` in one move."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and string metadata as one safetensors file."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    replace_file(path, lambda p: save_file(tensors, p, metadata))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read back (tensors, metadata).

    Raises:
        InputError: the file is missing, or no (whole) safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; check the name.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or no safetensors file ({error}).") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda p: p.write_text(text, encoding="utf-8"))


DATA = Path(__file__).resolve().parent.parent / "data"


@lru_cache
def manifest() -> dict[str, dict[str, Any]]:
    """What ``data/`` must hold: {file: {"sha256", "bytes", "origin", "licence"}}."""
    return json.loads((DATA / "MANIFEST.json").read_text(encoding="utf-8"))


@lru_cache
def bundled(name: str) -> Path:
    """The path of a file of ``data/``, once its sha256 was found to be that of the manifest.

    Raises:
        InputError: the file is not in the manifest, missing, or not what the manifest says.
    """
    expected = choose(manifest(), name, "file of data/")["sha256"]
    path = DATA / name
    if not path.exists():
        raise InputError(f"data/{name} is missing; restore it with: git checkout -- data/{name}")
    if sha256(path) != expected:
        raise InputError(
            f"data/{name} is damaged or was replaced (its sha256 is not the manifest's);"
            f" restore it with: git checkout -- data/{name}"
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


def bundle(name: str, origin: str, licence: str) -> None:
    """Enter (or renew) a file of ``data/`` in the manifest."""
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
    bundled.cache_clear()

"""Files: safetensors and JSON only, written to a temporary name and renamed, so never half-written."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def _replace(path: Path, write) -> None:
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
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    _replace(path, lambda p: save_file(tensors, p, metadata))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read back (tensors, metadata)."""
    with safe_open(path, framework="pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    _replace(path, lambda p: p.write_text(text, encoding="utf-8"))

"""One file from which a learning that was stopped at any moment goes on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors, write_safetensors


@dataclass(frozen=True)
class StateFile:
    """Where a run keeps its progress; without a path it keeps none.

    run: what the run is. A file of another run is refused, not overwritten.
    """

    path: Path | None
    run: dict[str, Any]

    def save(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Replace the file by this state."""
        if self.path is not None:
            metadata = {"run": json.dumps(self.run), "record": json.dumps(record)}
            write_safetensors(self.path, tensors, metadata)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last state saved, if any.

        Raises:
            InputError: the file belongs to another run.
        """
        if self.path is None or not self.path.exists():
            return None
        tensors, metadata = read_safetensors(self.path)
        if json.loads(metadata.get("run", "null")) != json.loads(json.dumps(self.run)):
            raise InputError(f"{self.path} is the state of another run; remove it, or choose another file.")
        return tensors, json.loads(metadata["record"])

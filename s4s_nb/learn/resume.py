"""One file from which a learning or training that was stopped at any moment goes on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors, same_run, write_safetensors


@dataclass(frozen=True)
class StateFile:
    """Where a run keeps its progress; without a path it keeps none.

    run: what the run is. A file of another run is refused, not overwritten.
    """

    path: Path | None
    run: dict[str, Any]

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by this state: tensors, and what JSON can hold."""
        if self.path is not None:
            tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            record = {key: value for key, value in state.items() if key not in tensors}
            metadata = {"run": json.dumps(self.run), "record": json.dumps(record)}
            write_safetensors(self.path, tensors, metadata)

    def load(self) -> dict[str, Any]:
        """The last state saved; nothing at first.

        Raises:
            InputError: the file belongs to another run.
        """
        if self.path is None or not self.path.exists():
            return {}
        tensors, metadata = read_safetensors(self.path)
        try:
            run, record = (json.loads(metadata[key]) for key in ("run", "record"))
        except (KeyError, ValueError, RecursionError):
            raise InputError(
                f"{self.path} is no state of a run; remove it, or choose another file."
            ) from None
        if not same_run(run, self.run):
            raise InputError(f"{self.path} is the state of another run; remove it, or choose another file.")
        # In memory of their own, whose place, and so how products are rounded, is that of other tensors.
        return {**record, **{key: value.clone() for key, value in tensors.items()}}

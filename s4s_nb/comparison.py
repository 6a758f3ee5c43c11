"""Solvers side by side: their rows as a table, their first images as a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from s4s_nb.errors import InputError

COLUMNS = {
    "solver": "solver",
    "grid": "grid",
    "end": "last level",
    "nfe": "NFE",
    "rmse": "RMSE to teacher",
    "lpips": "LPIPS to teacher",
    "fd_real": "FD to real",
    "fd_teacher": "FD to teacher",
    "seconds_per_100": "s / 100 images",
}


def as_table(rows: Iterable[dict], columns: Sequence[str] = tuple(COLUMNS)) -> str:
    """Rows as text, three digits, in the order of :data:`COLUMNS`; columns that no row has are left out."""
    return frame_of(rows, columns).to_string(index=False, float_format=lambda value: f"{value:.3g}")


def frame_of(rows: Iterable[dict], columns: Sequence[str] = tuple(COLUMNS)):
    """Rows as a table of pandas, its columns named as in :data:`COLUMNS`."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[key for key in columns if key in frame]).rename(columns=COLUMNS)


@dataclass(frozen=True)
class Comparison:
    """Solvers side by side on the same noises: a row each, and their first images."""

    rows: list[dict[str, Any]]
    images: list[Tensor] = field(repr=False)

    def __str__(self) -> str:
        return as_table(self.rows)

    def _repr_html_(self) -> str:
        return frame_of(self.rows).to_html(index=False, float_format=lambda value: f"{value:.3g}")

    def picture(self):
        """The images as a figure: solvers along the rows, same noises down the columns.

        A classical solver that was tried on several grids is shown on the one where it is nearest to the
        teacher by LPIPS.

        Raises:
            InputError: the model's end states are no images.
        """
        from s4s_nb.pictures import image_grid

        if not all("lpips" in row for row in self.rows):
            raise InputError("There is no picture: the end states of this model are no images.")
        return image_grid({label_of(self.rows[i]): self.images[i] for i in self.shown()})

    def shown(self) -> list[int]:
        """The rows of the picture: each classical solver's nearest, and all others."""

        def rank(i: int) -> tuple[bool, float]:
            row = self.rows[i]
            return row["kind"] == "classical", row["lpips"]

        nearest: dict[str, int] = {}
        for i in sorted(range(len(self.rows)), key=rank):
            row = self.rows[i]
            nearest.setdefault(row["solver"] if row["kind"] == "classical" else f"row {i}", i)
        return sorted(nearest.values())


def label_of(row: dict) -> str:
    """What stands beside a row of pictures: the solver, its grid, its NFE and its LPIPS to the teacher."""
    if row["kind"] == "teacher":
        return f"teacher\n{row['nfe']} NFE"
    return f"{row['solver']}, {row['grid']}\n{row['nfe']} NFE, LPIPS {row['lpips']:.3f}"

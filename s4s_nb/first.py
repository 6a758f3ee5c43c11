"""A free first answer: what a denoiser says at σ_max is nearly the same for all noise, so it may be stored.

A solver of N steps then takes N − 1 evaluations, written "(N − 1) + 1". AMED, DLMS, DyWeight and EPD count
so ("AFS"). It needs no data: the mean is of the model's own answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser
from s4s_nb.errors import InputError


@dataclass(frozen=True, eq=False)
class FreeFirst:
    """What stands for the answer D_0, so that a step is free: at σ_max it is nearly the same for all noise.

    Args:
        means: (k, …), one mean answer, or one a class.
        by: the condition by which a sample takes its own, whole numbers below k; None for a single mean.
        noises: of how many answers each is the mean.
    """

    means: Tensor
    by: str | None = None
    noises: int = 0

    def answer(self, x: Tensor, cond: Condition) -> Tensor:
        """D_0 of every sample.

        Raises:
            InputError: the condition is missing, is no class, or states have another shape.
        """
        classes = torch.zeros(len(x), dtype=torch.long) if self.by is None else cond.get(self.by)
        if classes is None or classes.shape != x.shape[:1] or classes.is_floating_point():
            raise InputError(
                f"The free first answer of this solver is chosen by {self.by}, a class a sample."
            )
        if len(x) and not 0 <= int(classes.min()) <= int(classes.max()) < len(self.means):
            raise InputError(f"This solver knows first answers of {len(self.means)} classes alone.")
        if self.means.shape[1:] != x.shape[1:]:
            raise InputError(
                f"The free first answer is of shape {tuple(self.means.shape[1:])}, the states of"
                f" {tuple(x.shape[1:])}."
            )
        return self.means.to(x.device)[classes.to(x.device)]


@torch.no_grad()
def mean_answers(
    denoise: Denoiser, starts: Tensor, sigma: Tensor, conds: Sequence[Condition], batch: int
) -> Tensor:
    """(k, …): for each of k conditions of all starts the mean of the answers at a level."""

    def answer(cond: Condition, part: slice) -> Tensor:
        given = {name: value[part] for name, value in cond.items()}
        return denoise(starts[part].clone(), sigma.to(starts.device), **given).sum(0)

    parts = [slice(first, first + batch) for first in range(0, len(starts), batch)]
    means = [torch.stack([answer(cond, part) for part in parts]).sum(0) / len(starts) for cond in conds]
    return torch.stack(means).cpu()


def free_first_of(means: Tensor | None, told: Any, path: Path | str) -> FreeFirst | None:
    """The first answer of a solver file; :class:`InputError` where it and its record do not fit."""
    if means is None and told is None:
        return None
    fits = means is not None and means.ndim > 1 and means.is_floating_point() and len(means)
    if not (fits and isinstance(told, dict) and isinstance(told.get("by"), str | None)):
        raise InputError(f"{path} has a free first answer without its record, or the other way round.")
    if not torch.isfinite(means).all():
        raise InputError(f"The free first answer in {path} holds NaN or infinity.")
    return FreeFirst(means, told.get("by"), told.get("noises", 0))

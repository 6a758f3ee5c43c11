"""The student of :mod:`s4s_nb.designed`, in which every sample gets a table of its own, and its file.

Its one part is all weights of the designer, thousands, which optimisers of first order alone learn. What
it follows is the way of the model's teacher, with the levels that this has; in the paper it is that of a
DPM-Solver++ 3M which steps between the student's own levels, and moves with them.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s4s_nb.denoisers import a_level_each, as_tensor
from s4s_nb.designed import DESIGNER_FORMAT, Designed, Designer
from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors
from s4s_nb.first import FreeFirst
from s4s_nb.grids import Grid
from s4s_nb.multistep import ipndm_weights, linear_multistep
from s4s_nb.pairs import part_of
from s4s_nb.schedules import Schedule
from s4s_nb.solvers import TABLE, Solver
from s4s_nb.student import Student


def load_designed(path: Path | str, model: Any) -> Designed:
    """Read what :meth:`Designed.save` wrote, for the model that it was learned for.

    Raises:
        InputError: the file is missing, damaged or foreign, or the network of the model has no bottleneck.
    """
    tensors, told = read_safetensors(Path(path))
    if told.get("format") != DESIGNER_FORMAT:
        raise InputError(f"{path} is not a designer's file of this package ({DESIGNER_FORMAT!r}).")
    sigmas = tensors.pop("sigmas")
    build = designer(model, **json.loads(told["how"]))
    fresh = build(grid=lambda n: sigmas, nfe=len(sigmas) - 1, schedule=model.schedule)
    return replace(fresh.on(sigmas), name=told["name"], info=json.loads(told["info"]), weights=tensors)


def load_solver(path: Path | str, model: Any) -> Solver:
    """Read a solver's file of either kind, for a model."""
    _, told = read_safetensors(Path(path))
    return load_designed(path, model) if told.get("format") == DESIGNER_FORMAT else Solver.load(path)


class Designing(Student):
    """A student whose one part, ``coefficients``, is all weights of a designer beside those that it begins
    with."""

    family = "designer"
    one_table = False

    def __init__(self, sigmas: Grid, watched: nn.Module | None, schedule: Schedule | None, **how: Any):
        design = Designer(sigmas, **how)
        self.weights = {name: weight.detach() for name, weight in design.named_parameters()}
        start, order = ("plms", design.order) if design.how["high_order"] else ("dpmpp-1", 1)
        self.begun = linear_multistep(sigmas, ipndm_weights(sigmas, order), "data", "dlms designer")
        # By a partial, for modules among its attributes would be parts of the student.
        self.made = partial(Designed, design=design, watched=watched, schedule=schedule)
        size = sum(weight.numel() for weight in self.weights.values())
        super().__init__(start, sigmas, size, len(sigmas) - 1, width=0.0, schedule=schedule)
        self.grid, self.levels = None, nn.Parameter(self.levels.detach()[:0])

    def on(self, sigmas: Grid) -> Designed:
        parts = self.coefficients.split([weight.numel() for weight in self.weights.values()])
        named = zip(self.weights.items(), parts, strict=True)
        weights = {name: weight + by.view_as(weight) for (name, weight), by in named}
        table = {key: getattr(self.begun, key) for key in TABLE}
        return self.made(self.begun.name, **table, info=self.begun.info, weights=weights)


def designer(
    model: Any,
    bottleneck: bool = True,
    watched: nn.Module | None = None,
    high_order: bool = True,
    scale: bool = True,
    learn_levels: bool = True,
    order: int | None = None,
) -> Callable[..., Designing]:
    """The student of method dlms that designs a table for every sample.

    Args:
        bottleneck: whether it sees the network; else coefficients, levels and scales are the same for all.
        watched: the module whose answer (b, c, h, w) it sees; the U-Net's ``middle`` if left out.
        high_order, scale, learn_levels: see :class:`Designer`.
        order: how many outputs a step may mix; the method's four if left out.

    Raises:
        InputError: no such module, or a denoiser that takes no level a sample.

    Example:
        >>> model = load("fashion")
        >>> result = learn(model, 5, "dlms", student=designer(model))
        >>> evaluate(model, result.solver)
    """
    module = (watched or bottleneck_of(model)) if bottleneck else None
    check_level_each(model)
    how = {"bottleneck": bottleneck, "high_order": high_order}
    how, asked = {**how, "scale": scale, "learn_levels": learn_levels}, order

    def build(
        grid: Callable[[int], Grid],
        nfe: int,
        order: int = 4,
        schedule: Schedule | None = None,
        free_first: FreeFirst | None = None,
        **other: Any,
    ) -> Designing:
        if free_first is not None:
            raise InputError("A designer sees the network at the first level, which is then not free.")
        return Designing(grid(nfe), module, schedule, order=asked or order, **how)

    return build


def bottleneck_of(model: Any) -> nn.Module:
    """The middle of a model's U-Net."""
    net = model.network.call
    found = [module for name, module in named_modules(net) if name.rpartition(".")[2] == "middle"]
    if not found:
        raise InputError(
            "The designer sees the bottleneck of a U-Net, a module called middle, and this model's network"
            " has none; give the module to see as watched=, or take bottleneck=False."
        )
    return found[0]


def named_modules(net: Any) -> list[tuple[str, nn.Module]]:
    """The modules of a network, or nothing of what is none."""
    return list(net.named_modules()) if isinstance(net, nn.Module) else []


@torch.no_grad()
def check_level_each(model: Any) -> None:
    """:class:`InputError` unless the denoiser takes a level a sample and answers each as it does alone."""
    cond = model.condition("train", 3)
    sigma = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64, device=model.device) * model.sigma_max
    x = (a_level_each(sigma, model.starts("train", 3)) * model.starts("train", 3) / model.sigma_max).float()
    try:
        together = as_tensor(model.denoise(x.clone(), sigma.clone(), **cond))
        parts = [slice(k, k + 1) for k in range(3)]
        alone = [model.denoise(x[k].clone(), sigma[k][0], **part_of(cond, k)) for k in parts]
        good = torch.allclose(together, torch.cat(alone), rtol=1e-2, atol=1e-2)
    except (RuntimeError, IndexError, ValueError, TypeError):
        good = False
    if not good:
        raise InputError(
            "A designer asks the denoiser with one level a sample, sigma (b,), as the adapters of"
            " s4s_nb.denoisers take it; this one fails, or answers otherwise than sample by sample."
        )

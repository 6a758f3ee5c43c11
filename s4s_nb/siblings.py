"""Students beside S4S's families: around a table that is given, and with DyWeight's weights.

The students of most other methods are options of :func:`s4s_nb.families.make_student`: which outputs and
states a row mixes, whether its weights sum to one, in which clock levels divide the way, what an offset is
a part of. Two are not: a table has no classic solver to lie around, and DyWeight's weights move the level
at which the model is asked.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from s4s_nb.errors import InputError
from s4s_nb.families import LinearMultistep
from s4s_nb.grids import Grid
from s4s_nb.solvers import Solver
from s4s_nb.student import Student


class GivenTable(Student):
    """The student of a table that is there already, learned or classical; zero is that table to the bit.

    On other levels what is held is how much of the clean image and of the noise a row takes,

        d_ij = A_ij + B_ij,     e_ij = A_ij σ_j/σ_{i+1},

    and the model is asked at s_j σ_j/σ_j°, with the same κ_j. It has no coefficients: with
    ``history="all"`` every number of the table is free.

    Args:
        solver: the table.
        places: of :class:`s4s_nb.student.Student`.

    Example:
        >>> student = GivenTable(Solver.load("five.safetensors"), history="all", first=True, scales=True)
        >>> learn_student(problem, student, "whole")
    """

    family = "given table"

    def __init__(self, solver: Solver, **places):
        self.given = solver
        super().__init__(solver.name, solver.sigmas, 0, solver.nfe, **places)

    def on(self, sigmas: Grid) -> Solver:
        given = self.given
        before, now = given.sigmas[:-1], sigmas[:-1]
        # A last level of 0 is never one that moves: there is no noise whose share could be held.
        end = torch.where(given.sigmas[1:] > 0, sigmas[1:] / given.sigmas[1:].clamp(min=1e-300), 1.0)
        A = given.A * end[:, None] * (before / now)
        asked = given.model_sigmas * (now / before)
        table = {"sigmas": sigmas, "A": A, "B": given.B - (A - given.A), "model_sigmas": asked}
        return replace(given, **table)


class DynamicWeights(LinearMultistep):
    """DyWeight's student (2603.11607): weights with a free sum, which is also the step's length.

        x_{i+1} = x_i + (σ_{i+1} − τ_i) Σ_j w_ij ε_j,     ε_j = (x_j − D_j)/τ_j,
        τ_{i+1} = τ_i + (Σ_j w_ij)(σ_{i+1} − τ_i),        τ_0 = σ_0

    with τ_i the nominal level of x_i: a step whose weights sum to more than one is a longer step. Where
    they sum to one, τ is the grid. The model is asked at |τ_i|, as a step may go too far and be taken back.
    Its time scales s_j are offsets with ``reach="scale"``. In the published code the first evaluation is
    free; here it is made, at σ_0.

    Args:
        start: a linear multistep solver in noise form, as ipndm-3.
        sigmas, order, consistent, lower_final, absolute, places: as in
            :class:`s4s_nb.families.LinearMultistep`.

    Raises:
        InputError: ``start`` is not in noise form, or uses more history than ``order``.
    """

    family = "dynamic weights"

    def __init__(self, start: str, sigmas: Grid, *options, **places):
        super().__init__(start, sigmas, *options, **places)
        if self.form != "noise":
            raise InputError(
                f"Dynamic weights are of noise form, as those of ipndm-3; {start} has another."
            )

    def on(self, sigmas: Grid) -> Solver:
        offsets = self.weights(self.coefficients)
        nominal = sigmas[:1]
        for i, more in enumerate(offsets.sum(1)[:-1]):  # beside the sum of 1 that all classic rows have
            step = sigmas[i + 1] - nominal[-1]
            nominal = torch.cat([nominal, (sigmas[i + 1] + more * step)[None]])
        mixed = (sigmas[1:] - nominal)[:, None] * (self.classic(sigmas) + offsets) / nominal
        name = f"dyweight-{self.start}"
        return Solver(name, sigmas, torch.eye(len(mixed)).double() + mixed, -mixed, nominal.abs())


def dyweight_student(start: str, nfe: int, grid: Callable[[int], Grid], **options) -> Student:
    """DyWeight's student with ``nfe`` evaluations; time scales of 1 ± 0.5 in place of levels' offsets."""
    return DynamicWeights(start, grid(nfe), reach="scale", **options)

"""The table of Linear Multistep Solver Distillation (DLMS; Liang et al. 2025, equations 8 and 9).

    x_{i+1} = (σ_{i+1}/σ_i) x_i + (1 − σ_{i+1}/σ_i) Σ_k a_ik D_{i−k},      k < min(i + 1, p),  Σ_k a_ik = 1
    D_j = denoise(x_j, s_j σ_j),      s_j in (0.8, 1.2)

The paper's a_i, σ_{i+1} and s_j come from a network that sees the sample
(:mod:`s4s_nb.learn.designer`); here they are the same for all, in one table.
"""

from collections.abc import Callable

import torch

from s4s_nb.errors import InputError
from s4s_nb.families import Offsets, band
from s4s_nb.first import FreeFirst
from s4s_nb.grids import Grid
from s4s_nb.levels import decoupled
from s4s_nb.multistep import ipndm_weights, linear_multistep
from s4s_nb.schedules import Schedule
from s4s_nb.solvers import Solver
from s4s_nb.student import Student

SCALE = 0.2
"""How far a scale of the asked level may go from 1, as in AMED and a public re-implementation of DLMS; the
bound of the paper is not known."""


class Distilled(Student):
    """Rows of ``order`` outputs that sum to 1, levels by sticks in log σ, and a scale of every asked level.

    At 0 it is PLMS, Adams and Bashforth's weights in data form, or with ``high_order`` off Euler's method.

    Args:
        sigmas: the grid, N+1 levels.
        order: p, how many outputs a step may mix.
        high_order, scale, learn_levels: the paper's ablations: the start, the scales s_j, and whether the
            levels are learned.
        schedule, free_end, free_first: of :class:`s4s_nb.student.Student`.
    """

    family = "distilled multistep"

    def __init__(
        self,
        sigmas: Grid,
        order: int = 4,
        high_order: bool = True,
        scale: bool = True,
        learn_levels: bool = True,
        schedule: Schedule | None = None,
        free_end: bool = False,
        free_first: FreeFirst | None = None,
    ):
        nfe = len(sigmas) - 1
        self.order = order if high_order else 1
        self.weights = Offsets(band(nfe, order), consistent=True)
        places = {"kind": "sticks", "schedule": schedule, "free_end": free_end, "free_first": free_first}
        start = "plms" if high_order else "dpmpp-1"
        super().__init__(start, sigmas, self.weights.size, nfe, width=float(scale), **places)
        if not learn_levels:
            self.grid, self.levels = None, torch.nn.Parameter(self.levels.detach()[:0])

    def on(self, sigmas: Grid) -> Solver:
        weights = ipndm_weights(sigmas, self.order) + self.weights(self.coefficients)
        return linear_multistep(sigmas, weights, "data", "dlms")

    def forward(self) -> Solver:
        """The solver of all parameters, its model asked at s_j σ_j."""
        solver = self.opened(self.sigmas if self.grid is None else self.grid(self.levels))
        if not self.offsets.numel():
            return solver
        scales = 1 + SCALE * (self.offsets / 2).tanh()
        asked = torch.cat([solver.sigmas[:1], scales * solver.sigmas[1:-1]])
        return decoupled(solver, asked, self.schedule, self.held)


def check_own(method: str, at_its_start: bool, other: dict) -> None:
    """:class:`InputError` for what a method with a start and rows of its own has no use for."""
    asked = [name for name in ("consistent", "held") if other.get(name)]
    if asked or not at_its_start:
        named = " and ".join(([] if at_its_start else ["start"]) + asked)
        raise InputError(f"Method {method} has a start and rows of its own; leave {named} out.")


def distilled_student(
    grid: Callable[[int], Grid],
    nfe: int,
    order: int = 4,
    schedule: Schedule | None = None,
    free_end: bool = False,
    free_first: FreeFirst | None = None,
    high_order: bool = True,
    scale: bool = True,
    learn_levels: bool = True,
    start: str = "plms",
    **other,
) -> Distilled:
    """The student of method dlms.

    Raises:
        InputError: another start than PLMS, or options that it does not have.
    """
    check_own("dlms", start == "plms", other)
    return Distilled(grid(nfe), order, high_order, scale, learn_levels, schedule, free_end, free_first)

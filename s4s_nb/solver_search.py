"""Differentiable Solver Search's student (DSS; Wang et al. 2025, arXiv 2505.21114, algorithm 1, section 6).

    flow   x_{i+1} = x_i + Δt_i Σ_{j≤i} M_ij v_j                                 velocity form
    VP     x_{i+1} = (σ_{i+1}/σ_i) x_i + σ_{i+1} (ω_{i+1} − ω_i) Σ_{j≤i} M_ij D_j,   ω = α/σ       data form

in each process's own coordinate, in which the second is the data form of :mod:`s4s_nb.multistep`; M is
lower-triangular with M_ii = 1 − Σ_{j<i} M_ij, and Δt = softmax(r). At 0 it is Euler's method on the
uniform grid. Against the paper, the authors' code makes a second update, of first order, in every step
of VP: of a Gaussian's standard deviation 0.500 their table of 10 steps then leaves 0.261, not 0.495.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from s4s_nb.distilled import check_own
from s4s_nb.families import Offsets, band
from s4s_nb.first import FreeFirst
from s4s_nb.grids import Grid, uniform_t
from s4s_nb.multistep import linear_multistep
from s4s_nb.schedules import VE, Flow, Schedule, native_clock
from s4s_nb.solvers import Solver
from s4s_nb.student import Student

SHORT = 6
"""Up to so many steps the last two rows have one past output each, as the paper and its code hold it."""


class SolverSearch(Student):
    """Full rows that sum to 1, around Euler's method, with levels by softmax in native time.

    N (N − 1)/2 coefficients, fewer up to six steps, and N − 1 levels; the paper counts one more, as one of
    its N logits is idle.

    Args:
        sigmas: the grid, N+1 levels.
        schedule: of the process: its time is that of the levels, and a flow has the velocity form.
        free_end: whether the last level moves too.
        free_first: what stands for the first answer, which is then not asked for.
    """

    family = "solver search"

    def __init__(
        self,
        sigmas: Grid,
        schedule: Schedule | None = None,
        free_end: bool = False,
        free_first: FreeFirst | None = None,
    ):
        nfe, clock = len(sigmas) - 1, native_clock(schedule)
        self.form, start = ("velocity", "flow-ab1") if isinstance(schedule, Flow) else ("data", "dpmpp-1")
        free = band(nfe, nfe)
        if nfe <= SHORT:
            free[-2:] &= band(nfe, 2)[-2:]
        self.weights = Offsets(free, consistent=True)
        places = {"schedule": schedule, "clock": (clock.time, clock.level), "free_end": free_end}
        places |= {"free_first": free_first}
        super().__init__(start, sigmas, self.weights.size, nfe, width=0.0, **places)

    def on(self, sigmas: Grid) -> Solver:
        weights = torch.eye(self.nfe, dtype=torch.float64) + self.weights(self.coefficients)
        return linear_multistep(sigmas, weights, self.form, "dss")

    def coefficients_of(self, published: Tensor) -> Tensor:
        """The coefficients of a table as the paper and its code print it: (N, N), zeros on the diagonal."""
        return published.double()[self.weights.moved]


def search_student(
    grid: Callable[[int], Grid],
    nfe: int,
    schedule: Schedule | None = None,
    free_end: bool = False,
    free_first: FreeFirst | None = None,
    start: str = "euler",
    order: int | str = "all",
    **other,
) -> SolverSearch:
    """The student of method dss.

    A process without a time of its own, VE or none, is taken as a flow, in whose time its levels then are
    uniform. On ``fashion``, with 5 evaluations, 40 pairs and 160 updates, LPIPS is 0.043 so, where the
    authors' code has 0.046: ``learn(model, method="dss", pairs=40, iterations=16)``.

    Raises:
        InputError: another start than Euler's method, fewer outputs a row than all, or options that it does
            not have.
    """
    check_own("dss", start == "euler" and order == "all", other)
    sigmas = grid(nfe)
    if schedule is None or isinstance(schedule, VE):
        schedule = Flow()
        sigmas = uniform_t(nfe, float(sigmas[0]), float(sigmas[-1]), schedule)
    return SolverSearch(sigmas, schedule, free_end, free_first)

"""Students: solvers that can be learned.

A student is a module whose call is its table, and whose parameters at zero are a classic solver to the
bit. It has three: ``coefficients`` on top of the classic weights, ``levels`` (θ of :mod:`s4s_nb.levels`)
and ``offsets`` (ξ) of the levels at which the model is asked. What a method moves is a tuple of names.

The classic weights depend on the levels, which matters where those move. Either the coefficients are a
*residual* on the weights of the levels at hand, so that zero stays the classic solver wherever they go (as
in GS, arXiv 2510.17699, eqs. 13–20); or, ``absolute``, the weights are numbers of their own that a move of
the levels leaves as they are (S4S). On the student's own grid the two are one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from s4s_nb.errors import InputError, choose
from s4s_nb.first import FreeFirst
from s4s_nb.grids import Grid
from s4s_nb.levels import LOG, Clock, Levels, decoupled, moved_in
from s4s_nb.schedules import Schedule
from s4s_nb.solvers import Solver

PARTS = ("coefficients", "levels", "offsets")
"""The names of a student's parameters."""


class Student(nn.Module):
    """What all students share: levels, offsets, and how parameters are moved.

    A subclass sets ``coefficients`` by their number and gives :meth:`on`, its solver on some levels.

    Args:
        start: the classic solver around which it lies.
        sigmas: its own grid, where the levels start.
        size: how many coefficients it has.
        nfe: evaluations, a free first one among them.
        clock, kind: of :class:`s4s_nb.levels.Levels`. A grid that the clock takes to infinity (log σ, one
            that ends at 0) stays as it is: the student then has no levels and no offsets.
        free_end: whether the last of the levels moves too, by the last of their parameters.
        width: w, bound of the offsets as a part of the smallest gap; 0 for none.
        schedule, held: what a model level means; see :func:`s4s_nb.levels.decoupled`.
        first: what stands for the first answer, which is then not asked for.
    """

    family: str

    def __init__(
        self,
        start: str,
        sigmas: Grid,
        size: int,
        nfe: int,
        clock: Clock = LOG,
        kind: str = "softmax",
        width: float = 0.5,
        schedule: Schedule | None = None,
        held: str = "data",
        free_end: bool = False,
        first: FreeFirst | None = None,
    ):
        super().__init__()
        self.start, self.sigmas, self.nfe, self.width = start, sigmas, nfe, width
        self.clock, self.schedule, self.held, self.first = clock, schedule, held, first
        moving = bool(torch.isfinite(clock[0](sigmas)).all())
        self.grid = Levels(sigmas, clock, kind, free_end) if moving else None
        self.coefficients = zeros(size)
        self.levels = zeros(self.grid.size if self.grid else 0)
        self.offsets = zeros(nfe - 1 if moving and width else 0)

    def on(self, sigmas: Grid) -> Solver:
        """What a subclass gives for :meth:`table`."""
        raise NotImplementedError

    def table(self, sigmas: Grid) -> Solver:
        """The solver of the coefficients on some levels, its model asked at those.

        Raises:
            InputError: levels of another number than the student's own, that end at 0 where those do not,
                or that are no grid.
        """
        if sigmas.shape != self.sigmas.shape or (sigmas[-1] == 0 and self.sigmas[-1] != 0):
            above = " that end above 0" if self.sigmas[-1] != 0 else ""
            raise InputError(f"This student needs {len(self.sigmas)} levels{above}; got {sigmas.tolist()}.")
        return self.on(sigmas)

    def forward(self) -> Solver:
        """The solver of all parameters, differentiable in them."""
        sigmas = self.sigmas if self.grid is None else self.grid(self.levels)
        solver = self.table(sigmas)
        if self.first is not None:
            solver = solver.with_first(self.first)
        if not self.offsets.numel():
            return solver
        gap = self.clock[0](sigmas).diff().abs().min()
        asked = moved_in(self.clock, solver.model_sigmas[1:], self.width * gap * self.offsets.tanh())
        return decoupled(solver, torch.cat([sigmas[:1], asked]), self.schedule, self.held)

    def sizes(self, parts: Sequence[str] = PARTS) -> list[int]:
        """How many numbers some parameters have.

        Raises:
            InputError: an unknown name, or a parameter that this student does not have.
        """
        known = {name: getattr(self, name).numel() for name in PARTS}
        sizes = [choose(known, name, "part of a student") for name in parts]
        if not all(sizes):
            missing = " and no ".join(name for name, size in zip(parts, sizes, strict=True) if not size)
            raise InputError(
                f"This student has no {missing}"
                " to learn; take a solver of two steps or more, on a grid that does not end at 0."
            )
        return sizes

    def split(self, by: Float[Tensor, " m"], parts: Sequence[str]) -> dict[str, Tensor]:
        """A vector over some parts, cut into them; :class:`InputError` for one of another length."""
        sizes = self.sizes(parts)
        if len(by) != sum(sizes):
            raise InputError(
                f"The {' and '.join(parts)} of this student are {sum(sizes)} numbers; got {len(by)}."
            )
        return dict(zip(parts, by.split(sizes), strict=True))

    def zero(self, parts: Sequence[str]) -> Float[Tensor, " m"]:
        """The vector that moves nothing."""
        return torch.zeros(sum(self.sizes(parts)), dtype=torch.float64)

    def moved(self, by: Float[Tensor, " m"], parts: Sequence[str]) -> Solver:
        """The solver with some parts moved, differentiable in ``by`` alone.

        Not to be called from several threads at once: ``functional_call`` swaps the parameters for a while.
        """
        values = {name: p.detach() for name, p in self.named_parameters()}
        values |= {name: values[name] + step for name, step in self.split(by, parts).items()}
        return functional_call(self, values, ())

    @torch.no_grad()
    def move(self, by: Float[Tensor, " m"], parts: Sequence[str]) -> None:
        """Move some parts for good."""
        for name, step in self.split(by, parts).items():
            getattr(self, name).add_(step)

    @torch.no_grad()
    def solver(self) -> Solver:
        """The solver as it is now, without a gradient."""
        return self()


def zeros(size: int) -> nn.Parameter:
    """A parameter of so many zeros, float64."""
    return nn.Parameter(torch.zeros(size, dtype=torch.float64))

"""Students: solvers that can be learned.

A student is a module whose call is its table, and whose parameters at zero are a classic solver to the
bit. It has three: ``coefficients`` on top of the classic weights, ``levels`` (θ of :mod:`s4s_nb.levels`)
and ``offsets`` (ξ) of the levels at which the model is asked. What a method moves is a tuple of names.

Three more are there where they are asked for, and with them every number of the table moves. ``history``
adds all past outputs and states to every row, as what they say of the clean image and of the noise,

    x_{i+1} += Σ_{j≤i} d_ij D_j + σ_{i+1} Σ_{j≤i} e_ij ε_j,     ε_j = (x_j − D_j)/σ_j,

in numbers of O(1); the last row has no e, as there is hardly any noise left in it. ``first`` (ζ) is the
level at which the model is asked first, which offsets leave at σ_0, with its input scaled along,

    s_0 = σ_0 e^ζ,     κ_0 = √((1 + s_0²)/(1 + σ_0²)),

and ``scales`` (η) are those of all inputs, κ_j e^{η_j}.

The classic weights depend on the levels, which matters where those move. Either the coefficients are a
*residual* on the weights of the levels at hand, so that zero stays the classic solver wherever they go (as
in GS, arXiv 2510.17699, eqs. 13–20); or, ``absolute``, the weights are numbers of their own that a move of
the levels leaves as they are (S4S). On the student's own grid the two are one.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from s4s_nb.errors import InputError, choose
from s4s_nb.first import FreeFirst
from s4s_nb.grids import Grid
from s4s_nb.levels import LOG, Clock, Levels, clock_of, decoupled, moved_in
from s4s_nb.schedules import VE, Schedule
from s4s_nb.solvers import Solver

PARTS = ("coefficients", "levels", "offsets")
"""The names of a student's parameters."""
FURTHER = ("history", "first", "scales")
"""Those that it has only where they are asked for."""


class Student(nn.Module):
    """What all students share: levels, offsets, and how parameters are moved.

    A subclass sets ``coefficients`` by their number and gives :meth:`on`, its solver on some levels.

    Args:
        start: the classic solver around which it lies.
        sigmas: its own grid, where the levels start.
        size: how many coefficients it has.
        nfe: evaluations, a free first one among them.
        clock, kind: of :class:`s4s_nb.levels.Levels`, the clock also by name. A grid that the clock takes
            to infinity (log σ, one that ends at 0) stays as it is: the student then has no levels and no
            offsets.
        free_end: whether the last of the levels moves too, by the last of their parameters.
        width: w, bound of the offsets; 0 for none of them.
        reach: what the bound is a part of. "gap": w g tanh ξ_j, of the smallest gap in the clock (LD3).
            "scale": the native time that the network is told is multiplied by 1 + w tanh ξ_j (DLMS,
            DyWeight). "free": s_j e^ξ_j, without a bound (GS).
        schedule, held: what a model level means; see :func:`s4s_nb.levels.decoupled`.
        history: "all" adds d and e of all past outputs and states, N² numbers; "start" the state x_0
            alone, a number a row: x_{i+1} += a_i x_0 (1 + σ_{i+1})/(1 + σ_0), which is a_i times the start
            in the coordinate of a rectified flow (BNS).
        first, scales: whether it has the first asked level, and the input scales.
        free_first: what stands for the first answer, which is then not asked for.
    """

    family: str
    one_table = True
    """Whether all samples have the same table, which least squares are about."""

    def __init__(
        self,
        start: str,
        sigmas: Grid,
        size: int,
        nfe: int,
        clock: Clock | str = LOG,
        kind: str = "softmax",
        width: float = 0.5,
        schedule: Schedule | None = None,
        held: str = "data",
        free_end: bool = False,
        reach: str = "gap",
        history: str = "none",
        first: bool = False,
        scales: bool = False,
        free_first: FreeFirst | None = None,
    ):
        super().__init__()
        self.start, self.sigmas, self.nfe, self.width = start, sigmas, nfe, width
        self.clock, self.schedule, self.held = clock_of(clock, schedule), schedule, held
        self.free_first = free_first
        self.reach = choose({name: name for name in ("gap", "scale", "free")}, reach, "reach of offsets")
        moving = bool(torch.isfinite(self.clock[0](sigmas)).all())
        self.grid = Levels(sigmas, self.clock, kind, free_end) if moving else None
        self.coefficients = zeros(size)
        self.levels = zeros(self.grid.size if self.grid else 0)
        self.offsets = zeros(nfe - 1 if moving and width else 0)
        remembered = choose({"none": 0, "start": nfe, "all": nfe**2}, history, "history of a student")
        self.remembers, self.history = history, further(remembered)
        self.first = further(int(first))
        self.scales = further(nfe if scales else 0)

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
        return self.asked(self.remembering(self.opened(sigmas)), sigmas)

    def opened(self, sigmas: Grid) -> Solver:
        """The solver of the coefficients, with its first answer where that is free."""
        solver = self.table(sigmas)
        return solver if self.free_first is None else solver.with_first(self.free_first)

    def remembering(self, solver: Solver) -> Solver:
        """The solver with its history added."""
        if not self.history.numel():
            return solver
        sigmas, n = solver.sigmas, self.nfe
        A, B, none = solver.A, solver.B, torch.zeros(n, n, dtype=torch.float64)
        if self.remembers == "start":
            own = self.history * (1 + sigmas[1:]) / (1 + sigmas[0])
            A = A + torch.cat([own[:, None], none[:, 1:]], dim=1)
        else:
            step = torch.arange(n)[:, None]
            rows = step >= torch.arange(n)
            inner = rows & (step < n - 1)
            d, e = self.history.split([int(rows.sum()), int(inner.sum())])
            states = sigmas[1:, None] * none.masked_scatter(inner, e) / sigmas[:-1]
            A, B = A + states, B + none.masked_scatter(rows, d) - states
        return replace(solver, A=A, B=B)

    def asked(self, solver: Solver, sigmas: Grid) -> Solver:
        """The solver with the levels at which its model is asked moved, and the scales of its inputs."""
        parts = (self.offsets, self.first, self.scales)
        if not any(part.numel() for part in parts):
            return solver
        before = solver.model_sigmas
        inner = self.moved_on(before[1:], sigmas) if self.offsets.numel() else before[1:]
        opening = before[:1] * self.first.exp() if self.first.numel() else before[:1]
        process, after = self.schedule or VE(), torch.cat([opening, inner])
        kappa = process.alpha(before) / process.alpha(after)
        if self.first.numel():
            kappa = torch.cat([((1 + opening**2) / (1 + before[:1] ** 2)).sqrt(), kappa[1:]])
        if self.scales.numel():
            kappa = kappa * self.scales.exp()
        return decoupled(solver, after, process, self.held, kappa)

    def moved_on(self, asked: Tensor, sigmas: Grid) -> Tensor:
        """Model levels after the first, moved by the offsets."""
        if self.reach == "free":
            return asked * self.offsets.exp()
        by = self.width * self.offsets.tanh()
        if self.reach == "gap":
            return moved_in(self.clock, asked, by * self.clock[0](sigmas).diff().abs().min())
        process = self.schedule or VE()
        return moved_in((process.time, process.level), asked, by * process.time(asked))

    def sizes(self, parts: Sequence[str] = PARTS) -> list[int]:
        """How many numbers some parameters have.

        Raises:
            InputError: an unknown name, or a parameter that this student does not have.
        """
        known = {name: getattr(self, name).numel() for name in PARTS + FURTHER}
        sizes = [choose(known, name, "part of a student") for name in parts]
        if not all(sizes):
            missing = [name for name, size in zip(parts, sizes, strict=True) if not size]
            cure = (
                'make it with history="all", first=True or scales=True.'
                if set(missing) & set(FURTHER)
                else "take a solver of two steps or more, on a grid that does not end at 0."
            )
            raise InputError(f"This student has no {' and no '.join(missing)} to learn; {cure}")
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


def further(size: int) -> Tensor:
    """A parameter of so many zeros; none, which no state of a run holds, where there are none."""
    return zeros(size) if size else torch.zeros(0, dtype=torch.float64)

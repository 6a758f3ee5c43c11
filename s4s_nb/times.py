"""Learnable levels: grids that stay grids, and levels of their own for the model.

A clock τ is a monotone function of the level: σ itself, log σ, or the native time of a process. A grid
of N steps divides the way from τ_0 to τ_N, whose ends are exact, by N − 1 free numbers θ:

    softmax   u = softmax(log u° + (θ, 0)),       τ_i = τ_0 + (τ_N − τ_0) Σ_{k≤i} u_k     (LD3, DSS)
    sticks    p_j = sigmoid(logit p°_j + θ_j),    τ_i = τ_N + (τ_0 − τ_N) Π_{j≤i} p_j     (GS, eq. 14)

with u° or p° the shares of a reference grid, which is θ = 0. The model may be asked at levels beside
those of the steps ("decoupled", LD3): ξ_j moves one in the clock by at most a part w of the smallest gap g,

    τ(s_j) = τ_j + w g tanh ξ_j,      s_0 = σ_0,

so that none leaves its place between its neighbours, and none stops for lack of a gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.errors import InputError, choose
from s4s_nb.families import Family
from s4s_nb.grids import Grid, check_grid
from s4s_nb.schedules import VE, Schedule
from s4s_nb.solvers import Solver

Clock = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""τ(σ) and its inverse; of a schedule (schedule.time, schedule.level)."""
LOG: Clock = (torch.log, torch.exp)


def softmax_shares(shares: Tensor, theta: Tensor) -> Tensor:
    """Share of the way that lies behind each inner node, from that of every step at θ = 0."""
    logits = shares.log() + torch.cat([theta, theta.new_zeros(1)])
    return logits.softmax(0).cumsum(0)[:-1]


def stick_shares(shares: Tensor, theta: Tensor) -> Tensor:
    """The same by sticks: a step leaves the part p_j of what was left."""
    left = 1 - shares.cumsum(0)[:-1]
    kept = left / torch.cat([left.new_ones(1), left[:-1]])
    return 1 - torch.sigmoid(kept.logit() + theta).cumprod(0)


KINDS = {"softmax": softmax_shares, "sticks": stick_shares}


@dataclass(frozen=True, eq=False)
class Levels:
    """θ (N − 1,) → N + 1 levels, differentiable; 0 is the reference grid.

    Raises:
        InputError: an unknown kind, or a reference that the clock takes to infinity.
    """

    reference: Grid
    clock: Clock = LOG
    kind: str = "softmax"

    def __post_init__(self):
        choose(KINDS, self.kind, "kind of grid parameters")
        if not torch.isfinite(self.clock[0](check_grid(self.reference))).all():
            raise InputError("This clock takes a level of the grid to infinity; choose another clock.")

    @property
    def size(self) -> int:
        """How many parameters."""
        return len(self.reference) - 2

    def __call__(self, theta: Float[Tensor, " m"]) -> Grid:
        """The levels."""
        tau, level = self.clock[0](self.reference), self.clock[1]
        shares = tau.diff() / (tau[-1] - tau[0])
        inner = level(tau[0] + (tau[-1] - tau[0]) * KINDS[self.kind](shares, theta))
        return torch.cat([self.reference[:1], inner, self.reference[-1:]])


def decoupled(
    solver: Solver, model_sigmas: Float[Tensor, " n"], schedule: Schedule | None = None, held: str = "data"
) -> Solver:
    """The same solver with its model asked at levels s_j of their own.

    Its input is the state x̃ itself, or, with the ``schedule`` of the process, what stays is the
    network's own input x_t = α x̃ and only its time moves: κ_j = α(σ_j)/α(s_j). What is held of the
    answer is the clean image D_j, as DLMS does with a data-predicting network; or the noise that it
    implies at s_j, as LD3 and GS do,

        ε_j = (κ_j x_j − D_j)/s_j,    to be used as the image x_j − σ_j ε_j = (1 − κ_j r_j) x_j + r_j D_j,

    r_j = σ_j/s_j, which is linear in what the table mixes anyway.

    Raises:
        InputError: ``held`` is neither "data" nor "noise".
    """
    choose({"data": 0, "noise": 0}, held, "meaning of a model level")
    process = schedule or VE()
    sigmas = solver.model_sigmas
    kappa = process.alpha(sigmas) / process.alpha(model_sigmas)
    A, B = solver.A, solver.B
    if held == "noise":
        r = sigmas / model_sigmas
        A, B = A + B * (1 - kappa * r), B * r
    return Solver(solver.name, solver.sigmas, A, B, model_sigmas, kappa, solver.info)


@dataclass(frozen=True, eq=False)
class Joint:
    """A family on moving levels: coefficients, levels and offsets of the model levels, in one.

    family: (coefficients, levels) → solver; residual or absolute, as it was made. Its own grid is
        where the levels start.
    clock, kind: of :class:`Levels`.
    width: w, bound of the offsets as a part of the smallest gap; 0 for none.
    schedule, held: what a model level means; see :func:`decoupled`.
    """

    family: Family
    clock: Clock = LOG
    kind: str = "softmax"
    width: float = 0.5
    schedule: Schedule | None = None
    held: str = "data"

    @property
    def levels(self) -> Levels:
        """θ → grid."""
        return Levels(self.family.sigmas, self.clock, self.kind)

    @property
    def sizes(self) -> dict[str, int]:
        """How many parameters each part has."""
        nfe = self.family.table(self.family.zero).nfe
        offsets = {"offsets": nfe - 1} if self.width else {}
        return {"coefficients": self.family.size, "levels": self.levels.size, **offsets}

    @property
    def zero(self) -> dict[str, Tensor]:
        """The classic solver on the reference grid."""
        return {name: torch.zeros(size, dtype=torch.float64) for name, size in self.sizes.items()}

    def table(self, values: dict[str, Tensor]) -> Solver:
        """The solver of all parts."""
        grid = self.levels(values["levels"])
        solver = self.family.table(values["coefficients"], grid)
        if not self.width:
            return solver
        time, level = self.clock
        gap = time(grid).diff().abs().min()
        tau = time(solver.model_sigmas[1:]) + self.width * gap * torch.tanh(values["offsets"])
        return decoupled(solver, torch.cat([grid[:1], level(tau)]), self.schedule, self.held)

    def part(self, names: Sequence[str], at: dict[str, Tensor] | None = None) -> Family:
        """The family of some parts, the others held; its zero is ``at``, or the classic solver.

        Raises:
            InputError: an unknown part.
        """
        at = at or self.zero
        sizes = [choose(self.sizes, name, "part") for name in names]

        def build(parameters: Tensor, _: Tensor) -> Solver:
            return self.table(self.moved(at, names, parameters))

        own = self.levels(at["levels"]).detach()
        return Family(f"{self.family.name}: {', '.join(names)}", self.family.start, sum(sizes), own, build)

    def moved(self, at: dict[str, Tensor], names: Sequence[str], by: Tensor) -> dict[str, Tensor]:
        """``at`` with the parameters of some parts moved."""
        steps = cast(tuple[Tensor, ...], by.split([self.sizes[name] for name in names]))
        return at | {name: at[name] + step for name, step in zip(names, steps, strict=True)}

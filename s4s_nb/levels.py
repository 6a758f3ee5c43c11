"""Learnable levels: grids that stay grids, and levels of their own for the model.

A clock τ is a monotone function of the level: σ itself, log σ, or the native time of a process. A grid
of N steps divides the way from τ_0 to τ_N, whose ends are exact, by N − 1 free numbers θ:

    softmax   u = softmax(log u° + (θ, 0)),       τ_i = τ_0 + (τ_N − τ_0) Σ_{k≤i} u_k     (LD3, DSS)
    sticks    p_j = sigmoid(logit p°_j + θ_j),    τ_i = τ_N + (τ_0 − τ_N) Π_{j≤i} p_j     (GS, eq. 14)

with u° or p° the shares of a reference grid, which is θ = 0. The last level may move as well, by one more
number: σ_N = σ_N° e^θ_N, and the way that is divided is the one to there. The model may be asked at levels
beside those of the steps ("decoupled", LD3): ξ_j moves one in the clock by at most a part w of the smallest
gap g,

    τ(s_j) = τ_j + w g tanh ξ_j,      s_0 = σ_0,

so that none leaves its place between its neighbours, and none stops for lack of a gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.errors import DivergedError, InputError, choose
from s4s_nb.grids import Grid, check_grid
from s4s_nb.schedules import VE, Schedule, native_clock
from s4s_nb.single_step import LADDERS
from s4s_nb.solvers import Solver

Clock = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""τ(σ) and its inverse; of a schedule (schedule.time, schedule.level)."""
LOG: Clock = (torch.log, torch.exp)


def clock_of(clock: Clock | str, schedule: Schedule | None = None) -> Clock:
    """A clock, or that of a name: log σ, σ itself, or the native time of a process, which is that of
    :func:`s4s_nb.schedules.native_clock` where it has none.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(clock, str):
        return clock
    native, plain = native_clock(schedule), VE()
    named = {"log": LOG, "sigma": (plain.time, plain.level), "native": (native.time, native.level)}
    return choose(named, clock, "clock")


def softmax_shares(shares: Tensor, theta: Tensor) -> Tensor:
    """Share of the way that lies behind each inner node, from that of every step at θ = 0."""
    logits = shares.log() + torch.cat([theta, theta.new_zeros(1)])
    return logits.softmax(0).cumsum(0)[:-1]


def stick_shares(shares: Tensor, theta: Tensor) -> Tensor:
    """The same by sticks: a step leaves the part p_j of what was left."""
    left = 1 - shares.cumsum(0)[:-1]
    kept = left / torch.cat([left.new_ones(1), left[:-1]])
    return 1 - torch.sigmoid(kept.logit() + theta).cumprod(0)


SHARES = {"softmax": softmax_shares, "sticks": stick_shares}
"""How θ divides the way, by name."""


def moved_in(clock: Clock, sigmas: Tensor, by: Tensor) -> Tensor:
    """Levels whose time in a clock is moved; by 0 they stay to the bit, whatever the clock rounds.

    Raises:
        DivergedError: a move is no finite number, or leads where the clock's process has no time, so that
            no clock could tell its level.
    """
    if not torch.isfinite(by).all():
        raise DivergedError("Levels are moved by NaN or infinity: their parameters are no numbers.")
    time, level = clock
    tau = time(sigmas)
    try:
        moved = level(tau + by)
    except InputError as outside:  # said of a user's times; here it is the parameters that went too far
        raise DivergedError(f"Levels are moved too far. {outside}") from outside
    return sigmas * (moved / level(tau))


@dataclass(frozen=True, eq=False)
class Levels:
    """θ (N − 1,), or (N,) with a free end, → N + 1 levels, differentiable; θ = 0 is the reference grid, to
    the bit.

    Raises:
        InputError: an unknown kind, a reference that the clock takes to infinity, or a free end at 0.
        DivergedError: when called with θ so far out that two levels are the same number.
    """

    reference: Grid
    clock: Clock = LOG
    kind: str = "softmax"
    free_end: bool = False

    def __post_init__(self):
        choose(SHARES, self.kind, "kind of grid parameters")
        if not torch.isfinite(self.clock[0](check_grid(self.reference))).all():
            raise InputError("This clock takes a level of the grid to infinity; choose another clock.")
        if self.free_end and self.reference[-1] == 0:
            raise InputError("A last level of 0 does not move; end the grid above 0, or hold its end.")

    @property
    def size(self) -> int:
        """How many parameters."""
        return len(self.reference) - 2 + self.free_end

    def __call__(self, theta: Float[Tensor, " m"]) -> Grid:
        """The levels."""
        last = self.reference[-1:]
        if self.free_end:
            theta, last = theta[:-1], last * theta[-1:].exp()
            check_apart(-torch.cat([self.reference[:1], last, torch.zeros_like(last)]))
        time, divided = self.clock[0], SHARES[self.kind]
        tau, end = time(self.reference), time(last)
        before, way = tau[-1] - tau[0], end - tau[0]
        shares = tau.diff() / before
        there, here = divided(shares, theta), divided(shares, torch.zeros_like(theta))
        by = way * (there - here) + (way - before) * here
        check_apart(torch.cat([tau[:1], tau[1:-1] + by, end]) / way)  # what no clock need be asked for
        inner = moved_in(self.clock, self.reference[1:-1], by)
        levels = torch.cat([self.reference[:1], inner, last])
        check_apart(-levels)
        return levels


def check_apart(rising: Tensor) -> None:
    """:class:`DivergedError` unless every number is larger than the one before it."""
    if not (rising.diff() > 0).all():
        raise DivergedError("Levels have run together, or are no numbers: their parameters are too large.")


def decoupled(
    solver: Solver,
    model_sigmas: Float[Tensor, " n"],
    schedule: Schedule | None = None,
    held: str = "data",
    scales: Float[Tensor, " n"] | None = None,
) -> Solver:
    """The same solver with its model asked at levels s_j of their own.

    Its input is the state x̃ itself, or, with the ``schedule`` of the process, what stays is the
    network's own input x_t = α x̃ and only its time moves: κ_j = α(σ_j)/α(s_j). What is held of the
    answer is the clean image D_j, as DLMS does with a data-predicting network; or the noise that it
    implies at s_j, as LD3 and GS do,

        ε_j = (κ_j x_j − D_j)/s_j,    to be used as the image x_j − σ_j ε_j = (1 − κ_j r_j) x_j + r_j D_j,

    r_j = σ_j/s_j, which is linear in what the table mixes anyway. A solver that has model levels and
    input scales already is moved on from those.

    Args:
        scales: κ_j in place of those of the schedule.

    Raises:
        InputError: ``held`` is neither "data" nor "noise".
    """
    choose({"data": 0, "noise": 0}, held, "meaning of a model level")
    process = schedule or VE()
    sigmas = solver.model_sigmas
    kappa = process.alpha(sigmas) / process.alpha(model_sigmas) if scales is None else scales
    A, B = solver.A, solver.B
    if held == "noise":
        r = sigmas / model_sigmas
        A, B = A + B * (1 - kappa * r) * solver.kappa, B * r
    return replace(solver, A=A, B=B, model_sigmas=model_sigmas, kappa=solver.kappa * kappa)


def solver_on(
    start: str,
    levels: Sequence[float] | Tensor,
    asked: Sequence[float] | Tensor | None = None,
    *,
    schedule: Schedule | None = None,
    held: str = "noise",
    lower_final: bool = False,
) -> Solver:
    """A classic solver on anybody's levels, as learned by LD3, GS or another code, or set by hand.

    Args:
        start: the classic solver for which they were learned.
        levels: σ_0 > … > σ_N, in σ̃ = σ/α; of native times ``schedule.level`` gives them.
        asked: the levels s_0 … s_{N−1} at which the model is asked, if those are others; one more is left
            out, as LD3's files have it.
        schedule: the process, where the network's input is held (:func:`decoupled`).
        held: what a model level of its own means, "noise" as LD3 and GS have it, or "data".
        lower_final: lower the order at the end; LD3 does so below ten steps for DPM-Solver++ and UniPC.

    Raises:
        InputError: an unknown solver, levels that are no grid, or another number of those that are asked.

    Example:
        >>> times = torch.load("best_v2.pt", weights_only=True)["best_t_steps"]  # LD3's two lists in one
        >>> levels, asked = VE().level(times.double()).chunk(2)
        >>> solver = solver_on("ipndm-3", levels, asked)
    """
    sigmas = check_grid(torch.as_tensor(levels, dtype=torch.float64))
    count = len(LADDERS[start]) if start in LADDERS else 1
    solver = make_solver(start, count * (len(sigmas) - 1), lambda steps: sigmas, lower_final, schedule)
    if asked is None:
        return solver
    own = torch.as_tensor(asked, dtype=torch.float64)
    if own.ndim != 1 or len(own) - solver.nfe not in (0, 1):
        raise InputError(
            f"{start} asks its model {solver.nfe} times on {len(sigmas)} levels; got {own.numel()} of those"
            " at which to ask."
        )
    return decoupled(solver, own[: solver.nfe], schedule, held)

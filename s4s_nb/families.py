"""Families of solvers: differentiable functions from a few O(1) parameters to a table.

Parameters are offsets from a classic solver, so that zero is that solver exactly. Its coefficients depend
on the levels, which matters where those move. Either the parameters are a *residual* on the coefficients
of the levels at hand, so that zero stays the classic solver wherever they go (as in GS, arXiv 2510.17699,
eqs. 13–20); or, ``absolute``, the coefficients are numbers of their own that a move of the levels leaves
as they are (S4S). On a family's own grid the two are one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from s4s_nb.classic import MULTISTEP, UNIPC
from s4s_nb.errors import InputError, choose
from s4s_nb.grids import Grid, check_grid
from s4s_nb.multistep import linear_multistep, predictor_corrector, unipc_weights
from s4s_nb.single_step import LADDERS, NODES, Step, ladder_steps, single_step
from s4s_nb.solvers import Solver

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Family:
    """A function from ``size`` parameters, and levels, to a solver; at 0 and ``sigmas`` it is ``start``.

    name: linear multistep, predictor-corrector or single-step.
    start: the classic solver around which it lies.
    sigmas: its own grid.
    build: (parameters, levels) → solver, without checks; call :meth:`table`.
    """

    name: str
    start: str
    size: int
    sigmas: Grid
    build: Callable[[Float[Tensor, " m"], Grid], Solver]

    @property
    def zero(self) -> Float[Tensor, " m"]:
        """The parameters of the classic solver."""
        return torch.zeros(self.size, dtype=torch.float64)

    def table(self, parameters: Float[Tensor, " m"], sigmas: Grid | None = None) -> Solver:
        """The solver on the family's own grid, or on other levels; differentiable in both arguments.

        Raises:
            InputError: another number of parameters or levels, levels that are no grid, or one that
                ends at 0 while the family's own does not, or the other way round.
        """
        own = self.sigmas
        levels = own if sigmas is None else sigmas
        if len(parameters) != self.size:
            raise InputError(f"This family has {self.size} parameters; got {len(parameters)}.")
        if len(check_grid(levels)) != len(own) or (levels[-1] == 0) != (own[-1] == 0):
            raise InputError(
                f"This family needs {len(own)} levels that end {'at' if own[-1] == 0 else 'above'} 0;"
                f" got {len(levels)} that end at {levels[-1].item():.3g}."
            )
        return self.build(parameters, levels)


@dataclass(frozen=True)
class Offsets:
    """Parameters → a matrix to be added to classic weights, with zeros where none may be.

    free: where a weight may move; the last free entry of a row is that of its newest output.
    consistent: rows of the offsets sum to 0, so that those of the weights stay 1 and a constant
        output is integrated exactly; the newest entry then has no parameter of its own.
    """

    free: Bool[Tensor, "rows columns"]
    consistent: bool = False

    @property
    def newest(self) -> Bool[Tensor, "rows columns"]:
        """The last free entry of every row."""
        after = self.free.flip(1).cumsum(1).flip(1)
        return self.free & (after == 1)

    @property
    def moved(self) -> Bool[Tensor, "rows columns"]:
        """Where a parameter sits."""
        return self.free & ~self.newest if self.consistent else self.free

    @property
    def size(self) -> int:
        """How many parameters."""
        return int(self.moved.sum())

    def __call__(self, parameters: Float[Tensor, " m"]) -> Float[Tensor, "rows columns"]:
        """The offsets."""
        matrix = torch.zeros(self.free.shape, dtype=torch.float64)
        matrix = matrix.masked_scatter(self.moved, parameters)
        return matrix - matrix.sum(1, keepdim=True) * self.newest if self.consistent else matrix


def band(rows: int, order: int, ahead: int = 0) -> Bool[Tensor, "rows columns"]:
    """Row i of an (rows, rows + ahead) matrix may use the ``order`` newest of its i + 1 + ahead outputs."""
    return torch.ones(rows, rows + ahead).tril(ahead).triu(ahead + 1 - order).bool()


def check_start(classic: Tensor, free: Tensor, start: str, order: int) -> None:
    """:class:`InputError` if a classic solver has weights where the family has none."""
    if classic[~free].any():
        raise InputError(f"{start} mixes more than {order} outputs; ask for a higher order.")


def coefficients_at(classic: Callable[[Grid], T], sigmas: Grid, absolute: bool) -> Callable[[Grid], T]:
    """Classic coefficients as a function of the levels: those of ``sigmas`` everywhere if ``absolute``."""
    own = classic(sigmas)  # once: on a fixed grid, learning asks for them at every update
    return lambda levels: own if absolute or levels is sigmas else classic(levels)


def linear_multistep_family(
    start: str,
    sigmas: Grid,
    order: int = 3,
    consistent: bool = False,
    lower_final: bool = False,
    absolute: bool = False,
) -> Family:
    """S4S's linear multistep family around a classic one.

        x_i = a_i x_{i−1} + b_i Σ_{j<min(i,k)} c_ij f_{i−1−j},     c = classic + parameters

    with the exact factors a_i, b_i of ``start``'s form: f is the noise ε, the data prediction D, or the
    velocity ε − D (:mod:`s4s_nb.multistep`). The normalised c are O(1), Euler is c = (1, 0, …), and a
    step has as many as there is history, k at most: m = kN − k(k−1)/2 parameters (S4S, section 3), N
    fewer if c sums to 1.

    Args:
        start: a linear multistep solver, as ipndm-3 (noise), dpmpp-3m (data), flow-ab3 (velocity).
        sigmas: the grid, N+1 levels.
        order: k, how many past outputs a step may mix; at least those that ``start`` uses.
        consistent: keep Σ_j c_ij = 1; S4S leaves it free.
        lower_final: start from the classic solver with its order lowered at the end.
        absolute: other levels keep the coefficients of ``sigmas``, instead of the offsets from theirs.

    Raises:
        InputError: ``start`` is unknown or uses more history than ``order``.
    """
    form, weights = choose(MULTISTEP, start, "linear multistep solver")
    classic = coefficients_at(partial(weights, lower_final=lower_final), sigmas, absolute)
    offsets = Offsets(band(len(sigmas) - 1, order), consistent)
    check_start(classic(sigmas), offsets.free, start, order)

    def build(parameters: Tensor, levels: Tensor) -> Solver:
        return linear_multistep(levels, classic(levels) + offsets(parameters), form, f"s4s-{start}")

    return Family("linear multistep", start, offsets.size, sigmas, build)


def predictor_corrector_family(
    start: str,
    sigmas: Grid,
    order: int = 3,
    consistent: bool = False,
    lower_final: bool = False,
    absolute: bool = False,
) -> Family:
    """S4S's predictor–corrector family around UniPC, in data form.

        predict  x̃_i = a_i x_{i−1} + b_i Σ_j p_ij D_{i−1−j},       D_i = D(x̃_i)
        correct  x_i = a_i x_{i−1} + b_i (q_i0 D_i + Σ_j q_i,j+1 D_{i−1−j})

    The corrector uses the evaluation that the next step needs anyway, so it costs none; the last state
    is not corrected. The predictor has m = kN − k(k−1)/2 parameters and the corrector one more than
    the predictor in each of its N − 1 rows: 2m + N − 1 − k in all for N ≥ k.

    Args:
        start: unipc-1-bh1 … unipc-3-bh2.
        sigmas, order, consistent, lower_final, absolute: as in :func:`linear_multistep_family`.

    Raises:
        InputError: ``start`` is no UniPC, or uses more history than ``order``.
    """
    classic_order, variant = choose(UNIPC, start, "predictor-corrector solver")
    unipc = partial(unipc_weights, order=classic_order, variant=variant, lower_final=lower_final)
    classic = coefficients_at(unipc, sigmas, absolute)
    n = len(sigmas) - 1
    p = Offsets(band(n, order), consistent)
    q = Offsets(band(n - 1, order + 1, ahead=1), consistent)
    for weights, offsets in zip(classic(sigmas), (p, q), strict=True):
        check_start(weights, offsets.free, start, order)

    def build(parameters: Tensor, levels: Tensor) -> Solver:
        ours, theirs = parameters.split([p.size, q.size])
        predictor, corrector = classic(levels)
        return predictor_corrector(levels, predictor + p(ours), corrector + q(theirs), f"s4s-{start}")

    return Family("predictor-corrector", start, p.size + q.size, sigmas, build)


def single_step_family(
    start: str, nfe: int, grid: Callable[[int], Grid], nodes: bool = True, consistent: bool = False
) -> Family:
    """S4S's single-step family around DPM-Solver-2S or -3S, or Heun: stages inside every step.

        x_stage = x_i + (σ_{i+1} − σ_i) Σ_j (w_stage,j + c_stage,j) ε_j,     r_stage ← r_stage^exp(ρ)

    with w the classic weights at the nodes r, which are fractions of the step in λ, the parameters c
    free and one ρ for every node inside a step (Heun has none). A full step of s stages has
    s(s + 1)/2 of the c; the last step may have fewer stages, as evaluations are left. Parameters are a
    residual always: w belongs to nodes that move with the levels, and would contradict them if held.

    Args:
        start: heun, dpm-2s or dpm-3s.
        nfe: evaluations, all steps together.
        grid: (steps) → levels.
        nodes: whether the nodes inside the steps are learned.
        consistent: offsets of a stage sum to 0; see :class:`Offsets`.

    Raises:
        InputError: ``start`` is no single-step solver, or the grid ends at 0, where nothing is left
            to learn in a last step.
    """
    choose(LADDERS, start, "single-step solver")
    steps = ladder_steps(start, nfe)
    sigmas = grid(len(steps))
    if sigmas[-1] == 0:
        raise InputError("A single-step family needs a grid whose last level is above 0.")
    stages = [LADDERS[start].index(step) + 1 for step in steps]
    offsets = [Offsets(band(s, s), consistent) for s in stages]
    inside = [NODES.get(step, ()) if nodes else () for step in steps]
    sizes = [o.size + len(r) for o, r in zip(offsets, inside, strict=True)]

    def learned(parameters: Tensor) -> Iterator[Step]:
        for step, o, r, own in zip(steps, offsets, inside, parameters.split(sizes), strict=True):
            c, rho = own.split([o.size, len(r)])
            moved = [fraction ** torch.exp(shift) for fraction, shift in zip(r, rho, strict=True)]
            yield partial(_moved_step, step, moved, o(c))

    def build(parameters: Tensor, levels: Tensor) -> Solver:
        return single_step(levels, list(learned(parameters)), f"s4s-{start}")

    return Family("single-step", start, sum(sizes), sigmas, build)


def _moved_step(
    step: Step, nodes: list[Tensor], offsets: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """A classic step with its nodes moved and offsets added, in units of the step's length."""
    levels, weights = step(a, b, *nodes)
    return levels, weights + (b - a) * offsets


def make_family(
    start: str,
    nfe: int,
    grid: Callable[[int], Grid],
    order: int = 3,
    consistent: bool = False,
    lower_final: bool = False,
) -> Family:
    """The family that a classic solver belongs to, around it, with ``nfe`` evaluations.

    ``order`` and ``lower_final`` are for the families with a memory; a single-step one has none.
    """
    choose(dict.fromkeys((*MULTISTEP, *UNIPC, *LADDERS)), start, "start of a family")
    if start in LADDERS:
        return single_step_family(start, nfe, grid, consistent=consistent)
    build = predictor_corrector_family if start in UNIPC else linear_multistep_family
    return build(start, grid(nfe), order, consistent, lower_final)

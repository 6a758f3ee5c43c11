"""Families of solvers: differentiable functions from a few O(1) parameters to a table.

Parameters are offsets from a classic solver, so that zero is that solver exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.classic import MULTISTEP, linear_multistep
from s4s_nb.errors import InputError, choose
from s4s_nb.grids import Grid
from s4s_nb.solvers import Solver


@dataclass(frozen=True)
class Family:
    """``table(parameters)`` is a solver, differentiable in the (size,) parameters; 0 is ``start``."""

    name: str
    start: str
    size: int
    table: Callable[[Float[Tensor, " m"]], Solver]


def linear_multistep_family(start: str, sigmas: Grid, order: int = 3) -> Family:
    """S4S's linear multistep family around a classic one, on a fixed grid.

        x_i = a_i x_{i−1} + b_i Σ_{j<min(i,k)} c_ij f_{i−1−j},     c = classic + parameters

    with the exact factors a_i, b_i of ``start``'s form: f is the noise, or the data prediction D.
    The normalised c are O(1), Euler is c = (1, 0, …), and a step has as many as there is history,
    k at most: m = kN − k(k−1)/2 parameters (S4S, section 3; free, not constrained to sum to 1).

    Args:
        start: name of a linear multistep solver, such as ipndm-3 (noise) or dpmpp-3m (data).
        sigmas: the grid, N+1 levels.
        order: k, how many past outputs a step may mix; at least those that ``start`` uses.

    Raises:
        InputError: ``start`` is unknown or uses more history than ``order``.
    """
    form, weights_of = choose(MULTISTEP, start, "linear multistep solver")
    n = len(sigmas) - 1
    free = torch.ones(n, n).tril().triu(1 - order).bool()
    classic = weights_of(sigmas)
    if classic[~free].any():
        raise InputError(f"{start} mixes more than {order} outputs; ask for a higher order.")

    def table(parameters: Tensor) -> Solver:
        weights = classic.masked_scatter(free, classic[free] + parameters)
        return linear_multistep(sigmas, weights, form, f"s4s-{start}")

    return Family("linear multistep", start, int(free.sum()), table)

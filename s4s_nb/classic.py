"""The classic solvers by name: each a function from a grid to a table."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from s4s_nb.errors import InputError, choose
from s4s_nb.grids import Grid
from s4s_nb.multistep import (
    Weights,
    dpmpp_weights,
    ipndm_weights,
    linear_multistep,
    polynomial_weights,
    predictor_corrector,
    unipc_weights,
)
from s4s_nb.schedules import Flow, VPLinear
from s4s_nb.single_step import LADDERS, ladder_steps, single_step
from s4s_nb.solvers import Solver

_vp_time, _flow_time = VPLinear().time, Flow().time


def _log_sigma(sigma: Tensor) -> Tensor:
    return sigma.log()


def _identity(sigma: Tensor) -> Tensor:
    return sigma


MULTISTEP: dict[str, tuple[str, Callable[..., Weights]]] = {
    "euler": ("noise", partial(ipndm_weights, order=1)),
    **{f"ab{k}": ("noise", partial(polynomial_weights, order=k, clock=_identity)) for k in (2, 3, 4)},
    **{f"ipndm-{k}": ("noise", partial(ipndm_weights, order=k)) for k in (1, 2, 3, 4)},
    **{f"deis-{k}": ("noise", partial(polynomial_weights, order=k, clock=_vp_time)) for k in (1, 2, 3)},
    "dpmpp-1": ("data", partial(dpmpp_weights, order=1)),
    "dpmpp-2m": ("data", partial(dpmpp_weights, order=2)),
    "dpmpp-3m": ("data", partial(dpmpp_weights, order=3)),
    **{
        f"exp-ab{k}": ("data", partial(polynomial_weights, order=k, clock=_log_sigma, form="data"))
        for k in (2, 3)
    },
    **{
        f"flow-ab{k}": (
            "velocity",
            partial(polynomial_weights, order=k, clock=_flow_time, form="velocity"),
        )
        for k in (1, 2, 3)
    },
}
"""Linear multistep methods: form and weights. DDIM is "euler"."""

UNIPC = {f"unipc-{k}-{bh}": (k, bh) for k in (1, 2, 3) for bh in ("bh1", "bh2")}

NAMES = (*MULTISTEP, *UNIPC, *LADDERS)


def make_solver(name: str, nfe: int, grid: Callable[[int], Grid], lower_final: bool = False) -> Solver:
    """A classic solver with exactly ``nfe`` evaluations; ``grid(steps)`` gives its levels.

    Multistep methods take one step an evaluation. Single-step methods take ⌈nfe/stages⌉ steps, the
    last one with the evaluations that are left (so of a lower order, or Euler).

    Raises:
        InputError: unknown name, or an nfe that a grid ending at 0 does not allow.
    """
    if nfe < 1:
        raise InputError(f"A solver needs at least one evaluation; got nfe = {nfe}.")
    if name in LADDERS:
        steps = ladder_steps(name, nfe)
        solver = single_step(grid(len(steps)), steps, name)
        if solver.nfe != nfe:
            raise InputError(
                f"{name} ends a grid at sigma = 0 with one evaluation, so here it can spend"
                f" {solver.nfe} of them, not {nfe}."
            )
        return solver
    if name in UNIPC:
        sigmas = grid(nfe)
        order, variant = UNIPC[name]
        weights = unipc_weights(sigmas, order, variant, lower_final=lower_final)
        return predictor_corrector(sigmas, *weights, name)
    choose(dict.fromkeys(NAMES), name, "solver")
    form, weights = MULTISTEP[name]
    sigmas = grid(nfe)
    return linear_multistep(sigmas, weights(sigmas, lower_final=lower_final), form, name)

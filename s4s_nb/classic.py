"""The classic solvers by name: each a function from a grid to a table."""

from collections.abc import Callable
from functools import partial
from typing import Literal

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
from s4s_nb.schedules import Flow, Schedule, native_clock
from s4s_nb.single_step import LADDERS, ladder_steps, single_step
from s4s_nb.solvers import Solver

_flow_time = Flow().time


def _log_sigma(sigma: Tensor) -> Tensor:
    return sigma.log()


def _identity(sigma: Tensor) -> Tensor:
    return sigma


MULTISTEP: dict[str, tuple[str, Callable[..., Weights]]] = {
    "euler": ("noise", partial(ipndm_weights, order=1)),
    **{f"ab{k}": ("noise", partial(polynomial_weights, order=k, clock=_identity)) for k in (2, 3, 4)},
    **{f"ipndm-{k}": ("noise", partial(ipndm_weights, order=k)) for k in (1, 2, 3, 4)},
    **{f"deis-{k}": ("noise", partial(polynomial_weights, order=k)) for k in (1, 2, 3)},
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
"""Linear multistep methods: form and weights; those of DEIS still lack their clock. DDIM is "euler"."""

UNIPC = {f"unipc-{k}-{bh}": (k, bh) for k in (1, 2, 3) for bh in ("bh1", "bh2")}

AS_USED = {
    "DDIM": ("euler", False),
    "iPNDM": ("ipndm-3", False),
    "DEIS": ("deis-3", False),
    "DPM-Solver++ 2M": ("dpmpp-2m", True),
    "DPM-Solver++ 3M": ("dpmpp-3m", True),
    "UniPC": ("unipc-3-bh2", True),
}
"""The solvers of papers and libraries, as they are used: name, and whether the order is lowered at the end.
Below 15 steps diffusers does that for the last three, which do far worse at 5 without it."""

ClassicName = Literal[
    "euler",
    "ab2",
    "ab3",
    "ab4",
    "ipndm-1",
    "ipndm-2",
    "ipndm-3",
    "ipndm-4",
    "deis-1",
    "deis-2",
    "deis-3",
    "dpmpp-1",
    "dpmpp-2m",
    "dpmpp-3m",
    "exp-ab2",
    "exp-ab3",
    "flow-ab1",
    "flow-ab2",
    "flow-ab3",
    "unipc-1-bh1",
    "unipc-1-bh2",
    "unipc-2-bh1",
    "unipc-2-bh2",
    "unipc-3-bh1",
    "unipc-3-bh2",
    "heun",
    "dpm-2s",
    "dpm-3s",
]
"""The names of classic solvers, as type checkers and the command line know them."""
NAMES = (*MULTISTEP, *UNIPC, *LADDERS)


def multistep_weights(
    name: str, lower_final: bool = False, schedule: Schedule | None = None
) -> tuple[str, Callable[[Grid], Weights]]:
    """Form and weights of a linear multistep method, the latter as a function of the levels.

    Args:
        schedule: the model's process, in whose native time DEIS integrates (:func:`native_clock`).

    Raises:
        InputError: unknown name.
    """
    form, weights = choose(MULTISTEP, name, "linear multistep solver")
    options = {"clock": native_clock(schedule).time} if name.startswith("deis-") else {}
    return form, partial(weights, lower_final=lower_final, **options)


def make_solver(
    name: str,
    nfe: int,
    grid: Callable[[int], Grid],
    lower_final: bool = False,
    schedule: Schedule | None = None,
) -> Solver:
    """A classic solver with exactly ``nfe`` evaluations; ``grid(steps)`` gives its levels.

    Multistep methods take one step an evaluation. Single-step methods take ⌈nfe/stages⌉ steps, the
    last one with the evaluations that are left (so of a lower order, or Euler).

    Args:
        lower_final: lower the order of a method with a memory at the end.
        schedule: the model's process, for DEIS alone; see :func:`multistep_weights`.

    Raises:
        InputError: unknown name, or an nfe that a grid ending at 0 does not allow.

    Example:
        >>> make_solver("dpmpp-2m", 5, lambda steps: karras(steps, 80.0, 0.002))
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
    form, weights = multistep_weights(name, lower_final, schedule)
    sigmas = grid(nfe)
    return linear_multistep(sigmas, weights(sigmas), form, name)

"""Forward-mode derivatives of a solver's states in its parameters: exact, and all in one pass.

With the table's own derivatives ∂A, ∂B, ∂κ, ∂s (∂ for ∂/∂φ_p, one tangent a parameter)

    U_j = J_D (κ_j T_j + ∂κ_j x_j) + ∂_s D ∂s_j,              T_0 = 0
    T_{i+1} = Σ_j A_ij T_j + B_ij U_j + ∂A_ij x_j + ∂B_ij D_j

The evaluations D_j are shared by all tangents, and a parameter of step i costs nothing before it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import jvp, vmap

from s4s_nb.denoisers import Condition, Denoiser
from s4s_nb.solvers import Solver, combine

Tangents = Float[Tensor, "m ..."]


def table_derivatives(
    table: Callable[[Tensor], Solver], parameters: Float[Tensor, " m"]
) -> tuple[Tensor, ...]:
    """∂A (m, N, N), ∂B (m, N, N), ∂κ (m, N), ∂s (m, N) and ∂σ (m, N + 1) of a table in its parameters."""

    def numbers(p: Tensor) -> tuple[Tensor, ...]:
        moved = table(p)
        return moved.A, moved.B, moved.kappa, moved.model_sigmas, moved.sigmas

    with torch.enable_grad():
        found = torch.autograd.functional.jacobian(numbers, parameters)
    return tuple(derivative.movedim(-1, 0) for derivative in found)


def trajectory_tangents(
    denoise: Denoiser,
    starts: Tensor,
    table: Solver,
    derivatives: Sequence[Tensor],
    cond: Condition | None = None,
) -> tuple[list[Tensor], list[Tangents]]:
    """The states x_0 … x_N (b, …) and their derivatives T_0 … T_N (m, b, …) in the table's parameters.

    The denoiser must be differentiable by torch in forward mode, which rules out flash attention: run
    this under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        derivatives: ∂A, ∂B, ∂κ and ∂s of the table, by :func:`table_derivatives`.
    """
    dA, dB, dkappa, ds = (d.to(starts.device) for d in derivatives)
    ask = partial(denoise, **(cond or {}))
    alive = begun(dA, dB, dkappa, ds)
    states, outputs = [starts], []
    tangents, output_tangents = [starts.new_zeros(len(dA), *starts.shape)], []
    for i in range(table.steps):
        if i == 0 and table.first is not None:
            outputs.append(table.first.answer(starts, cond or {}).to(starts))
            output_tangents.append(torch.zeros_like(tangents[0]))
        else:
            live = alive[:, i]
            inputs = table.kappa[i] * tangents[i][live] + along(dkappa[live, i], states[i])
            D, moved = pushed(
                ask, table.kappa[i] * states[i], table.model_sigmas[i].clone(), inputs, ds[live, i]
            )
            outputs.append(D.clone())  # its memory may be that of the next
            output_tangents.append(torch.zeros_like(tangents[0]).index_put((live,), moved))
        states.append(combine(table.A[i], states) + combine(table.B[i], outputs))
        own = sum(along(dA[:, i, j], states[j]) + along(dB[:, i, j], outputs[j]) for j in range(i + 1))
        tangents.append(combine(table.A[i], tangents) + combine(table.B[i], output_tangents) + own)
    return states, tangents


def along(weights: Float[Tensor, " m"], x: Tensor) -> Tangents:
    """One multiple of x a parameter."""
    return weights.to(x).view(-1, *[1] * x.ndim) * x


def begun(dA: Tensor, dB: Tensor, dkappa: Tensor, ds: Tensor) -> Bool[Tensor, "m evaluations"]:
    """Whether a parameter has had any influence when evaluation i is asked for."""
    rows = ((dA != 0) | (dB != 0)).any(2).cumsum(1).roll(1, 1)
    rows[:, 0] = 0
    return (rows + ((dkappa != 0) | (ds != 0)).cumsum(1)) > 0


def pushed(
    function: Callable[..., Tensor], x: Tensor, sigma: Tensor, dx: Tangents, dsigma: Tangents
) -> tuple[Tensor, Tangents]:
    """function(x, σ) and its derivatives along every (dx, dσ)."""
    if not len(dx):
        return function(x, sigma), dx
    if not dsigma.any():  # the usual case, in which σ need not be traced
        return vmap(lambda d: jvp(lambda y: function(y, sigma), (x,), (d,))[:2], out_dims=(None, 0))(dx)
    along_both = vmap(lambda d, e: jvp(function, (x, sigma), (d, e))[:2], out_dims=(None, 0))
    return along_both(dx, dsigma)

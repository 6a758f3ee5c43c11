"""Multistep solvers: weights of the outputs so far, and the tables that they make.

With the noise ε = (x − D)/σ, any two numbers a, b and m = a + bσ, the ODE dx/dσ = ε says

    d(x/m)/dσ = f/m²,     f = aε − bD,

so a solver may step x/m and hold, or extrapolate, the output f. A linear multistep method does so by

    x_{i+1} = (m_{i+1}/m_i) x_i + ((σ_{i+1} − σ_i)/m_i) Σ_j W_ij f_j,     f_j = (a x_j − m_j D_j)/σ_j.

Three choices of (a, b) are its forms, here with t = σ/(1 + σ) and the velocity v = ε − D:

    noise form      (1, 0)   x_{i+1} = x_i + (σ_{i+1} − σ_i) Σ_j W_ij ε_j
    data form       (0, 1)   x_{i+1} = (σ_{i+1}/σ_i) x_i + (1 − σ_{i+1}/σ_i) Σ_j W_ij D_j
    velocity form   (1, 1)   x_{i+1}/(1 + σ_{i+1}) = x_i/(1 + σ_i) + (t_{i+1} − t_i) Σ_j W_ij v_j

The last is a rectified flow in its own coordinate x_t = x/(1 + σ) and time t; it needs no flow network,
as every denoiser has a v. (The velocity of VP processes belongs to m = √(1 + σ²), not of this kind, and
its Euler step is not DDIM; it is left out.) Along the ODE dD = −σ dε and df = m dε, so f stands still
where D does: Euler's method, W_ii = 1, is DDIM in every form, and the forms differ from order 2 on.

So a multistep solver is its weights, and a function below that returns (N, N) weights is the heart of
each. Steps before enough history exists use a lower order ("warm-up"); ``lower_final`` also lowers
the order towards the end. A last level of 0 is the limit: x = D in data form, an ordinary step to 0
in the others.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.errors import DivergedError, InputError, choose
from s4s_nb.grids import Grid, check_grid
from s4s_nb.solvers import Solver

Weights = Float[Tensor, "levels-1 levels-1"]
"""A row a step; N = levels − 1 of them, checked against the grid beside it."""


# ---------------------------------------------------------------- weights → tables


FORMS = {"noise": (1.0, 0.0), "data": (0.0, 1.0), "velocity": (1.0, 1.0)}
"""The numbers (a, b) of a form's output f = aε − bD and scale m = a + bσ (module docstring)."""


def linear_multistep(sigmas: Grid, weights: Weights, form: str, name: str = "multistep") -> Solver:
    """The table of a linear multistep method from its weights (module docstring, any form)."""
    return Solver(name, sigmas, *_rows(sigmas, weights, form), info={"form": form})


def _rows(sigmas: Grid, weights: Weights, form: str) -> tuple[Tensor, Tensor]:
    """A and B of x_{i+1} = (m_{i+1}/m_i) x_i + Σ_j step_ij (a x_j − m_j D_j)/σ_j."""
    a, b = choose(FORMS, form, "form")
    m, now = a + b * sigmas, sigmas[:-1]
    step = (sigmas.diff() / m[:-1])[:, None] * weights
    return torch.diag(m[1:] / m[:-1]) + a * step / now, -step * m[:-1] / now


def predictor_corrector(
    sigmas: Grid, predictor: Weights, corrector: Float[Tensor, "levels-2 levels-1"], name: str
) -> Solver:
    """Data-form multistep whose states are corrected once the output at the new level is known.

    The prediction x_i and its correction share the factor of x_{i−1}, so with R_i the data-form
    prefactor 1 − σ_i/σ_{i−1} the corrected state is x_i + R_i Σ_j (corrector_{i−1,j} −
    predictor_{i−1,j}) D_j, where j runs to i. The next step starts from it: no extra evaluation,
    and none left for a correction of the last state. ``corrector`` has a row for each state
    1 … N−1 and weights of D_0 … D_i in it.
    """
    A, B = _rows(sigmas, predictor, "data")
    prefactor = (1 - sigmas[1:] / sigmas[:-1])[:-1, None]
    correction = prefactor * (corrector - predictor[:-1])
    shifted = torch.cat([torch.zeros_like(B[:1]), correction])  # row i corrects state i
    return Solver(name, sigmas, A, B + torch.diagonal(A)[:, None] * shifted, info={"form": "data"})


def orders(sigmas: Grid, order: int, lower_final: bool, data_form: bool = False) -> list[int]:
    """Order of each step: warm-up, the limit at σ_N = 0 in data form, lower order at the end."""
    n = len(check_grid(sigmas)) - 1
    per_step = [min(i + 1, order, n - i if lower_final else order) for i in range(n)]
    if data_form and sigmas[-1] == 0:
        per_step[-1] = 1
    return per_step


def _weights(n: int, rows: list[Tensor]) -> Float[Tensor, "{n} {n}"]:
    """Stack rows of weights given newest first, [W_ii, W_i,i−1, …], into a matrix."""
    padded = [
        torch.cat([torch.zeros(i + 1 - len(r)), r.flip(0), torch.zeros(n - 1 - i)]).double()
        for i, r in enumerate(rows)
    ]
    return torch.stack(padded)


# ---------------------------------------------------------------- Adams–Bashforth, DEIS

ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def ipndm_weights(sigmas: Grid, order: int = 4, lower_final: bool = False) -> Weights:
    """Adams–Bashforth weights of a uniform grid on any grid (Zhang and Chen 2023; Liu et al. 2022)."""
    per_step = orders(sigmas, order, lower_final)
    rows = [torch.tensor(choose(ADAMS_BASHFORTH, k, "order"), dtype=torch.float64) for k in per_step]
    return _weights(len(per_step), rows)


def polynomial_weights(
    sigmas: Grid,
    order: int,
    clock: Callable[[Tensor], Tensor],
    form: str = "noise",
    lower_final: bool = False,
) -> Weights:
    """Weights that integrate the polynomial through the last ``order`` outputs exactly.

    With ℓ_j the Lagrange polynomials of the nodes in the time τ = clock(σ), and m = a + bσ of the form,

        W_ij = ∫ ℓ_j(τ(σ)) dσ/m² / ∫ dσ/m²     over the step.

    Noise form with τ = σ is Adams–Bashforth on a non-uniform grid, with native time tAB-DEIS (Zhang
    and Chen 2023, eq. 15), with τ = log σ what diffusers calls DEIS. Data form with τ = log σ is the
    exponential Adams–Bashforth method behind DPM-Solver++. Velocity form with τ = σ/(1 + σ) is
    Adams–Bashforth for a rectified flow in its own time t, as dσ/m² = dt.
    """
    a, b = choose(FORMS, form, "form")
    rows = []
    for i, k in enumerate(orders(sigmas, order, lower_final, data_form=form == "data")):
        if k == 1:
            rows.append(torch.ones(1, dtype=torch.float64))
            continue
        points, measure = _quadrature(sigmas[i], sigmas[i + 1])
        measure = measure / (a + b * points) ** 2
        basis = lagrange(clock(sigmas[i - k + 1 : i + 1].flip(0)), clock(points))
        rows.append(basis @ measure / measure.sum())
    return _weights(len(rows), rows)


def _quadrature(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre points and weights of ∫ dσ from b to a: in log σ, or in σ^(1/4) if b is 0."""
    u, w = _gauss_legendre(64)
    if b == 0:
        return a * u**4, 4 * a * u**3 * w
    points = torch.exp(b.log() + u * (a.log() - b.log()))
    return points, points * (a.log() - b.log()) * w


def lagrange(nodes: Float[Tensor, " k"], points: Float[Tensor, " q"]) -> Float[Tensor, "k q"]:
    """The polynomials ℓ_j with ℓ_j(node_m) = δ_jm, at ``points``."""
    k = len(nodes)
    rows = []
    for j in range(k):
        others = torch.arange(k) != j
        factors = (points[None] - nodes[others, None]) / (nodes[j] - nodes[others, None])
        rows.append(factors.prod(0))
    return torch.stack(rows)


@lru_cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2


# ---------------------------------------------------------------- DPM-Solver++, UniPC


def dpmpp_weights(sigmas: Grid, order: int = 3, lower_final: bool = False) -> Weights:
    """DPM-Solver++ multistep 1, 2M, 3M (Lu et al. 2022b, algorithm 2; 3M as in their code).

    The published 3M weighs the second difference with φ_3, half of what the quadratic interpolant
    needs, so its order of convergence is 2, with a smaller constant than 2M's; notebook 02 measures
    it. :func:`polynomial_weights` in data form and log σ is of order 3.
    """
    if order not in (1, 2, 3):
        raise InputError(f"DPM-Solver++ multistep has orders 1, 2 and 3; got {order}.")
    h = -sigmas.log().diff()  # steps in λ, infinite only at a last level of 0
    rows = []
    for i, k in enumerate(orders(sigmas, order, lower_final, data_form=True)):
        if k == 1:
            rows.append(torch.ones(1, dtype=torch.float64))
            continue
        r0 = h[i - 1] / h[i]
        if k == 2:
            rows.append(torch.stack([1 + 1 / (2 * r0), -1 / (2 * r0)]))
            continue
        r1 = h[i - 2] / h[i]
        # Differences as combinations of (D_i, D_{i−1}, D_{i−2}).
        d10 = torch.stack([1 / r0, -1 / r0, 0 * r0])
        d11 = torch.stack([0 * r1, 1 / r1, -1 / r1])
        d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
        d2 = (d10 - d11) / (r0 + r1)
        phi1, phi2, phi3 = _phi(h[i])
        newest = torch.tensor([1.0, 0, 0], dtype=torch.float64)
        rows.append(newest - phi2 / phi1 * d1 + phi3 / phi1 * d2)
    return _weights(len(rows), rows)


def _phi(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """e^−h − 1 and its remainders φ_2 = φ_1/h + 1, φ_3 = φ_2/h − 1/2, as DPM-Solver++ writes them."""
    phi1 = torch.expm1(-h)
    phi2 = phi1 / h + 1
    return phi1, phi2, phi2 / h - 0.5


def unipc_weights(
    sigmas: Grid, order: int = 3, variant: str = "bh2", lower_final: bool = False
) -> tuple[Weights, Float[Tensor, "levels-2 levels-1"]]:
    """Predictor and corrector weights of UniPC in data form (Zhao et al. 2023, algorithms 1 and 2).

    B(h) = −h for bh1 and e^−h − 1 for bh2. UniP of order 2 and UniC of order 1 use the weight 1/2,
    as the authors do. The corrector raises the order by one; the last state is not corrected.
    """
    if order not in (1, 2, 3):
        raise InputError(f"UniPC has orders 1, 2 and 3 here; got {order}.")
    lam = -sigmas.log()
    if (lam.diff() == 0).any():  # the equations for its weights are then singular
        raise DivergedError("Two levels have the same logarithm, in which UniPC steps: move them apart.")
    per_step = orders(sigmas, order, lower_final, data_form=True)
    predictor, corrector = [], []
    for i, k in enumerate(per_step):
        h = lam[i + 1] - lam[i]
        newest = torch.zeros(k + 1, dtype=torch.float64)
        newest[1] = 1.0  # weights of (D_{i+1}, D_i, …, D_{i−k+1})
        if k == 1 and i == len(per_step) - 1:
            predictor.append(newest[1:])  # also the limit h = ∞ at σ_N = 0
            break
        ratios = torch.cat([(lam[i - k + 1 : i].flip(0) - lam[i]) / h, torch.ones(1).double()])
        scale, moments = _unipc_moments(h, k, variant)
        powers = ratios[None] ** torch.arange(k)[:, None]
        half = torch.full((1,), 0.5, dtype=torch.float64)
        rho_p = half if k == 2 else torch.linalg.solve(powers[:-1, :-1], moments[:-1])
        rho_c = half if k == 1 else torch.linalg.solve(powers, moments)
        predictor.append((newest + _differences(rho_p / ratios[:-1] * scale, k))[1:])
        corrector.append(newest + _differences(rho_c / ratios * scale, k))
    n = len(per_step)
    corrections = _weights(n, [torch.ones(1).double(), *corrector[: n - 1]])[1:]
    return _weights(n, predictor), corrections


def _unipc_moments(h: Tensor, order: int, variant: str) -> tuple[Tensor, Tensor]:
    """B(h)/(e^−h − 1) and b_k = k! φ_{k+1}(−h) (−h)/B(h), k = 1 … order."""
    z = -h
    phi1 = torch.expm1(z)
    scale = choose({"bh1": z, "bh2": phi1}, variant, "UniPC variant")
    phi, moments = phi1 / z - 1, []
    for k in range(1, order + 1):
        moments.append(phi * math.factorial(k) / scale)
        phi = phi / z - 1 / math.factorial(k + 1)
    return scale / phi1, torch.stack(moments)


def _differences(rho: Tensor, order: int) -> Tensor:
    """Σ_m ρ_m (D_m − D_i) as weights of (D_{i+1}, D_i, …): m runs over the older outputs, then i+1."""
    older, newer = rho[: order - 1], rho[order - 1 :]
    newer = newer if len(newer) else torch.zeros(1, dtype=torch.float64)
    return torch.cat([newer, -rho.sum()[None], older])

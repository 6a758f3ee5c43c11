"""Grids that are searched for, not written down: DMN from a bound alone, GITS from the teacher's paths.

**DMN** (Xue et al. 2024, "Accelerating diffusion sampling with optimized time steps", section 3; in the
form of their code). A multistep solver in data form ends at

    x_N = (σ_N/σ_0) x_0 + σ_N Σ_i Σ_j J_ij D_j,     J_ij = ∫ e^λ ℓ_ij(λ) dλ over step i,   λ = −log σ,

with ℓ_ij the Lagrange polynomials of the outputs that step i uses, of order min(i + 1, 3, N − i). If D_j
is wrong by at most e_j, the end point is wrong by at most σ_N Σ_j e_j |Σ_i J_ij|, and the grid is that
which makes this smallest. The error of a denoiser is taken to grow with the level: e_j = σ_j in pixels,
and in latents e_j = σ_j²/√(1 + σ_j²), which is σ²/α of a VP process. No model is asked.

**GITS** (Chen et al. 2024, "On the trajectory regularity of ODE-based diffusion sampling", section 5).
Seen from the chord between its first and its last state, every path of a sampler bends alike. With p(x) the
part of x − x_0 that is perpendicular to the chord, one Euler step from level i to level j costs

    c_ij = E ‖p(x_i + (σ_j − σ_i) ε_i)‖ − E ‖p(x_j)‖,     x_i, ε_i on a fine path of a teacher,

and the levels of N steps are those of the path of least cost through the fine grid, by dynamic programming

    V_k(i) = min_{j > i} c_ij + γ V_{k−1}(j),      V_1(i) = c_iM,

whose γ above 1 lets the last steps count for more. No image is judged, nothing is learned.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser
from s4s_nb.errors import InputError
from s4s_nb.grids import Grid, check_grid, log_snr
from s4s_nb.solvers import Solver, trajectory

# ---------------------------------------------------------------- DMN

APART = 3
"""How many of the first steps are bounded one by one, in DMN's code up to seven steps."""


def output_weights(lam: np.ndarray) -> np.ndarray:
    """J_ij = ∫ e^λ ℓ_ij(λ) dλ over step i, (N, N): by the moments of e^λ at the nodes of the step."""
    n, h, J = len(lam) - 1, np.diff(lam), np.zeros((len(lam) - 1, len(lam) - 1))
    orders, grown = np.minimum(np.minimum(np.arange(n) + 1, 3), n - np.arange(n)), np.exp(lam)
    moments = [np.diff(grown)]
    for power in (1, 2):
        moments.append(grown[1:] * h**power - power * moments[-1])
    for order in range(1, orders.max() + 1):
        rows = np.flatnonzero(orders == order)
        columns = rows[:, None] + np.arange(1 - order, 1)
        powers = (lam[columns] - lam[rows, None])[:, None] ** np.arange(order)[:, None]
        moment = np.stack(moments[:order])[:, rows].T[..., None]
        J[rows[:, None], columns] = np.linalg.solve(powers, moment)[..., 0]
    return J


def dmn_bound(lam: np.ndarray, latent: bool = False) -> float:
    """DMN's bound on the error of the end point, without its factor σ_N.

    The first three steps and the last are bounded each for itself, √Σ_j (e_j J_ij)²; the others together,
    Σ_j |Σ_i e_j J_ij|.

    Args:
        lam: λ_0 < … < λ_N, minus the logarithms of the levels.
        latent: whether errors are those of a denoiser in latents (module docstring).
    """
    levels, n = np.exp(-lam[:-1]), len(lam) - 1
    wrong = output_weights(lam) * (levels**2 / np.sqrt(1 + levels**2) if latent else levels)
    alone = np.zeros(n, dtype=bool)
    alone[:APART] = alone[-1] = True
    return float(np.sqrt((wrong[alone] ** 2).sum(1)).sum() + np.abs(wrong[~alone].sum(0)).sum())


@lru_cache
def dmn(steps: int, sigma_max: float, sigma_min: float, latent: bool = False) -> Grid:
    """The levels with the least :func:`dmn_bound` (Xue et al. 2024, algorithm 1).

    Searched from the log-SNR grid in the logarithms of the steps' shares of the way in log σ. The bound has
    kinks, so BFGS is followed by Nelder and Mead's search, which needs no slope; up to seven steps it ends
    where scipy's trust-constr does, which DMN's code uses.

    From eight steps on DMN's code bounds only the first step and the last by themselves. That bound is
    lowest on grids of no use (80, 31, 0.64 … of eight steps), and a search that starts from a usual grid
    stops where rounding leaves it. So here the first three steps are always apart.

    Raises:
        InputError: no step, or ends that do not fall to above 0.

    Example:
        >>> dmn(5, 80.0, 0.002)  # 80, 3.063, 1.114, 0.374, 0.0723, 0.002
    """
    plain = log_snr(steps, sigma_max, sigma_min)
    if steps == 1:
        return plain
    ends = -plain[[0, -1]].log().numpy()

    def inner(logits: np.ndarray) -> np.ndarray:
        parts = np.exp(np.append(logits, 0) - logits.max(initial=0))
        return ends[0] + (ends[1] - ends[0]) * (parts.cumsum() / parts.sum())[:-1]

    def height(logits: np.ndarray) -> float:
        return np.log(dmn_bound(np.concatenate([ends[:1], inner(logits), ends[1:]]), latent))

    found = minimize(height, np.zeros(steps - 1), method="BFGS").x
    options = {"maxiter": 600 * steps, "maxfev": 600 * steps, "xatol": 1e-6, "fatol": 1e-10}
    for _ in range(2):  # a simplex that has grown small may have stopped on a kink
        found = minimize(height, found, method="Nelder-Mead", options={**options, "adaptive": True}).x
    return check_grid(torch.cat([plain[:1], torch.from_numpy(np.exp(-inner(found))), plain[-1:]]))


# ---------------------------------------------------------------- GITS

FINE = 60
"""Steps of the fine path, among whose levels GITS chooses."""
COEFFICIENT = 1.15
"""γ of GITS for models in pixels and small latents; 1.2 for Stable Diffusion."""


@torch.no_grad()
def step_costs(
    denoise: Denoiser, starts: Tensor, fine: Solver, cond: Condition | None = None
) -> Float[Tensor, "levels levels"]:
    """c_ij of one Euler step between any two levels of a fine path (module docstring); infinity for j ≤ i.

    Args:
        starts: noises at the first level of ``fine``.
        fine: a multistep solver of many steps, one evaluation each; GITS's own is iPNDM of order 4.
    """
    states, outputs = trajectory(denoise, starts, fine, cond)
    chord = (states[-1] - states[0]).flatten(1).double()
    unit = chord / chord.norm(dim=1, keepdim=True)

    def across(x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        return flat - (flat * unit).sum(1, keepdim=True) * unit

    sigmas, count = fine.sigmas.to(starts.device), len(states)
    off = [across(x - states[0]) for x in states]
    bent = torch.stack([x.norm(dim=1).mean() for x in off])
    costs = torch.full((count, count), torch.inf, dtype=torch.float64)
    for i, (x, output) in enumerate(zip(states[:-1], outputs, strict=True)):
        slope, step = across(x - output) / sigmas[i], (sigmas[i + 1 :] - sigmas[i])[:, None]
        own, mixed, pace = off[i].square().sum(1), (off[i] * slope).sum(1), slope.square().sum(1)
        reached = (own + 2 * step * mixed + step**2 * pace).clamp(min=0).sqrt()
        costs[i, i + 1 :] = (reached.mean(1) - bent[i + 1 :]).cpu()
    return costs


def cheapest_path(costs: Float[Tensor, "m m"], steps: int, coefficient: float = COEFFICIENT) -> list[int]:
    """The places 0 = p_0 < … < p_N = m − 1 with the least Σ_k γ^k c(p_k, p_{k+1}), k = 0 … N − 1.

    Raises:
        InputError: no steps, or more than lie between the first place and the last.
    """
    if not 1 <= steps < len(costs):
        raise InputError(f"Among {len(costs)} levels a path has 1 to {len(costs) - 1} steps; got {steps}.")
    ahead = [costs[:, -1]]  # V_1, V_2 … of every place
    for _ in range(steps - 1):
        ahead.append((costs + coefficient * ahead[-1]).amin(1))
    path = [0]
    for V in reversed(ahead[:-1]):
        path.append(int((costs[path[-1]] + coefficient * V).argmin()))
    return [*path, len(costs) - 1]

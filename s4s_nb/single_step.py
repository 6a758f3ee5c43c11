"""Single-step solvers: no memory, but stages inside a step, which are rows of the table as well.

A step to σ = 0 is Euler's, the limit x = D.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from s4s_nb.grids import Grid, check_grid
from s4s_nb.solvers import Solver

Step = Callable[..., tuple[Tensor, Tensor]]
"""(σ, σ', nodes) → stage levels (s,) and absolute noise weights (s, s) of the states after them."""


Node = float | Tensor
"""A fraction of the step in λ."""


def _as_number(r: Node) -> Tensor:
    """A node as a tensor, as students have it: torch rounds powers of floats otherwise."""
    return torch.as_tensor(r, dtype=torch.float64)


def _euler_step(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a[None], (b - a).reshape(1, 1)


def _heun_step(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Predict at σ', then average both slopes (Karras et al. 2022, algorithm 1)."""
    d, zero = b - a, torch.zeros_like(a)
    return torch.stack([a, b]), torch.stack([torch.stack([d, zero]), torch.stack([d, d]) / 2])


def _dpm2_step(a: Tensor, b: Tensor, r: Node = 0.5) -> tuple[Tensor, Tensor]:
    """DPM-Solver-2: a stage at the fraction r of the step in λ (Lu et al. 2022, algorithm 4)."""
    r = _as_number(r)
    s = a ** (1 - r) * b**r
    d, zero = b - a, torch.zeros_like(a)
    last = torch.stack([d * (1 - 1 / (2 * r)), d / (2 * r)])
    return torch.stack([a, s]), torch.stack([torch.stack([s - a, zero]), last])


def _dpm3_step(a: Tensor, b: Tensor, r1: Node = 1 / 3, r2: Node = 2 / 3) -> tuple[Tensor, Tensor]:
    """DPM-Solver-3: stages at r1, r2 of the step in λ (Lu et al. 2022, algorithm 5)."""
    r1, r2 = _as_number(r1), _as_number(r2)
    s1, s2 = a ** (1 - r1) * b**r1, a ** (1 - r2) * b**r2
    h, zero = (a / b).log(), torch.zeros_like(a)
    g2 = s2 * r2 / r1 * (torch.expm1(r2 * h) / (r2 * h) - 1)
    g3 = b / r2 * (torch.expm1(h) / h - 1)
    rows = [[s1 - a, zero, zero], [s2 - a + g2, -g2, zero], [b - a + g3, zero, -g3]]
    return torch.stack([a, s1, s2]), torch.stack([torch.stack(row) for row in rows])


def single_step(sigmas: Grid, steps: list[Step], name: str) -> Solver:
    """The table of Runge–Kutta-like steps: every stage is a row that starts from its step's state."""
    check_grid(sigmas)
    levels, blocks, base = [], [], []
    for a, b, step in zip(sigmas[:-1], sigmas[1:], steps, strict=True):
        stages, weights = (_euler_step if b == 0 else step)(a, b)
        base += [len(base)] * len(stages)
        levels.append(stages)
        blocks.append(weights)
    nodes, weights = torch.cat(levels), torch.block_diag(*blocks)
    per_noise = weights / nodes
    start = torch.nn.functional.one_hot(torch.tensor(base), len(base)).double()
    return Solver(name, torch.cat([nodes, sigmas[-1:]]), start + per_noise, -per_noise)


LADDERS: dict[str, tuple[Step, ...]] = {
    "heun": (_euler_step, _heun_step),
    "dpm-2s": (_euler_step, _dpm2_step),
    "dpm-3s": (_euler_step, _dpm2_step, _dpm3_step),
}
"""Single-step methods by their number of stages; the last step may have to make do with fewer."""

NODES: dict[Step, tuple[float, ...]] = {_dpm2_step: (0.5,), _dpm3_step: (1 / 3, 2 / 3)}
"""Nodes inside a step, as fractions of it in λ."""


def ladder_steps(name: str, nfe: int) -> list[Step]:
    """The steps that spend ``nfe`` evaluations: full ones, and a last one with what is left."""
    ladder = LADDERS[name]
    full = -(-nfe // len(ladder)) - 1
    return [ladder[-1]] * full + [ladder[nfe - full * len(ladder) - 1]]

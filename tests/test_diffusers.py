"""Every table against diffusers' schedulers on a fake network, step by step.

diffusers computes in float32, hence the tolerance of 1e-5. The same end points are frozen below, so
that the comparison also runs where diffusers is not installed.

Where diffusers and the papers differ, the paper wins:
- DEIS: diffusers' polynomials are in log ρ; the paper's tAB-DEIS, our deis-k, has them in native
  time. The comparison gives our formula diffusers' clock.
- DPM-Solver-3S: diffusers takes a midpoint rule for the second stage where the paper's algorithm 5
  has its own φ-function; tests/test_classic.py compares with the paper's formulas instead.
- PNDM: diffusers starts it with Runge–Kutta or repeated steps; iPNDM starts with lower orders. The
  weights after the start are Adams–Bashforth's, tested against LMS on a uniform grid.
- UniPC of order 3 drops, in diffusers as in the authors' code, no term: equal to ours.
"""

import importlib

import pytest
import torch

from s4s_nb.classic import linear_multistep, make_solver, polynomial_weights
from s4s_nb.grids import karras, log_snr
from s4s_nb.solvers import Solver, trajectory
from tests.problems import F64, fake_denoiser, noise

N = 8
LEVELS = log_snr(N, 12.0, 0.05)
ZERO = torch.cat([karras(N - 1, 12.0, 0.05), torch.zeros(1, dtype=F64)])


def ours(name: str, sigmas: torch.Tensor = LEVELS, lower_final: bool = False) -> Solver:
    return make_solver(name, N, lambda _: sigmas, lower_final)


def halves(steps: int) -> torch.Tensor:
    return log_snr(steps, 12.0, 0.05)


def deis(order: int) -> Solver:
    return linear_multistep(LEVELS, polynomial_weights(LEVELS, order, torch.log), "noise")


MULTISTEP = {"algorithm_type": "dpmsolver++", "final_sigmas_type": "sigma_min"}
UNIPC = {"predict_x0": True, "final_sigmas_type": "sigma_min"}

# name: (table, scheduler, its options, whether its state is VP's α x̃ rather than x̃, end point)
CASES = {
    "ddim": (ours("euler"), "EulerDiscreteScheduler", {}, False, ENDPOINTS["ddim"]),
}

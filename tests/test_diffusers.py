"""Every table against diffusers' schedulers on a fake network, step by step.

diffusers computes in float32, hence the tolerance of 1e-5. Our end points are frozen in
frozen/tables.json by ``python -m tests.test_diffusers``, which refuses to write them unless diffusers
agrees; so the comparison also holds where diffusers is not installed.

Where diffusers and the papers differ, the paper wins:
- DEIS: diffusers' polynomials are in log ρ; the paper's tAB-DEIS, our deis-k, has them in native
  time. Here our formula is given diffusers' clock.
- DPM-Solver-3S: diffusers takes a midpoint rule for the second stage where the paper's algorithm 5
  has its own φ-function: ours follows the paper, and the test shows that the two differ.
- PNDM: diffusers repeats its first evaluation; iPNDM starts with lower orders instead. Its weights
  are Adams–Bashforth's, which LMS has on a grid uniform in sigma.
- DPM-Solver++(3M) has no formula in the paper; ours is that of its authors' code, as is diffusers'.
"""

import json
from pathlib import Path

import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.grids import karras, log_snr
from s4s_nb.multistep import linear_multistep, polynomial_weights
from s4s_nb.schedules import Flow
from s4s_nb.solvers import Solver, solve, trajectory
from tests.problems import F64, fake_denoiser, noise, to_zero

N = 8
FROZEN = Path(__file__).parent / "frozen" / "tables.json"


def falling(steps: int) -> torch.Tensor:
    return log_snr(steps, 12.0, 0.05)


def falling_to_zero(steps: int) -> torch.Tensor:
    return to_zero(karras(steps - 1, 12.0, 0.05))


def uniform(steps: int) -> torch.Tensor:
    return torch.linspace(12.0, 0.05, steps + 1, dtype=F64)


def deis_in_log_rho(order: int) -> Solver:
    weights = polynomial_weights(falling(N), order, torch.log)
    return linear_multistep(falling(N), weights, "noise", f"deis-{order} in log rho")


def vp_case(scheduler: str, table: Solver, **options):
    return table, scheduler, options, True


MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
UNIPC, DEIS, LMS = "UniPCMultistepScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler"
TO_MIN = {"final_sigmas_type": "sigma_min"}

# name: (our table, scheduler, its options, whether its state is VP's x = α x̃)
CASES = {
    "euler": (make_solver("euler", N, falling), "EulerDiscreteScheduler", {}, False),
    "euler to 0": (make_solver("euler", N, falling_to_zero), "EulerDiscreteScheduler", {}, False),
    "heun to 0": (make_solver("heun", 9, falling_to_zero), "HeunDiscreteScheduler", {}, False),
    "dpm-2s": vp_case(
        SINGLESTEP,
        make_solver("dpm-2s", N, falling),
        solver_order=2,
        algorithm_type="dpmsolver",
        lower_order_final=False,
        **TO_MIN,
    ),
}
for k in (2, 3, 4):
    for ending, grid in (("", falling), (" to 0", falling_to_zero)):
        CASES[f"ab{k}{ending}"] = make_solver(f"ab{k}", N, grid), LMS, {"order": k}, False
    CASES[f"ipndm-{k}"] = make_solver(f"ipndm-{k}", N, uniform), LMS, {"order": k}, False
for k, name in enumerate(("dpmpp-1", "dpmpp-2m", "dpmpp-3m"), start=1):
    options = {"algorithm_type": "dpmsolver++", "solver_order": k}
    for lower in (False, True):
        table = make_solver(name, N, falling, lower)
        mode = {"lower_order_final": lower, **TO_MIN}
        CASES[f"{name}{' lower' * lower}"] = vp_case(MULTISTEP, table, **options, **mode)
    table = make_solver(name, N, falling_to_zero)
    CASES[f"{name} to 0"] = vp_case(MULTISTEP, table, **options, lower_order_final=False)
for k in (1, 2, 3):
    CASES[f"deis-{k}"] = vp_case(DEIS, deis_in_log_rho(k), solver_order=k, lower_order_final=False)
    for bh in ("bh1", "bh2"):
        for lower in (False, True):
            name = f"unipc-{k}-{bh}"
            table = make_solver(name, N, falling, lower)
            CASES[f"{name}{' lower' * lower}"] = vp_case(
                UNIPC, table, solver_order=k, solver_type=bh, lower_order_final=lower, **TO_MIN
            )


def start(table: Solver) -> torch.Tensor:
    return table.sigmas[0] * noise()


def run_scheduler(table: Solver, scheduler: str, options: dict, vp: bool) -> list[torch.Tensor]:
    """States x̃_1 … x̃_N of a scheduler that was given the table's levels."""
    diffusers = pytest.importorskip("diffusers")
    order = {"order": options["order"]} if "order" in options else {}
    other = getattr(diffusers, scheduler)(**({} if order else options))
    # Heun's schedulers count steps of the grid, each but the last of two evaluations.
    other.set_timesteps((table.nfe + 1) // 2 if "Heun" in scheduler else table.nfe)
    other.sigmas = table.sigmas.float()
    other.is_scale_input_called = True  # our fake network scales for itself
    alphas = (1 + table.sigmas**2).rsqrt() if vp else torch.ones_like(table.sigmas)
    x, states = alphas[0] * start(table), []
    for i, t in enumerate(other.timesteps):
        state, sigma = x.double() / alphas[i], table.sigmas[i]
        predicted = (state - fake_denoiser(state, sigma)) / sigma
        x = other.step(predicted, t, x, **order).prev_sample
        states.append(x.double() / alphas[i + 1])
    return states


def largest_difference(table: Solver, states: list[torch.Tensor], vp: bool) -> float:
    own = trajectory(fake_denoiser, start(table), table)[0][1:]
    assert len(own) == len(states)
    scale = (1 + table.sigmas[1:] ** 2).rsqrt() if vp else torch.ones(table.nfe)
    return max(float((s * (a - b)).abs().max()) for s, a, b in zip(scale, own, states, strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_table_equals_diffusers_step_by_step(name):
    table, scheduler, options, vp = CASES[name]
    states = run_scheduler(table, scheduler, options, vp)
    assert largest_difference(table, states, vp) < 1e-5


def test_ddim_scheduler_at_its_own_timesteps():
    diffusers = pytest.importorskip("diffusers")
    other = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    other.set_timesteps(N)
    bar = other.alphas_cumprod.double()
    levels = ((1 - bar) / bar).sqrt()[other.timesteps]
    table = make_solver("euler", N - 1, lambda _: levels)
    x = noise()
    own = trajectory(fake_denoiser, x * (1 + levels[0] ** 2).sqrt(), table)[0]
    for i, t in enumerate(other.timesteps[:-1]):
        state = x * (1 + levels[i] ** 2).sqrt()
        predicted = (state - fake_denoiser(state, levels[i])) / levels[i]
        x = other.step(predicted, t, x).prev_sample
        assert (x - own[i + 1] * (1 + levels[i + 1] ** 2).rsqrt()).abs().max() < 1e-5


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_bashforth_in_flow_time_is_lms_on_velocities(order):
    """LMS integrates what it is given over what it takes for sigmas: here a flow's v over its t."""
    diffusers = pytest.importorskip("diffusers")
    table = make_solver(f"flow-ab{order}", N, falling)
    alphas, sigmas = 1 / (1 + table.sigmas), table.sigmas
    other = diffusers.LMSDiscreteScheduler()
    other.set_timesteps(N)
    other.sigmas = Flow().time(sigmas).float()
    other.is_scale_input_called = True
    own, x = trajectory(fake_denoiser, start(table), table)[0], alphas[0] * start(table)
    for i, t in enumerate(other.timesteps):
        data = fake_denoiser(x / alphas[i], sigmas[i])
        velocity = (x - data) / Flow().time(sigmas[i])
        x = other.step(velocity, t, x, order=order).prev_sample
        assert (x - alphas[i + 1] * own[i + 1]).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_dpm_solver_3s_of_diffusers_is_not_the_paper_s():
    options = {"solver_order": 3, "algorithm_type": "dpmsolver", "lower_order_final": False}
    table = make_solver("dpm-3s", 9, falling)
    fine = Solver("levels", falling(9), table.A, table.B)  # diffusers' stages are grid points
    assert torch.allclose(fine.sigmas, table.sigmas)
    states = run_scheduler(fine, SINGLESTEP, {**options, **TO_MIN}, vp=True)
    own = trajectory(fake_denoiser, start(table), table)[0][1:]
    assert (own[0] - states[0]).abs().max() < 1e-5  # the first stage is the same
    assert (own[1] - states[1]).abs().max() > 1e-3  # the second is not


@pytest.mark.parametrize("name", CASES)
def test_table_equals_the_frozen_numbers(name):
    frozen = torch.tensor(json.loads(FROZEN.read_text())[name], dtype=F64)
    table = CASES[name][0]
    assert (solve(fake_denoiser, start(table), table)[:2] - frozen).abs().max() < 1e-8


def freeze() -> None:
    """Write our end points, once diffusers has agreed with each of them."""
    numbers = {}
    for name, (table, scheduler, options, vp) in CASES.items():
        assert largest_difference(table, run_scheduler(table, scheduler, options, vp), vp) < 1e-5
        rows = solve(fake_denoiser, start(table), table)[:2].tolist()
        numbers[name] = [[round(v, 10) for v in row] for row in rows]
    FROZEN.parent.mkdir(exist_ok=True)
    FROZEN.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    freeze()

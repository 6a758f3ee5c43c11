"""The states of diffusers' schedulers on a fake network, and the script that freezes them.

    python tests/freeze_diffusers.py

writes them to tests/frozen/diffusers.json. Every run starts from the same x̃ and returns x̃ after each
call of ``scheduler.step``. A scheduler keeps its own state (α x̃), its own output (noise or velocity)
and its own step formula; only its levels are replaced, in float64, by those of the run.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from problems import F64, fake_denoiser
from torch import Tensor

from s4s_nb.grids import karras, log_snr
from s4s_nb.schedules import VPDiscrete

FROZEN = Path(__file__).with_name("frozen") / "diffusers.json"
START = torch.tensor([[0.7, -1.3], [1.9, 0.4]], dtype=F64)
STEPS = 8
LEVELS = karras(STEPS, 12.0, 0.05)
LOG_LEVELS = log_snr(STEPS, 12.0, 0.05)  # where the stages of DPM-Solver-2 and 3 are nodes
TO_ZERO = torch.cat([karras(STEPS - 1, 12.0, 0.05), torch.zeros(1, dtype=F64)])
DDPM = VPDiscrete.from_betas("linear")
DDPM_LEVELS = DDPM.level(torch.arange(875.0, -1.0, -125.0, dtype=F64))

ALPHA: dict[str, Callable[[Tensor], Tensor]] = {
    "ve": torch.ones_like,
    "vp": lambda sigma: torch.rsqrt(1 + sigma**2),
    "flow": lambda sigma: 1 / (1 + sigma),
}


def predict(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(D, ε) of the fake network at x̃."""
    d = fake_denoiser(x, sigma)
    return d, (x - d) / sigma


def new(scheduler: str, steps: int, **options):
    import diffusers

    made = getattr(diffusers, scheduler)(**options)
    made.set_timesteps(steps)
    return made


def by_levels(
    scheduler: str, levels: Tensor, process: str = "vp", steps: int | None = None, **options
) -> Tensor:
    """Schedulers that read their levels from ``scheduler.sigmas``."""
    made = new(scheduler, steps or len(levels) - 1, **options)
    made.sigmas = levels / (1 + levels) if process == "flow" else levels
    made.is_scale_input_called = True  # our network takes the state as it is
    return follow(made.step, made.timesteps, levels, process)


def follow(step, timesteps, levels: Tensor, process: str) -> Tensor:
    alpha, x, states = ALPHA[process](levels), START * levels[0], []
    for i, t in enumerate(timesteps):
        d, noise = predict(x, levels[i])
        output = noise - d if process == "flow" else noise
        x = step(output, t, alpha[i] * x).prev_sample / alpha[i + 1]
        states.append(x)
    return torch.stack(states)


def heun(levels: Tensor) -> Tensor:
    """Two calls a step, the second at the next level; the last step, to 0, is Euler's."""
    stages = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    return by_levels("HeunDiscreteScheduler", stages, "ve", steps=len(levels) - 1)


def lms(order: int, levels: Tensor) -> Tensor:
    made = new("LMSDiscreteScheduler", STEPS)
    made.sigmas, made.is_scale_input_called = levels, True
    return follow(partial(made.step, order=order), made.timesteps, levels, "ve")


def dpm_solver_3() -> Tensor:
    """diffusers applies one solver_type to every stage. The second stage of the paper's algorithm 5
    is what it calls heun, the third what it calls midpoint: switch between them."""
    options = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3}
    levels = log_snr(9, 12.0, 0.05)
    made = new("DPMSolverSinglestepScheduler", 9, lower_order_final=False, **options)
    made.sigmas = levels

    def step(*inputs):
        third = (made.step_index or 0) % 3 == 2
        made.register_to_config(solver_type="midpoint" if third else "heun")
        return made.step(*inputs)

    return follow(step, made.timesteps, levels, "vp")


def ddim() -> Tensor:
    """Levels are entries of alphas_cumprod; the last step goes to ᾱ = 1, so to sigma = 0."""
    made = new("DDIMScheduler", STEPS, clip_sample=False)
    made.alphas_cumprod, made.final_alpha_cumprod = DDPM.alphas_cumprod, torch.ones((), dtype=F64)
    levels = torch.cat([DDPM_LEVELS, torch.zeros(1, dtype=F64)])
    return follow(made.step, made.timesteps, levels, "vp")


def pndm() -> Tensor:
    """PNDM evaluates twice in its first step; with that switched off it is iPNDM."""
    made = new("PNDMScheduler", STEPS, skip_prk_steps=True)
    made.alphas_cumprod = DDPM.alphas_cumprod

    def step(*inputs):
        result = made.step(*inputs)
        made.counter = 2
        return result

    return follow(step, range(875, 0, -125), DDPM_LEVELS, "vp")


def ipndm() -> Tensor:
    """IPNDMScheduler expects a velocity v = α ε − σ x_0, and has a schedule of its own, replaced."""
    made = new("IPNDMScheduler", STEPS)
    made.alphas = ALPHA["vp"](LEVELS)
    made.betas = LEVELS * made.alphas
    x, states = START * LEVELS[0], []
    for i, t in enumerate(made.timesteps):
        d, noise = predict(x, LEVELS[i])
        velocity = made.alphas[i] * noise - made.betas[i] * d
        x = made.step(velocity, t, made.alphas[i] * x).prev_sample / made.alphas[i + 1]
        states.append(x)
    return torch.stack(states)


def alphas_cumprod(beta_schedule: str, **betas: float) -> Tensor:
    made = new("DDIMScheduler", STEPS, beta_schedule=beta_schedule, **betas)
    return made.alphas_cumprod[[0, 1, 10, 250, 500, 750, 990, 999]].double()


DPM = "DPMSolverMultistepScheduler"
SINGLE = "DPMSolverSinglestepScheduler"
UNIPC = "UniPCMultistepScheduler"
DEIS = "DEISMultistepScheduler"
TO_MIN = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
LOWER = {"final_sigmas_type": "sigma_min", "lower_order_final": True}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

RUNS: dict[str, Callable[[], Tensor]] = {
    "ddim": ddim,
    "flow euler": partial(by_levels, "FlowMatchEulerDiscreteScheduler", LEVELS, "flow"),
    **{f"dpmpp-{k}": partial(by_levels, DPM, LEVELS, solver_order=k, **TO_MIN) for k in (1, 2, 3)},
    "dpmpp-3 lower": partial(by_levels, DPM, LEVELS, solver_order=3, **LOWER),
    "dpmpp-3 zero": partial(by_levels, DPM, TO_ZERO, solver_order=3, lower_order_final=False),
    "dpmpp-2 flow": partial(by_levels, DPM, LEVELS, "flow", solver_order=2, **TO_MIN, **FLOW),
    **{
        f"unipc-{k}-{bh}": partial(by_levels, UNIPC, LEVELS, solver_order=k, solver_type=bh, **TO_MIN)
        for k in (1, 2, 3)
        for bh in ("bh1", "bh2")
    },
    "unipc-3 lower": partial(by_levels, UNIPC, LEVELS, solver_order=3, **LOWER),
    "unipc-3 zero": partial(by_levels, UNIPC, TO_ZERO, solver_order=3, final_sigmas_type="zero"),
    "unipc-3 flow": partial(by_levels, UNIPC, LEVELS, "flow", solver_order=3, **TO_MIN, **FLOW),
    **{
        f"deis-{k}": partial(by_levels, DEIS, LEVELS, solver_order=k, lower_order_final=False)
        for k in (1, 2, 3)
    },
    "deis-3 lower": partial(by_levels, DEIS, LEVELS, solver_order=3),
    "dpm-2s": partial(by_levels, SINGLE, LOG_LEVELS, solver_order=2, algorithm_type="dpmsolver", **TO_MIN),
    "dpm-3s": dpm_solver_3,
    "heun": partial(heun, TO_ZERO),
    **{f"ab{k}": partial(lms, k, LEVELS) for k in (2, 3, 4)},
    "ab4 zero": partial(lms, 4, TO_ZERO),
    "ipndm-4": ipndm,
    "pndm": pndm,
    "alphas linear": partial(alphas_cumprod, "linear"),
    "alphas scaled_linear": partial(alphas_cumprod, "scaled_linear", beta_start=0.00085, beta_end=0.012),
    "alphas cosine": partial(alphas_cumprod, "squaredcos_cap_v2"),
}


if __name__ == "__main__":
    import diffusers

    rows = {name: [float(f"{v:.10g}") for v in run().flatten().tolist()] for name, run in RUNS.items()}
    lines = [
        f'"diffusers": "{diffusers.__version__}"',
        *(f'"{k}": {json.dumps(rows[k])}' for k in rows),
    ]
    FROZEN.parent.mkdir(exist_ok=True)
    FROZEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

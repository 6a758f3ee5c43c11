"""Benchmarks as ratios, so that they mean the same on every machine."""

import time
from collections.abc import Callable
from statistics import median

import torch

from s4s_nb.classic import make_solver
from s4s_nb.solvers import sample
from s4s_nb.zoo import load_model


def paired_ratio(a: Callable[[], object], b: Callable[[], object], repeats: int = 9) -> float:
    """Median of time(a)/time(b) over pairs run back to back, so that a slow spell hits both."""

    def seconds(f: Callable[[], object]) -> float:
        started = time.perf_counter()
        f()
        return time.perf_counter() - started

    a()
    b()
    return median(seconds(a) / seconds(b) for _ in range(repeats))


@torch.inference_mode()
def sampling_overhead(name: str = "fashion", nfe: int = 10, batch: int = 64) -> float:
    """Time of the loop at ``nfe`` evaluations over that many bare network calls."""
    model = load_model(name)
    x = model.starts("test", batch)
    solver = make_solver("dpmpp-3m", nfe, model.grid("logsnr"))

    def bare() -> None:
        for sigma in solver.model_sigmas:
            model.denoise(x, sigma)

    return paired_ratio(lambda: sample(model.denoise, x, solver), bare)


def benchmarks() -> list[dict]:
    """All benchmarks: name, ratio, and the limit that it should keep."""
    return [
        {
            "name": "sampling loop at 10 NFE over 10 bare network calls, batch 64",
            "ratio": sampling_overhead(),
            "limit": 1.05,
        }
    ]

"""Benchmarks as ratios, so that they mean the same on every machine."""

import time
from collections.abc import Callable
from itertools import accumulate
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import Denoiser
from s4s_nb.families import make_student
from s4s_nb.learn.problem import ACTIVATION_BYTES, Problem
from s4s_nb.models import Model
from s4s_nb.models.bundled import load
from s4s_nb.pairs import Pairs
from s4s_nb.runtime import map_batches
from s4s_nb.solvers import solve
from s4s_nb.student import Student


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
    model = load(name, side=64)
    x = model.starts("test", batch)
    solver = make_solver("dpmpp-3m", nfe, model.grid("logsnr"))

    def bare() -> None:
        for sigma in solver.model_sigmas:
            model.denoise(x, sigma)

    return paired_ratio(lambda: solve(model.denoise, x, solver), bare)


def adam_overhead(name: str = "fashion", nfe: int = 5, batch: int = 20) -> float:
    """Time of one S4S gradient over ``nfe`` bare forward and backward passes and one of the distance."""
    model = load(name, side=64)
    student = make_student("dpmpp-2m", nfe, model.grid("logsnr"))
    starts = model.starts("train", batch)
    pairs = Pairs(starts, starts / model.sigma_max)
    levels = student.solver().model_sigmas

    def bare() -> None:
        for sigma in levels:
            x = starts.clone().requires_grad_()
            model.denoise(x, sigma).sum().backward()
        x = pairs.targets.clone().requires_grad_()
        (model.embed(x) - model.embed(pairs.targets)).square().sum().backward()

    return paired_ratio(lambda: gradient(model, student, pairs, model.denoise), bare, repeats=5)


def memory_of_a_gradient(name: str = "fashion", nfe: int = 32, batch: int = 20) -> float:
    """Peak memory of one gradient as BFGS asks for it, of one batch, over what activations may take; at
    ``nfe`` evaluations, whose activations would take more."""
    model = load(name, side=64)
    starts = model.starts("train", batch)
    pairs = Pairs(starts, starts / model.sigma_max)
    problem = Problem(model.denoise, pairs, pairs, model.embed, batch)
    student = make_student("dpmpp-2m", nfe, model.grid("logsnr"))
    by, parts = student.zero(("coefficients",)), ("coefficients",)
    assert problem.remembered(1) is problem.denoise, "what is made once, at the first call, is not counted"
    return peak_bytes(lambda: problem.value_and_gradient(student, by, parts)) / ACTIVATION_BYTES


def gradient(model: Model, student: Student, pairs: Pairs, denoise: Denoiser) -> Tensor:
    """That of the end-point loss in the student's coefficients."""
    by = student.zero(("coefficients",)).requires_grad_()
    problem = Problem(denoise, pairs, pairs, model.embed)
    loss = problem.loss(student.moved(by, ("coefficients",)), pairs)
    return torch.autograd.grad(loss, by)[0]


def peak_bytes(f: Callable[[], object]) -> int:
    """Most bytes that torch held on the CPU during f, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        f()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    in_order = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    changes = [e.nbytes() for e in in_order]  # pyright: ignore[reportAttributeAccessIssue]: not in the stubs
    return max(accumulate(changes))


def threads_side_by_side(name: str = "fashion", batches: int = 8) -> float:
    """Time of batches side by side, a thread each, over the same batches in turn on all threads."""
    model = load(name, side=64)
    starts = model.starts("test", 20 * batches).split(20)
    sigma = torch.tensor(5.0, dtype=torch.float64)

    def one(x: Tensor) -> Tensor:
        return model.denoise(x, sigma)

    with torch.inference_mode():
        return paired_ratio(lambda: map_batches(one, starts, "cpu"), lambda: [one(x) for x in starts])


def benchmarks() -> list[dict]:
    """All benchmarks: name, ratio, and the limit that it should keep."""
    rows = [
        ("sampling loop at 10 NFE over 10 bare network calls, batch 64", sampling_overhead, 1.05),
        ("an S4S gradient at 5 NFE over its bare forward and backward passes", adam_overhead, 1.15),
        (
            "peak memory of a gradient at 32 NFE over what its activations may take",
            memory_of_a_gradient,
            1.0,
        ),
        ("batches side by side over batches in turn", threads_side_by_side, 1.0),
    ]
    return [{"name": name, "ratio": measure(), "limit": limit} for name, measure, limit in rows]

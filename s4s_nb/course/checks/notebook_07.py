"""Checks of notebook 07: how many numbers, the way back to θ, the fence, the held noise, the turns."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4s_nb.course.checks.diagnosis import (
    Check,
    diagnose,
    diagnose_counts,
    diagnose_pair,
    first,
    kind,
    numbers,
)


def count(answer: Callable[..., Any]) -> str | None:
    """Learned numbers of S4S-Alt, as ``answer(nfe, order, offsets) -> int``."""

    def size(n: int, k: int) -> int:
        return sum(min(i + 1, k) for i in range(n))

    mistakes = {
        "these are the coefficients alone; the grid has numbers of its own.": lambda n, k, o: size(n, k),
        "the offsets are missing: all evaluations but the first have one.": (
            lambda n, k, o: size(n, k) + n - 1
        ),
        "without offsets there are n − 1 numbers fewer.": lambda n, k, o: size(n, k) + 2 * (n - 1),
        "the ends of the grid are fixed: n − 1 levels are free.": (
            lambda n, k, o: size(n, k) + (n + 1) * (1 + o)
        ),
        "one too many: the last logit is held at 0, and the first offset too.": (
            lambda n, k, o: size(n, k) + n * (1 + o)
        ),
        "one offset too many: the first evaluation stays where it is.": (
            lambda n, k, o: size(n, k) + n - 1 + n * o
        ),
        "the first steps have less history than the order.": lambda n, k, o: k * n + (n - 1) * (1 + o),
        "these are levels and offsets; the coefficients are missing.": lambda n, k, o: (n - 1) * (1 + o),
    }
    cases = [(5, 3, True), (5, 3, False), (7, 4, True), (3, 6, True), (4, 2, False)]
    story = "for {} steps of order {} with offsets={}"
    return diagnose_counts(answer, cases, lambda n, k, o: size(n, k) + (n - 1) * (1 + o), mistakes, story)


def theta(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """θ of given levels over a reference grid, as ``answer(levels, reference) -> (N − 1,)``."""
    levels = torch.tensor([80.0, 9.0, 2.5, 0.9, 0.2, 0.002], dtype=torch.float64)
    reference = torch.tensor([80.0, 30.0, 4.0, 0.5, 0.06, 0.002], dtype=torch.float64)
    steps, own = levels.log().diff().abs(), reference.log().diff().abs()
    logits = (steps / own).log()
    right = logits[:-1] - logits[-1]
    linear = (levels.diff() / reference.diff()).log()
    mistakes = {
        "the last logit is held at 0 in the map: subtract yours from the others.": logits[:-1],
        "turned round: these numbers lead from `levels` to `reference`.": -right,
        "the reference is missing: θ = 0 must be the reference grid.": (steps.log()[:-1] - steps.log()[-1]),
        "the steps are measured in σ; the way is shared out in log σ.": linear[:-1] - linear[-1],
        "take the logarithm of the ratio of steps: softmax takes its exponential.": (
            (steps / own)[:-1] - (steps / own)[-1]
        ),
        "the mean is subtracted; it is the last logit that must become 0.": (logits - logits.mean())[:-1],
        "the first logit is set to 0 and dropped; in the map it is the last one.": (logits - logits[0])[1:],
    }
    given = numbers(answer(levels, reference))
    if given.shape == logits.shape:
        return "one too many: N steps have N − 1 free numbers, the last logit is held at 0; leave it out."
    return diagnose(given, right, mistakes)


def fence(answer: Callable[..., Tensor]) -> str | None:
    """Model levels in the clock, as ``answer(tau (N + 1,), xi (N − 1,), width) -> (N,)``."""
    cases = (
        ([4.0, 2.3, 0.3, -1.2, -3.2, -4.0], [0.4, -1.0, 3.0, -0.2], 0.5),
        ([2.0, 1.0, 0.7, -1.3, -2.2], [-0.7, 0.3, 1.1], 0.3),
        ([2.0, 1.5, 0.5, -1.0], [0.8, -2.0], 0.9),
    )
    return first(one_fence(answer, *case) for case in cases)


def one_fence(
    answer: Callable[..., Tensor], levels: list[float], offsets: list[float], width: float
) -> str | None:
    """What is wrong with the model levels on one grid."""
    tau = torch.tensor(levels, dtype=torch.float64)
    xi = torch.tensor(offsets, dtype=torch.float64)
    gaps = tau.diff().abs()
    gap = gaps.min()

    def moved(by: Tensor) -> Tensor:
        return torch.cat([tau[:1], tau[1:-1] + by])

    free = torch.cat([torch.zeros(1, dtype=torch.float64), xi])
    mistakes = {
        "tau falls, so that its differences are negative, and their minimum is the longest step: abs().": (
            moved(width * tau.diff().min() * xi.tanh())
        ),
        "the fence is made of the smallest gap; you take the largest.": (
            moved(width * gaps.max() * xi.tanh())
        ),
        "the last step counts as well when you look for the smallest gap.": (
            moved(width * gaps[:-1].min() * xi.tanh())
        ),
        "each level has its own gap here; the bound is the same for all, from the smallest.": (
            moved(width * gaps[1:] * xi.tanh())
        ),
        "nothing bounds xi: put it through tanh.": moved(width * gap * xi),
        "you clamp, and a clamped offset has no gradient: use tanh.": moved(width * gap * xi.clamp(-1, 1)),
        "the width is missing: with the whole gap, two neighbours could meet.": moved(gap * xi.tanh()),
        "the gap is missing: the bound is width times the smallest gap.": moved(width * xi.tanh()),
        "the wrong sign: a positive xi moves a level up in the clock.": moved(-width * gap * xi.tanh()),
        "the first evaluation stays at the first level; xi starts at the second.": (
            tau[:-1] + width * gap * torch.cat([xi, xi[:1] * 0]).tanh()
        ),
        "these are the offsets; add them to tau.": width * gap * free.tanh(),
    }
    given = numbers(answer(tau, xi, width))
    if given.shape == tau.shape:
        return "N steps ask N times: nothing is asked at the last level."
    if given.shape == xi.shape:
        return "the first evaluation is missing; it stays where it is, at tau[0]."
    return diagnose(given, moved(width * gap * xi.tanh()), mistakes)


def held_noise(answer: Callable[..., Any]) -> str | None:
    """The table of a solver that holds the noise, as ``answer(A, B, sigma, s, kappa) -> (A, B)``."""
    generator = torch.Generator().manual_seed(7)
    A, B = (torch.randn(3, 3, generator=generator, dtype=torch.float64).tril() for _ in range(2))
    sigma = torch.tensor([9.0, 2.0, 0.4], dtype=torch.float64)
    s, kappa = sigma * sigma.new_tensor([1.0, 0.7, 1.3]), sigma.new_tensor([1.0, 1.2, 0.9])
    r = sigma / s
    mistakes = {
        "kappa is missing: the network was fed κ x, not x.": (A + B * (1 - r), B * r),
        "r is the wrong way up: r = σ/s.": (A + B * (1 - kappa / r), B / r),
        "the images are scaled, but the rest of each answer, (1 − κ r) x, goes into A.": (A, B * r),
        "A is right; B must be scaled with r as well.": (A + B * (1 - kappa * r), B),
        "you use the new B in A: (1 − κ r) multiplies the B that was given.": (
            A + B * r * (1 - kappa * r),
            B * r,
        ),
        "r belongs to an evaluation, which is a column of the table; you scale rows.": (
            A + B * (1 - kappa * r)[:, None],
            B * r[:, None],
        ),
        "(1 − κ r) x is added with the weight of its evaluation, B.": (
            A + torch.diag(1 - kappa * r),
            B * r,
        ),
        "turned round: return A first, then B.": (B * r, A + B * (1 - kappa * r)),
        "the sign of (1 − κ r) is wrong.": (A - B * (1 - kappa * r), B * r),
    }
    right = A + B * (1 - kappa * r), B * r
    return diagnose_pair(answer(A.clone(), B.clone(), sigma, s, kappa), right, mistakes)


def turns(answer: Callable[..., Any]) -> str | None:
    """Alternation, as ``answer(learn, at, rounds) -> at`` with ``learn(part, at) -> at``."""
    rounds, seen = 3, []

    def learn(part: str, at: tuple) -> tuple:
        seen.append(part)
        return (*at, part)

    given = answer(learn, ("start",), rounds)
    wanted = ["times", "coefficients"] * rounds
    if given is None:
        return "return where the last turn has ended; is there a return statement?"
    if seen == wanted[::-1]:
        return "the times come first, so that the coefficients are made for the last grid."
    if seen == ["times"] * rounds + ["coefficients"] * rounds:
        return "first all times, then all coefficients: take turns."
    if seen == wanted[:rounds]:
        return "a round is two turns, one of times and one of coefficients."
    if seen == wanted[:2]:
        return "one round only; do it `rounds` times."
    if seen != wanted:
        return f"the turns were: {', '.join(seen) or 'none'}; each round is times, then coefficients."
    if given == ("start", *wanted):
        return None
    if not isinstance(given, tuple):
        return f"return what the last `learn` has returned, not {kind(given)}."
    if given == ("start", "coefficients"):
        return "each turn begins at the start again; hand on where the last one has ended."
    if given == ("start",):
        return "the learned parameters are thrown away: at = learn(…, at)."
    if given == ("start", *wanted)[:-1]:
        return "you return where the last turn began; return where it ended."
    return "right turns, but not each from where the one before it ended."


CHECKS: dict[str, Check] = {
    "07-count": count,
    "07-theta": theta,
    "07-fence": fence,
    "07-held": held_noise,
    "07-turns": turns,
}

"""Checks of notebook 08: how many numbers, states in a row, the span, the free first answer, a new row."""

from collections.abc import Callable
from functools import partial
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
    refused,
)
from s4s_nb.errors import choose
from s4s_nb.grids import log_snr
from s4s_nb.learn.methods import Method
from s4s_nb.learn.optimiser import OPTIMISERS
from s4s_nb.student import FURTHER, PARTS


def count(answer: Callable[..., Any]) -> str | None:
    """Numbers of BNS, as ``answer(nfe) -> int``."""
    mistakes = {
        "the first level is no number of BNS: time starts at 0 and ends at 1.": (
            lambda n: n * (n + 5) // 2 + 2
        ),
        "the weights of x_0 are missing, one a step.": lambda n: n * (n + 1) // 2 + n - 1,
        "the levels between the two ends are missing.": lambda n: n * (n + 1) // 2 + n,
        "these are the weights of the outputs alone.": lambda n: n * (n + 1) // 2,
        "too many: step i has i + 1 outputs so far, and of all states x_0 alone.": (
            lambda n: n * n + 2 * n - 1
        ),
    }
    cases, story = [(5,), (8,), (3,), (2,)], "for {} steps"
    return diagnose_counts(answer, cases, lambda n: n * (n + 5) // 2 - 1, mistakes, story)


def history(answer: Callable[..., Any]) -> str | None:
    """The table of images and noises, as ``answer(d, e, sigmas) -> (A, B)``."""
    generator = torch.Generator().manual_seed(8)
    d, e = (torch.randn(4, 4, generator=generator, dtype=torch.float64).tril() for _ in range(2))
    sigmas = torch.tensor([9.0, 3.0, 1.2, 0.5, 0.1], dtype=torch.float64)
    before, after = sigmas[:-1], sigmas[1:, None]
    A = after * e / before
    mistakes = {
        "A is right; every e takes an image away as well: ε_j = (x_j − D_j)/σ_j.": (A, d),
        "the noise has x_j with a plus and D_j with a minus; B is d minus what A has.": (A, d + A),
        "ε_j is divided by its own level σ_j.": (after * e, d - after * e),
        "the level of the new state, σ_{i+1}, is missing in front of the noises.": (
            e / before,
            d - e / before,
        ),
        "the noises are put on at the level where the step ends, not where it begins.": (
            before[:, None] * e / before,
            d - before[:, None] * e / before,
        ),
        "rows and columns are exchanged: σ_{i+1} belongs to a row, σ_j to a column.": (
            sigmas[1:] * e / before[:, None],
            d - sigmas[1:] * e / before[:, None],
        ),
        "the ratio is the wrong way up: σ_{i+1} above σ_j.": (
            before * e / after,
            d - before * e / after,
        ),
        "turned round: return A first, then B.": (d - A, A),
    }
    return diagnose_pair(answer(d.clone(), e.clone(), sigmas), (A, d - A), mistakes)


def span(answer: Callable[..., Any]) -> str | None:
    """Squared distance to a span, as ``answer(vectors (k, p), target (p,)) -> scalar``."""
    return first(one_span(answer, *shape) for shape in ((3, 8), (6, 40)))


def one_span(answer: Callable[..., Any], count: int, length: int) -> str | None:
    """What is wrong with the distance to the span of some vectors."""
    generator = torch.Generator().manual_seed(count)
    vectors = torch.randn(count, length, generator=generator, dtype=torch.float64)
    target = torch.randn(length, generator=generator, dtype=torch.float64)
    weights = torch.linalg.lstsq(vectors.T, target[:, None]).solution
    rest = target - (vectors.T @ weights)[:, 0]
    alone = (vectors @ target) / vectors.square().sum(1)
    mistakes = {
        "that is the distance; return its square.": rest.norm(),
        "that is a mean over the numbers of the image; return the sum of squares.": rest.square().mean(),
        "these are the weights; return how far the target is from the point that they reach.": weights[
            :, 0
        ],
        "that is the nearest point of the span; return its squared distance to the target.": target - rest,
        "return the squared length of what is left, not what is left.": rest,
        "the first vector counts as well: x_T is part of the span.": (
            target - vectors[1:].T @ torch.linalg.lstsq(vectors[1:].T, target[:, None]).solution[:, 0]
        )
        .square()
        .sum(),
        "each vector is fitted on its own; they are not perpendicular: fit all at once.": (
            (target - vectors.T @ alone).square().sum()
        ),
        "that is the squared length of the target's part in the span; what is left is wanted.": (
            (target - rest).square().sum()
        ),
    }
    return diagnose(answer(vectors.clone(), target.clone()), rest.square().sum(), mistakes)


def free_first(answer: Callable[..., Any]) -> str | None:
    """A denoiser whose first answer costs nothing, as ``answer(denoise, mean, sigma_0) -> denoiser``."""
    asked: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return 0.5 * x

    mean, high = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor(80.0, dtype=torch.float64)
    x = torch.tensor([[3.0, 1.0], [0.5, -1.0], [2.0, 2.0]], dtype=torch.float64)
    cheap = answer(denoise, mean, high)
    if not callable(cheap):
        return f"return a denoiser, a function of x and sigma, not {kind(cheap)}."
    given = cheap(x, high)
    if asked:
        return "the network is still asked at the first level; that evaluation was to be saved."
    if isinstance(given, Tensor) and given.shape == mean.shape:
        return "one answer a sample: the mean, expanded to the shape of x."
    problem = diagnose(given, mean.expand_as(x), {"that is x itself; the answer is the mean image.": x})
    if problem is not None:
        return problem
    below = cheap(x, high / 2)
    if asked != [40.0]:
        return "below the first level the network is asked, once, at the level that it is called with."
    return diagnose(below, 0.5 * x, {"the mean is for the first level alone.": mean.expand_as(x)})


def row(answer: Callable[..., Any]) -> str | None:
    """A new method, as ``answer() -> Method``: levels first, then all of the table, twice round."""
    given = answer()
    if not isinstance(given, Method):
        raise refused("a Method", given)
    times, every = {"levels", "offsets"}, {*PARTS, *FURTHER}
    turns = [set(turn) for turn in given.turns]
    for part in sorted(set().union(*turns)):
        choose(dict.fromkeys([*PARTS, *FURTHER]), part, "part of a student")
    if len(turns) == 1 and turns[0] >= times:
        return "one turn moves all at once; here the times have a turn of their own, before the others."
    if len(turns) == 2 and turns[1] == times:
        return "the times come first: what follows is made for the grid that they leave."
    if not turns or turns[0] != times:
        return "the first turn moves the levels and the offsets, and nothing else."
    if len(turns) != 2 or not turns[1] <= every - times or len(turns[1]) < 2:
        return "the second turn moves coefficients and history, while the times are held."
    if not {"coefficients", "history"} <= turns[1]:
        return "the second turn moves coefficients and history."
    if given.rounds != 2:
        return f"the turns are taken twice; yours has rounds={given.rounds}."
    if given.pairs != 80:
        return f"the row learns from 80 pairs; yours has pairs={given.pairs}."
    if choose(OPTIMISERS, given.optimiser, "optimiser") is not OPTIMISERS["gauss-newton"]:
        return f"by Gauss–Newton; yours has optimiser={given.optimiser!r}."
    made = given.student(start="dpmpp-2m", nfe=3, grid=partial(log_snr, sigma_max=80.0, sigma_min=0.01))
    if not made.history.numel():
        return 'its student has no history to learn: student=partial(s4s.make_student, history="all").'
    return None


CHECKS: dict[str, Check] = {
    "08-count": count,
    "08-history": history,
    "08-span": span,
    "08-free": free_first,
    "08-row": row,
}

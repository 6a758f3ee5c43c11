"""Checks of notebook 03: EDM's grid, lists of levels, a lost ρ, stick-breaking, the cheapest path."""

import math
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor

from s4s_nb.course.checks.diagnosis import Check, diagnose, first, indices, number, numbers, tensor
from s4s_nb.grids import karras, log_snr


def miscounted(answer: Any, levels: int) -> str | None:
    """What a grid with the wrong number of levels has likely forgotten; None if the number is right."""
    given = numbers(answer)
    if given.ndim != 1 or len(given) == levels:
        return None
    steps = levels - 1
    if len(given) == steps:
        return f"{steps} steps run between {levels} levels, both ends included; you return {steps}."
    if len(given) == levels + 1:
        return f"one level too many: {levels + 1} levels are {levels} steps, and we asked for {steps}."
    return f"{steps} steps need {levels} levels; you return {len(given)}."


def karras_to_zero(answer: Callable[..., Tensor]) -> str | None:
    """Karras levels σ_max … σ_min, then 0, as ``answer(steps, sigma_max, sigma_min, rho) -> (N+1,)``."""
    return first(one_karras(answer, *case) for case in ((6, 50.0, 0.01, 5.0), (3, 80.0, 0.5, 2.0)))


def one_karras(
    answer: Callable[..., Tensor], steps: int, high: float, low: float, rho: float
) -> str | None:
    """What is wrong with one of Karras's grids."""
    zero = torch.zeros(1, dtype=torch.float64)
    unit = torch.linspace(0, 1, steps, dtype=torch.float64)

    def to_zero(levels: Tensor) -> Tensor:
        return torch.cat([levels, zero])

    def between(first: float, last: float, power: float) -> Tensor:
        return (first + unit * (last - first)) ** power

    right = to_zero(karras(steps - 1, high, low, rho))
    mistakes = {
        "this ends at sigma_min; the last level must be 0, with sigma_min before it.": (
            karras(steps, high, low, rho)
        ),
        "sigma_min is gone: the denoiser must be asked there, and 0 comes after it.": (
            to_zero(karras(steps, high, low, rho)[:-1])
        ),
        "you put 0 in place of sigma_min into the formula; the 0 is appended afterwards.": (
            high * (1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)) ** rho
        ),
        "the levels rise; solvers go from noise to image, from sigma_max down.": right.flip(0),
        "wrong way round: interpolate σ^(1/rho), then take the power rho.": (
            to_zero(between(high**rho, low**rho, 1 / rho))
        ),
        "you stopped at σ^(1/rho): raise the interpolated numbers to the power rho.": (
            to_zero(between(high ** (1 / rho), low ** (1 / rho), 1.0))
        ),
        "you built in rho = 7; it is an argument.": to_zero(karras(steps - 1, high, low, 7.0)),
        "these levels are evenly spaced in σ itself: rho = 1.": to_zero(between(high, low, 1.0)),
    }
    given = answer(steps, high, low, rho)
    return miscounted(given, steps + 1) or diagnose(given, right, mistakes)


def interpolate(answer: Callable[..., Tensor]) -> str | None:
    """A list of levels at another number of steps, as ``answer(levels, steps) -> (steps + 1,)``."""
    levels = torch.tensor([15.0, 6.5, 3.9, 2.7, 1.4, 0.6, 0.4, 0.03], dtype=torch.float64)
    steps, last = 5, len(levels) - 1
    position = torch.linspace(0, last, steps + 1, dtype=torch.float64)
    below = position.long().clamp(max=last - 1)
    part = position - below

    def at_positions(values: Tensor) -> Tensor:
        return values[below] + part * values[1:][below].sub(values[below])

    right = at_positions(levels.log()).exp()
    mistakes = {
        "you interpolate σ itself; the lists are meant to be interpolated in log σ.": at_positions(levels),
        "these are logarithms of levels: take the exponential at the end.": right.log(),
        "you took the nearest entries of the list; go between them.": levels[position.round().long()],
        "you took the next entry above each place; go between the two neighbours.": levels[position.long()],
        "these are the first entries of the list; the whole list must be covered.": levels[: steps + 1],
        "only the ends of the list enter; its inner levels are what it is published for.": (
            log_snr(steps, 15.0, 0.03)
        ),
        "the levels rise: torch.searchsorted and np.interp want rising positions, not rising levels.": (
            right.flip(0)
        ),
    }
    given = answer(levels, steps)
    problem = miscounted(given, steps + 1) or diagnose(given, right, mistakes)
    if problem is None and diagnose(answer(levels, last), levels, {}) is not None:
        return f"right for {steps} steps, but with its own {last} steps the list must come back unchanged."
    return problem


def lost_rho(answer: Callable[[Tensor], Any]) -> str | None:
    """ρ of a Karras grid from its levels, as ``answer(levels) -> float``."""
    return first(one_rho(answer, *case) for case in RHO)


RHO = (
    (5, 80.0, 0.002, 7.0),
    (6, 20.0, 0.05, 3.0),
    (9, 300.0, 0.01, 12.5),
    (4, 50.0, 0.02, 1.3),
    (2, 80.0, 0.002, 40.0),
)
"""(steps, σ_max, σ_min, ρ)"""


def one_rho(answer: Callable[[Tensor], Any], steps: int, high: float, low: float, rho: float) -> str | None:
    """What is wrong with the ρ of one grid."""
    given = number(answer(karras(steps, high, low, rho)))
    if abs(given - rho) < 1e-3 * rho:
        return None
    if abs(given - 1 / rho) < 1e-3:
        return "that is 1/ρ, the power; return ρ."
    where = f"for {steps} steps from {high:g} to {low:g} with ρ = {rho:g}"
    if given == 7:
        return f"{where} you return 7, the usual ρ: find it from the levels."
    if given <= 1.001 or given >= 49.99:
        return f"{where} your search ran to its end, {given:.3g}: turn its comparison round."
    if abs(given - rho) < 0.6:
        return f"{where} you return {given:.4g}: near, but go on to four digits; ρ need not be whole."
    return f"{where} you return {given:.4g}; search all numbers between 1 and 50."


def stick_breaking(answer: Callable[..., Tensor]) -> str | None:
    """log σ_n = log σ_min + (log σ_max − log σ_min) Π_{j≤n} sigmoid(θ_j), the last level σ_min."""
    return first(one_stick(answer, theta) for theta in ([0.3, -1.0, 2.0, 0.5], [1.5, -0.5]))


def one_stick(answer: Callable[..., Tensor], values: list[float]) -> str | None:
    """What is wrong with the grid of these θ."""
    theta = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    high, low = 80.0, 0.002
    share = theta.sigmoid()
    one, zero = torch.eye(2, dtype=torch.float64)[:, :1]

    def logs(left: Tensor) -> Tensor:
        """Log levels whose share of the way is ``left``, between the ends."""
        return math.log(low) + math.log(high / low) * torch.cat([one, left, zero])

    right = logs(share.cumprod(0)).exp()
    mistakes = {
        "the levels rise: what is *left* of the way is the product, so start high.": right.flip(0),
        "you break the stick in σ; break it in log σ, or the low levels get nothing.": (
            low + (high - low) * torch.cat([one, share.cumprod(0), zero])
        ),
        "these are logarithms of levels: take the exponential at the end.": right.log(),
        "sigmoid(θ) is the share that is *kept*; you kept 1 − sigmoid(θ).": (
            logs((1 - share).cumprod(0)).exp()
        ),
        "that is softmax's grid; here every θ_j says which share of what is left is kept.": (
            logs(1 - theta.softmax(0).cumsum(0)).exp()
        ),
        "each level must keep a share of what the one *before* it has left: a running product.": (
            logs(share).exp()
        ),
        "you stacked the shares up: what is left is their running product, torch.cumprod.": (
            logs(share.cumsum(0)).exp()
        ),
    }
    given = answer(theta, high, low)
    levels = numbers(given)
    if levels.ndim and len(levels) == len(theta) + 1:
        return "an end is missing: sigma_max before and sigma_min after the inner levels, which θ moves."
    problem = miscounted(levels, len(theta) + 2) or diagnose(levels, right.detach(), mistakes)
    if problem is not None:
        return problem
    ends = tensor(given)[[0, -1]]
    if not torch.equal(ends, torch.tensor([high, low], dtype=ends.dtype)):
        return "the ends are off by a rounding error: put sigma_max and sigma_min in as they are."
    if not (isinstance(given, Tensor) and given.requires_grad):
        return "right numbers, but no gradient reaches θ: avoid .item(), torch.tensor(...) and numpy."
    slopes = [torch.autograd.grad(grid.double().sum(), theta)[0] for grid in (given, right)]
    if diagnose(slopes[0], slopes[1], {}) is not None:
        return "right numbers, but not their gradient: a part of the way from θ to the levels is detached."
    return None


def cheapest_path(answer: Callable[[Tensor, int], Any]) -> str | None:
    """Indices 0 … K−1 of the path of ``steps`` jumps of least total cost, from ``answer(cost, steps)``."""
    return first(one_path(answer, *case) for case in ((8, 4, 28), (7, 3, 5), (5, 1, 1), (6, 5, 2)))


def one_path(answer: Callable[[Tensor, int], Any], size: int, steps: int, seed: int) -> str | None:
    """What is wrong with the path through one matrix of costs."""
    cost = torch.full((size, size), float("inf"), dtype=torch.float64)
    noise = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for i, j in combinations(range(size), 2):
        cost[i, j] = (j - i) ** 1.5 * (0.4 + noise[i, j])
    cost[0, 1] = 0.05  # a bargain that leads nowhere
    cost[0, -2], cost[-2, -1] = 1.0, 1.0  # two jumps would be cheapest of all
    prices = cost.tolist()

    def paths(jumps: int) -> list[list[int]]:
        inner = combinations(range(1, size - 1), jumps - 1)
        return [[0, *middle, size - 1] for middle in inner]

    def jumps_of(path: list[int]) -> list[float]:
        return [prices[i][j] for i, j in pairwise(path)]

    def total(path: list[int]) -> float:
        return sum(jumps_of(path))

    best = min(paths(steps), key=total)
    path = indices(answer(cost.clone(), steps), "the indices of the path, a list such as [0, 3, 7]")
    if path == best:
        return None
    if path == best[::-1]:
        return "right path, but backwards: begin at index 0, the highest level."
    if path == best[1:] or path == best[:-1] or path == best[1:-1]:
        return f"an end is missing: the path goes from 0 to {size - 1}, both included."
    if not path or path[0] != 0 or path[-1] != size - 1 or sorted(set(path)) != path:
        return f"a path rises from 0 to {size - 1} without repeats; you return {path}."
    if path == min((p for jumps in range(1, size) for p in paths(jumps)), key=total):
        return f"cheap, but with {len(path) - 1} jumps: make exactly {steps}, one for each evaluation."
    if len(path) != steps + 1:
        return f"{steps} jumps visit {steps + 1} indices, both ends included; you return {len(path)}."
    if max(jumps_of(path)) == min(max(jumps_of(p)) for p in paths(steps)):
        return "you minimised the most expensive jump; minimise the sum of all."
    if path == greedy(cost, steps):
        return "you always take the cheapest next jump; a cheap jump now can make all later ones dear."
    return f"this path costs {total(path):.3f}; there is one of {steps} jumps for {total(best):.3f}."


def greedy(cost: Tensor, steps: int) -> list[int]:
    """The path that takes the cheapest next jump and leaves room for the jumps to come."""
    path, last = [0], len(cost) - 1
    for left in range(steps - 1, 0, -1):
        reach = cost[path[-1], : last - left + 1]
        path.append(int(reach.argmin()))
    return [*path, last]


CHECKS: dict[str, Check] = {
    "03-karras": karras_to_zero,
    "03-interpolate": interpolate,
    "03-rho": lost_rho,
    "03-stick": stick_breaking,
    "03-path": cheapest_path,
}

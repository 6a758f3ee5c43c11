"""Right and wrong answers to the exercises of notebook 03."""

import math

import torch

from s4s_nb.course.checks.notebook_03 import greedy
from s4s_nb.grids import align_your_steps, karras, log_snr
from tests.problems import F64, to_zero

# ---------------------------------------------------------------- Karras, ending at 0


def edm(steps, high, low, rho):
    return to_zero(karras(steps - 1, high, low, rho))


def spaced(there=lambda s, rho: s ** (1 / rho), back=lambda c, rho: c**rho):
    """Even in the coordinate ``there``, then a 0, and its usual mistakes."""

    def grid(steps, high, low, rho):
        unit = torch.linspace(0, 1, steps, dtype=F64)
        return to_zero(back(there(high, rho) + unit * (there(low, rho) - there(high, rho)), rho))

    return grid


def zero_in_the_formula(steps, high, low, rho):
    return (high ** (1 / rho) * (1 - torch.linspace(0, 1, steps + 1, dtype=F64))) ** rho


# ---------------------------------------------------------------- another number of steps


def interpolated(values=torch.log, back=torch.exp, round_to=None):
    """The list at evenly spaced positions, in ``values``, and its usual mistakes."""

    def grid(levels, steps):
        position = torch.linspace(0, len(levels) - 1, steps + 1, dtype=F64)
        below = position.floor().long().clamp(max=len(levels) - 2)
        part = position - below if round_to is None else round_to(position) - below
        known = values(levels)
        return back(known[below] + part * (known[below + 1] - known[below]))

    return grid


def same(x):
    return x


def by_halves(levels, steps):
    """Right for 5 steps, and spoilt for as many as the list has."""
    return align_your_steps(levels, steps) * (1 if steps == 5 else 1.1)


# ---------------------------------------------------------------- a lost ρ


def searched(low=1.0, high=50.0, rounds=60, turned=False):
    """Bisection on ρ: are the first and the last gap of σ^(1/ρ) alike?"""

    def rho_of(levels):
        a, b = low, high
        for _ in range(rounds):
            rho = (a + b) / 2
            gaps = (levels ** (1 / rho)).diff().abs()
            a, b = (rho, b) if bool(gaps[0] > gaps[-1]) != turned else (a, rho)
        return (a + b) / 2

    return rho_of


# ---------------------------------------------------------------- stick-breaking


def stick(left=lambda theta: theta.sigmoid().cumprod(0), logs=True, pinned=True):
    """Levels by the share of the way that is left, and its usual mistakes."""

    def grid(theta, high, low):
        a, b = (math.log(high), math.log(low)) if logs else (high, low)
        between = b + (a - b) * left(theta)
        between = between.exp() if logs else between
        ends = torch.tensor([high, low], dtype=F64)
        return torch.cat([ends[:1], between, ends[1:]]) if pinned else between

    return grid


def stick_from_below(theta, high, low):
    return stick()(theta, high, low).flip(0)


def stick_of_floats(theta, high, low):
    return torch.tensor(stick()(theta, high, low).tolist(), dtype=F64)


def stick_half_detached(theta, high, low):
    return stick()(torch.cat([theta[:1].detach(), theta[1:]]), high, low)


def stick_without_its_last_level(theta, high, low):
    return stick()(theta, high, low)[:-1]


def stick_with_rounded_ends(theta, high, low):
    left = torch.cat([torch.ones(1).double(), theta.sigmoid().cumprod(0), torch.zeros(1).double()])
    return (math.log(low) + (math.log(high) - math.log(low)) * left).exp() * (1 + 1e-14)


# ---------------------------------------------------------------- the cheapest path


def cheapest(cost, steps, join=lambda a, b: a + b, exactly=True):
    """Dynamic programming from the end; ``best[k][i]`` is the price of k jumps from i to the last."""
    last = len(cost) - 1
    best, choice = [torch.full((len(cost),), math.inf, dtype=F64)], []
    best[0][last] = 0.0
    for _ in range(steps):
        price, to = join(cost, best[-1][None]).min(1)
        best.append(price)
        choice.append(to)
    jumps = steps if exactly else min(range(1, steps + 1), key=lambda k: float(best[k][0]))
    path = [0]
    for k in range(jumps, 0, -1):
        path.append(int(choice[k - 1][path[-1]]))
    return path


RIGHT = {
    "03-karras": edm,
    "03-interpolate": align_your_steps,
    "03-rho": searched(),
    "03-stick": stick(),
    "03-path": cheapest,
}

WRONG = [
    ("03-karras", karras, "must be 0"),
    ("03-karras", lambda n, *rest: edm(n + 1, *rest), "one level too many"),
    ("03-karras", lambda n, *rest: karras(n - 1, *rest), "between 7 levels"),
    ("03-karras", lambda n, *rest: edm(n - 2, *rest), "need 7 levels"),
    ("03-karras", lambda n, *rest: to_zero(karras(n, *rest)[:-1]), "sigma_min is gone"),
    ("03-karras", zero_in_the_formula, "is appended afterwards"),
    ("03-karras", lambda *given: edm(*given).flip(0), "the levels rise"),
    ("03-karras", spaced(lambda s, rho: s**rho, lambda c, rho: c ** (1 / rho)), "wrong way round"),
    ("03-karras", spaced(back=lambda c, rho: c), "raise the interpolated numbers"),
    ("03-karras", lambda n, high, low, rho: edm(n, high, low, 7.0), "built in rho = 7"),
    ("03-karras", spaced(lambda s, rho: s, lambda c, rho: c), "rho = 1"),
    ("03-karras", lambda *given: 2 * edm(*given), "not yet"),
    ("03-karras", lambda *given: None, "return statement"),
    ("03-interpolate", interpolated(same, same), "interpolate σ itself"),
    ("03-interpolate", interpolated(back=same), "take the exponential"),
    ("03-interpolate", interpolated(round_to=torch.round), "nearest entries"),
    ("03-interpolate", interpolated(round_to=torch.floor), "next entry above"),
    ("03-interpolate", lambda levels, steps: levels[: steps + 1], "first entries"),
    ("03-interpolate", lambda levels, n: log_snr(n, float(levels[0]), float(levels[-1])), "only the ends"),
    ("03-interpolate", lambda *given: align_your_steps(*given).flip(0), "the levels rise"),
    ("03-interpolate", lambda levels, steps: align_your_steps(levels, steps - 1), "both ends included"),
    ("03-interpolate", lambda levels, steps: align_your_steps(levels, steps + 1), "too many"),
    ("03-interpolate", by_halves, "come back unchanged"),
    ("03-interpolate", lambda levels, steps: align_your_steps(levels, steps) + 1, "not yet"),
    ("03-rho", lambda levels: 1 / searched()(levels), "1/ρ"),
    ("03-rho", lambda levels: 7.0, "the usual ρ"),
    ("03-rho", searched(turned=True), "turn its comparison round"),
    ("03-rho", lambda levels: round(searched()(levels)), "need not be whole"),
    ("03-rho", searched(rounds=3), "you return"),
    ("03-rho", searched(low=2.0), "you return 2"),
    ("03-rho", searched(high=25.0), "between 1 and 50"),
    ("03-rho", lambda levels: None, "return one number"),
    ("03-stick", stick_from_below, "the levels rise"),
    ("03-stick", stick(logs=False), "in log σ"),
    ("03-stick", lambda *given: stick()(*given).log(), "take the exponential"),
    ("03-stick", stick(lambda theta: (1 - theta.sigmoid()).cumprod(0)), "kept 1 − sigmoid"),
    ("03-stick", stick(lambda theta: 1 - theta.softmax(0).cumsum(0)), "softmax's grid"),
    ("03-stick", stick(torch.sigmoid), "running product"),
    ("03-stick", stick(lambda theta: theta.sigmoid().cumsum(0)), "stacked the shares up"),
    ("03-stick", stick(pinned=False), "need 6 levels"),
    ("03-stick", stick_without_its_last_level, "an end is missing"),
    ("03-stick", stick_with_rounded_ends, "rounding error"),
    ("03-stick", stick_of_floats, "no gradient"),
    ("03-stick", stick_half_detached, "detached"),
    ("03-stick", lambda *given: 2 * stick()(*given), "not yet"),
    ("03-stick", lambda *given: 1.0, "must have shape (6,)"),
    ("03-path", lambda *given: cheapest(*given)[::-1], "backwards"),
    ("03-path", lambda *given: cheapest(*given)[1:], "an end is missing"),
    ("03-path", lambda *given: cheapest(*given, exactly=False), "make exactly 4"),
    ("03-path", lambda *given: cheapest(*given, join=torch.maximum), "most expensive jump"),
    ("03-path", greedy, "dear"),
    ("03-path", lambda cost, steps: [0, 2, 5, 6, 7], "there is one of 4 jumps"),
    ("03-path", lambda cost, steps: cheapest(cost, steps + 1), "visit 5 indices"),
    ("03-path", lambda cost, steps: [0, 1.5, 2, 3, 7], "yours are [0.0, 1.5"),
    ("03-path", lambda cost, steps: [], "rises from 0 to 7"),
    ("03-path", lambda cost, steps: [1, 2, 3, 4, 7], "rises from 0 to 7"),
    ("03-path", lambda cost, steps: cost, "a list such as"),
]

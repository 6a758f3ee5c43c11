"""Right and wrong answers to the exercises of notebook 04."""

import torch

from tests.problems import F64


def score_adapter(gain=lambda alpha, sigma: alpha * sigma**2, keep=1.0, scale=True, native_time=True):
    """D = keep x + gain(α, σ) s(α x, t), and its usual mistakes."""

    def from_score(network, schedule):
        def denoise(x, sigma):
            alpha = schedule.alpha(sigma)
            state, t = alpha * x if scale else x, schedule.time(sigma) if native_time else sigma
            return keep * x + gain(alpha, sigma) * network(state, t)

        return denoise

    return from_score


def score_in_its_own_coordinate(network, schedule):
    def denoise(x, sigma):
        alpha = schedule.alpha(sigma)
        return alpha * x + (alpha * sigma) ** 2 * network(alpha * x, schedule.time(sigma))

    return denoise


def interval(inside=lambda c, u, w: u + w * (c - u), outside="conditional", where=None, wasteful=False):
    """Guidance for low < σ ≤ high, and its usual mistakes."""

    def in_interval(conditional, unconditional, w, low, high):
        def denoise(x, sigma, **cond):
            within = (where or (lambda s: low < s <= high))(float(sigma))
            if wasteful:
                conditional(x, sigma, **cond)
            if within:
                return inside(conditional(x, sigma, **cond), unconditional(x, sigma), w)
            return conditional(x, sigma, **cond) if outside == "conditional" else unconditional(x, sigma)

        return denoise

    return in_interval


def fitted(horizontal=lambda n: 1 / n, result=lambda d, b, u: d.mean() - b * u.mean()):
    """Least squares of d over ``horizontal(n)``, and what of it is returned."""

    def at_infinity(counts, distances):
        u = horizontal(torch.tensor(counts, dtype=F64))
        d = torch.tensor(distances, dtype=F64)
        b = ((u - u.mean()) * (d - d.mean())).sum() / (u - u.mean()).square().sum()
        return float(result(d, b, u))

    return at_infinity


def two_points(counts, distances):
    (n, *_, m), (a, *_, b) = counts, distances
    return (m * b - n * a) / (m - n)


def nearest(a, b):
    return torch.cdist(a, b).min(1).values


def copies(samples, train, test):
    return float((nearest(samples, train) < nearest(test, train).quantile(0.01)).double().mean())


def copies_by(threshold):
    return lambda samples, train, test: float(
        (nearest(samples, train) < threshold(samples, train, test)).double().mean()
    )


def copies_of_test(samples, train, test):
    return float((nearest(samples, test) < nearest(test, train).quantile(0.01)).double().mean())


RIGHT = {
    "04-score": score_adapter(),
    "04-interval": interval(),
    "04-infinity": fitted(),
    "04-copies": copies,
}

WRONG = [
    ("04-score", score_adapter(lambda a, s: -a * s**2), "wrong sign"),
    ("04-score", score_in_its_own_coordinate, "that is α D"),
    ("04-score", score_adapter(lambda a, s: s**2), "an α is missing"),
    ("04-score", score_adapter(lambda a, s: (a * s) ** 2), "an α too many"),
    ("04-score", score_adapter(lambda a, s: a * s), "enters squared"),
    ("04-score", score_adapter(lambda a, s: -s), "took the score for the noise"),
    ("04-score", score_adapter(keep=0.0), "x is missing"),
    ("04-score", score_adapter(scale=False), "feed it α x"),
    ("04-score", score_adapter(native_time=False), "in its own time"),
    ("04-score", score_adapter(keep=3.0), "not yet"),
    ("04-score", lambda network, schedule: None, "return a function"),
    ("04-interval", interval(where=lambda s: not 0.25 < s <= 5.0), "below low"),
    ("04-interval", interval(where=lambda s: s > 0.25), "above high"),
    ("04-interval", interval(where=lambda s: False), "upside down"),
    ("04-interval", interval(where=lambda s: 0.25 <= s <= 5.0), "at σ = low exactly"),
    ("04-interval", interval(where=lambda s: 0.25 < s < 5.0), "at σ = high exactly"),
    ("04-interval", interval(lambda c, u, w: u), "hand **cond on"),
    ("04-interval", interval(lambda c, u, w: c + w * (c - u)), "the other convention"),
    ("04-interval", interval(lambda c, u, w: c + w * (u - c)), "exchanged"),
    ("04-interval", interval(lambda c, u, w: w * (c - u)), "in front"),
    ("04-interval", interval(outside="unconditional"), "label is lost"),
    ("04-interval", interval(wasteful=True), "save calls"),
    ("04-interval", lambda *parts: lambda x, sigma, **cond: x, "return the state"),
    ("04-interval", lambda *parts: None, "return a function"),
    ("04-infinity", fitted(lambda n: n), "a line in n"),
    ("04-infinity", fitted(lambda n: n**-0.5), "1/√n"),
    ("04-infinity", fitted(result=lambda d, b, u: b), "the slope b"),
    ("04-infinity", lambda counts, distances: distances[-1], "largest count"),
    ("04-infinity", lambda counts, distances: sum(distances) / len(distances), "the mean of the distances"),
    ("04-infinity", two_points, "two of the points"),
    ("04-infinity", fitted(result=lambda d, b, u: d.mean() + b * u.mean()), "*minus*"),
    ("04-infinity", lambda counts, distances: 0.0, "through 0"),
    ("04-infinity", lambda counts, distances: None, "return statement"),
    ("04-infinity", lambda counts, distances: 1.0, "not yet"),
    ("04-copies", lambda *sets: len(sets[0]) * copies(*sets), "a count"),
    ("04-copies", lambda *sets: 100 * copies(*sets), "percentage"),
    ("04-copies", lambda *sets: 1 - copies(*sets), "turn the comparison round"),
    ("04-copies", copies_by(lambda s, train, t: nearest(train, train).quantile(0.01)), "its own nearest"),
    ("04-copies", copies_of_test, "copies are near to *training* images"),
    ("04-copies", copies_by(lambda s, train, t: torch.cdist(t, train).quantile(0.01)), "all pairs"),
    ("04-copies", copies_by(lambda s, train, t: nearest(t, train).median()), "median"),
    ("04-copies", copies_by(lambda s, train, t: nearest(s, train).quantile(0.01)), "samples themselves"),
    ("04-copies", lambda *sets: None, "return statement"),
    ("04-copies", lambda *sets: 0.5, "not yet"),
]

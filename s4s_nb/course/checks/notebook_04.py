"""Checks of notebook 04: a score network, guidance in an interval, endless samples, copies."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from s4s_nb.course.checks.diagnosis import Check, diagnose, diagnose_number, first
from s4s_nb.denoisers import Counted, Denoiser
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.schedules import Schedule, VPLinear


def score_adapter(answer: Callable[[Callable[..., Tensor], Schedule], Denoiser]) -> str | None:
    """D = x + α σ̃² s(αx, t), as ``answer(network, schedule) -> denoise``."""
    return first(one_score(answer, level) for level in (0.8, 2.5))


def one_score(answer: Callable[[Callable[..., Tensor], Schedule], Denoiser], level: float) -> str | None:
    """What is wrong with the adapter at one level."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    exact, schedule = GaussianMixture(means, torch.tensor([0.3, 0.5])), VPLinear()
    x = torch.tensor([[0.4, -0.2], [1.5, 1.0], [-2.0, 0.3]], dtype=torch.float64)
    sigma = torch.tensor(level, dtype=torch.float64)
    alpha, t = schedule.alpha(sigma), schedule.time(sigma)

    def network(x_t: Tensor, time: Tensor) -> Tensor:
        own = schedule.level(torch.as_tensor(time, dtype=torch.float64))
        scale = schedule.alpha(own)
        return (scale * exact(x_t / scale, own) - x_t) / (scale * own) ** 2

    right, s = exact(x, sigma), network(alpha * x, t)
    mistakes = {
        "wrong sign: the score points from the noisy point towards the denoised one, so it is added.": (
            x - alpha * sigma**2 * s
        ),
        "that is α D: Tweedie in their coordinate gives the mean of α x_0; divide it by α.": alpha * right,
        "an α is missing: their σ_t is α σ, so σ_t² s / α = α σ² s.": x + sigma**2 * s,
        "an α too many: σ_t² s must still be divided by α.": x + (alpha * sigma) ** 2 * s,
        "the level enters squared: D = x + α σ² s.": x + alpha * sigma * s,
        "you took the score for the noise; the noise is −σ_t s.": x - sigma * s,
        "that is the noise or the step, not the denoised point: x is missing.": alpha * sigma**2 * s,
        "the network lives in its own coordinate: feed it α x, not x.": (
            x + alpha * sigma**2 * network(x, t)
        ),
        "the network lives in its own time: you told it sigma where it wants schedule.time(sigma).": (
            x + alpha * sigma**2 * network(alpha * x, sigma)
        ),
    }
    denoise = answer(network, schedule)
    if not callable(denoise):
        return "return a function: define denoise(x, sigma) inside, and return it."
    return diagnose(denoise(x, sigma), right, mistakes)


def guidance_in_an_interval(answer: Callable[..., Denoiser]) -> str | None:
    """D_u + w (D_c − D_u) for low < σ ≤ high, else D_c; (D_c, D_u, w, low, high) -> denoise."""
    levels = [(0.1, False), (1.0, True), (20.0, False), (0.25, False), (5.0, True)]
    return first(one_interval(answer, *level) for level in levels)


def one_interval(answer: Callable[..., Denoiser], level: float, inside: bool) -> str | None:
    """What is wrong with guidance for 0.25 < σ ≤ 5 at one level."""
    x, w = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3), 3.0
    label, sigma = torch.tensor([1, 3]), torch.tensor(level, dtype=torch.float64)

    def network(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return 0.2 * x if label is None else 0.5 * x + label[:, None]

    conditional, unconditional = Counted(network), Counted(network)
    c, u = network(x, sigma, label), network(x, sigma)
    strong = u + w * (c - u)
    denoise = answer(conditional, unconditional, w, 0.25, 5.0)
    if not callable(denoise):
        return "return a function: define denoise(x, sigma, **cond) inside, and return it."
    where = {0.1: "below low", 0.25: "at σ = low exactly", 5.0: "at σ = high exactly", 20.0: "above high"}
    side = where.get(level, "inside the interval")
    if inside:
        mistakes = {
            f"{side} you do not guide; is the condition upside down, or is the label shown to both"
            " models?": c,
            f"{side} the label is lost: hand **cond on to the conditional model.": u,
            "you add w (D_c − D_u) to D_c: that is the other convention, whose w is ours minus 1.": (
                c + w * (c - u)
            ),
            "D_c and D_u are exchanged: start from D_u and go towards D_c.": c + w * (u - c),
            "D_u is missing in front: D_u + w (D_c − D_u).": w * (c - u),
        }
    else:
        mistakes = {
            f"you guide {side}; there the plain conditional model is asked for.": strong,
            f"{side} the label is lost: ask the conditional model, and hand **cond on to it.": u,
            f"{side} you return the state; the plain conditional model is asked for.": x,
        }
    problem = diagnose(denoise(x, sigma, label=label), strong if inside else c, mistakes)
    if problem is not None:
        return problem
    calls = conditional.nfe, unconditional.nfe
    if calls != ((1, 1) if inside else (1, 0)):
        return (
            f"right numbers, but {side} you called the conditional model {calls[0]} and the unconditional"
            f" one {calls[1]} times; the point was to save calls."
        )
    return None


def line_fit(horizontal: Tensor, vertical: Tensor) -> tuple[float, float]:
    """Intercept and slope of the least-squares line."""
    design = torch.stack([torch.ones_like(horizontal), horizontal], 1)
    intercept, slope = torch.linalg.lstsq(design, vertical[:, None]).solution.flatten().tolist()
    return intercept, slope


def endless_samples(answer: Callable[[Sequence[int], Sequence[float]], float]) -> str | None:
    """The intercept of the least-squares line over 1/n, as ``answer(counts, distances)``."""
    data = [([100, 150, 250, 500], [53.0, 38.5, 29.0, 19.5]), ([40, 90, 100], [0.9, 0.5, 0.7])]
    return first(one_limit(answer, *case) for case in data)


def one_limit(answer: Callable[..., float], counts: list[int], distances: list[float]) -> str | None:
    """What is wrong with the limit of these distances."""
    n, d = (torch.tensor(v, dtype=torch.float64) for v in (counts, distances))
    right, slope = line_fit(1 / n, d)
    two = line_fit(1 / n[[0, -1]], d[[0, -1]])[0]
    mistakes = {
        "you fitted a line in n; the distance is a straight line in 1/n.": line_fit(n, d)[0],
        "you fitted a line in 1/√n; the floor falls as 1/n.": line_fit(n**-0.5, d)[0],
        "that is the slope b; the value at 1/n = 0 is the intercept.": slope,
        "that is the distance at the largest count; go on to 1/n = 0.": distances[-1],
        "that is the mean of the distances; subtract slope times the mean of 1/n.": float(d.mean()),
        "you used two of the points only; least squares weighs them all.": two,
        "wrong sign: d_∞ is the mean of d *minus* b times the mean of 1/n.": 2 * float(d.mean()) - right,
        "you fitted a line through 0; leave the intercept free, it is what we want.": 0.0,
    }
    return diagnose_number(answer(counts, distances), right, mistakes)


def copies_share(answer: Callable[[Tensor, Tensor, Tensor], float]) -> str | None:
    """Share of samples nearer to ``train`` than the 1 % quantile of ``test``'s nearest distances."""
    generator = torch.Generator().manual_seed(1)
    train, test, fresh = (
        torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (300, 80, 30)
    )

    def nearest(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b).min(1).values

    def share(distances: Tensor, threshold: Tensor) -> float:
        return float((distances < threshold).double().mean())

    threshold = nearest(test, train).quantile(0.01)
    away = torch.eye(6, dtype=torch.float64)[0] * threshold
    steps = torch.linspace(0.505, 1.505, 41, dtype=torch.float64)[:, None]
    copied = train[:41] + steps * away  # every other one is near enough
    samples = torch.cat([copied, test[:10], fresh])  # to repeat a test image is no copying
    found = nearest(samples, train)
    right = share(found, threshold)
    mistakes = {
        "that is a count; return a share of the samples.": right * len(samples),
        "that is a percentage; return a share between 0 and 1.": 100 * right,
        "that is the share of samples that are *not* copies: turn the comparison round.": 1 - right,
        "every training image is its own nearest one, at distance 0: the threshold is over test images.": (
            share(found, nearest(train, train).quantile(0.01))
        ),
        "you compare samples with test images; copies are near to *training* images.": (
            share(nearest(samples, test), threshold)
        ),
        "the quantile is over all pairs; take the nearest of each row first.": (
            share(found, torch.cdist(test, train).quantile(0.01))
        ),
        "the 1 % quantile is .quantile(0.01); that was the median.": (
            share(found, nearest(test, train).median())
        ),
        "the threshold is the 1 % quantile over the *test* images, not over the samples themselves.": (
            share(found, found.quantile(0.01))
        ),
    }
    return diagnose_number(answer(samples, train, test), right, mistakes)


CHECKS: dict[str, Check] = {
    "04-score": score_adapter,
    "04-interval": guidance_in_an_interval,
    "04-infinity": endless_samples,
    "04-copies": copies_share,
}

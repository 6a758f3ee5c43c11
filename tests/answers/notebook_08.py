"""Right and wrong answers to the exercises of notebook 08."""

from functools import partial

import torch

from s4s_nb.families import make_student
from s4s_nb.learn.methods import Method

TIMES = ("levels", "offsets")
REST = ("coefficients", "history")


def count(nfe):
    return sum(i + 1 for i in range(nfe)) + nfe + nfe - 1


def history(d, e, sigmas):
    A = sigmas[1:, None] * e / sigmas[:-1]
    return A, d - A


def with_noises(scale):
    """The table with another factor of the noises."""

    def answer(d, e, sigmas):
        A = scale(sigmas) * e
        return A, d - A

    return answer


def span(vectors, target):
    weights = torch.linalg.lstsq(vectors.T, target[:, None]).solution[:, 0]
    return (target - vectors.T @ weights).square().sum()


def nearest(vectors, target):
    return vectors.T @ torch.linalg.lstsq(vectors.T, target[:, None]).solution[:, 0]


def one_by_one(vectors, target):
    weights = (vectors @ target) / vectors.square().sum(1)
    return (target - vectors.T @ weights).square().sum()


def free_first(denoise, mean, sigma_0):
    def cheap(x, sigma):
        return mean.expand_as(x) if sigma == sigma_0 else denoise(x, sigma)

    return cheap


def thrown_away(denoise, mean, sigma_0):
    def cheap(x, sigma):
        answer = denoise(x, sigma)
        return mean.expand_as(x) if sigma == sigma_0 else answer

    return cheap


def always(denoise, mean, sigma_0):
    return lambda x, sigma: mean.expand_as(x)


def at_the_first(denoise, mean, sigma_0):
    return lambda x, sigma: mean.expand_as(x) if sigma == sigma_0 else denoise(x, sigma_0)


def one_for_all(denoise, mean, sigma_0):
    return lambda x, sigma: mean if sigma == sigma_0 else denoise(x, sigma)


def itself(denoise, mean, sigma_0):
    return lambda x, sigma: x if sigma == sigma_0 else denoise(x, sigma)


def row(turns=(TIMES, REST), rounds=2, optimiser="gauss-newton", pairs=80, history="all"):
    """A row with other turns, rounds, optimiser, pairs or student."""
    student = partial(make_student, history=history)
    return lambda: Method(turns, optimiser, pairs=pairs, rounds=rounds, student=student)


RIGHT = {
    "08-count": count,
    "08-history": history,
    "08-span": span,
    "08-free": free_first,
    "08-row": row(),
}

WRONG = [
    ("08-count", lambda n: count(n) + 3, "no number of BNS"),
    ("08-count", lambda n: count(n) - n, "weights of x_0 are missing"),
    ("08-count", lambda n: count(n) - n + 1, "between the two ends"),
    ("08-count", lambda n: n * (n + 1) // 2, "outputs alone"),
    ("08-count", lambda n: n * (n + 1) + n - 1, "too many"),
    ("08-count", lambda n: 25, "it is 24, not 25"),
    ("08-count", lambda n: None, "return statement"),
    ("08-history", lambda d, e, s: (history(d, e, s)[0], d), "takes an image away"),
    ("08-history", lambda d, e, s: (history(d, e, s)[0], d + history(d, e, s)[0]), "with a minus"),
    ("08-history", with_noises(lambda s: s[1:, None]), "divided by its own level"),
    ("08-history", with_noises(lambda s: 1 / s[:-1]), "is missing in front"),
    ("08-history", with_noises(lambda s: s[:-1, None] / s[:-1]), "where the step ends, not"),
    ("08-history", with_noises(lambda s: s[1:] / s[:-1, None]), "exchanged"),
    ("08-history", with_noises(lambda s: s[:-1] / s[1:, None]), "wrong way up"),
    ("08-history", lambda *table: history(*table)[::-1], "turned round"),
    ("08-history", lambda d, e, s: d, "two matrices"),
    ("08-span", lambda *given: span(*given).sqrt(), "return its square"),
    ("08-span", lambda v, t: span(v, t) / len(t), "a mean over"),
    ("08-span", lambda v, t: torch.linalg.lstsq(v.T, t[:, None]).solution[:, 0], "these are the weights"),
    ("08-span", nearest, "nearest point"),
    ("08-span", lambda v, t: t - nearest(v, t), "squared length"),
    ("08-span", lambda v, t: span(v[1:], t), "x_T is part"),
    ("08-span", one_by_one, "all at once"),
    ("08-span", lambda v, t: nearest(v, t).square().sum(), "what is left is wanted"),
    ("08-span", lambda v, t: 3 * span(v, t), "not yet"),
    ("08-free", thrown_away, "still asked"),
    ("08-free", always, "is asked, once"),
    ("08-free", at_the_first, "at the level that it is called with"),
    ("08-free", one_for_all, "expanded to the shape"),
    ("08-free", itself, "the mean image"),
    ("08-free", lambda denoise, mean, sigma_0: mean, "return a denoiser"),
    ("08-row", row((TIMES + REST,)), "one turn moves all at once"),
    ("08-row", row((REST, TIMES)), "times come first"),
    ("08-row", row((("levels",), REST)), "nothing else"),
    ("08-row", row((TIMES, ("coefficients",))), "while the times are held"),
    ("08-row", row((TIMES, ("coefficients", "scales"))), "coefficients and history"),
    ("08-row", row(rounds=1), "rounds=1"),
    ("08-row", row(pairs=40), "pairs=40"),
    ("08-row", row(optimiser="bfgs"), "by Gauss–Newton"),
    ("08-row", row(history="none"), "no history to learn"),
    ("08-row", row(optimiser="newton"), "optimiser"),
    ("08-row", row((("level",), REST)), "part of a student"),
    ("08-row", lambda: "s4s", "return a Method"),
]

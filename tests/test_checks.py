"""The checks of the exercises accept right answers and name the mistake in wrong ones."""

import pytest
import torch

from s4s_nb.checks import CHECKS, check
from s4s_nb.multistep import dpmpp_weights, ipndm_weights, linear_multistep, polynomial_weights
from tests.problems import F64

# ---------------------------------------------------------------- answers, notebook 00


def distance(nfe: int) -> float:
    return 1 / nfe


# ---------------------------------------------------------------- answers, notebook 01


def gaussian(x, sigma, mean, covariance):
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(mean)).double())
    return mean + (x - mean) @ gain.T


def dataset(x, sigma, data):
    exponents = -(torch.cdist(x, data) ** 2) / (2 * sigma**2)
    weights = torch.exp(exponents - exponents.max(-1, keepdim=True).values)
    return weights @ data / weights.sum(-1, keepdim=True)


def score(velocity, x, sigma):
    t = sigma / (1 + sigma)
    return -(x + velocity((1 - t) * x, t)) / (sigma * (1 + sigma))


def clock(sigma):
    integral = torch.log(1 + sigma**2)
    return 2 * integral / (0.1 + torch.sqrt(0.01 + 39.8 * integral))


def gaussian_score(x, sigma, mean, covariance):
    return torch.linalg.solve(covariance + sigma**2 * torch.eye(3).double(), (mean - x).T).T


def gaussian_noise_kept(x, sigma, mean, covariance):
    noised = covariance + sigma**2 * torch.eye(3).double()
    return mean + sigma**2 * torch.linalg.solve(noised, (x - mean).T).T


def gaussian_sigma_not_squared(x, sigma, mean, covariance):
    noised = covariance + sigma * torch.eye(3).double()
    return mean + torch.linalg.solve(noised, (x - mean).T).T @ covariance


def gaussian_sigma_everywhere(x, sigma, mean, covariance):
    return mean + torch.linalg.solve(covariance + sigma**2, (x - mean).T).T @ covariance


def gaussian_entrywise(x, sigma, mean, covariance):
    gain = covariance / (covariance + sigma**2 * torch.eye(3).double())
    return mean + (x - mean) @ gain


def gaussian_diagonal(x, sigma, mean, covariance):
    variances = covariance.diag()
    return mean + variances / (variances + sigma**2) * (x - mean)


def gaussian_towards_zero(x, sigma, mean, covariance):
    return gaussian(x, sigma, torch.zeros(3).double(), covariance)


def gaussian_without_mean(x, sigma, mean, covariance):
    return gaussian(x, sigma, mean, covariance) - mean


def dataset_without_half(x, sigma, data):
    return dataset(x, sigma / 2**0.5, data)


def dataset_sigma_not_squared(x, sigma, data):
    return torch.softmax(-(torch.cdist(x, data) ** 2) / (2 * sigma), -1) @ data


def dataset_distance_not_squared(x, sigma, data):
    return torch.softmax(-torch.cdist(x, data) / (2 * sigma**2), -1) @ data


def dataset_wrong_axis(x, sigma, data):
    return torch.softmax(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), 0) @ data


def dataset_unnormalised(x, sigma, data):
    return torch.exp(-(torch.cdist(x, data) ** 2) / (2 * sigma**2)) @ data


def dataset_nearest(x, sigma, data):
    return data[torch.cdist(x, data).argmin(-1)]


def dataset_underflows(x, sigma, data):
    weights = torch.exp(-(torch.cdist(x, data) ** 2) / (2 * sigma**2))
    return weights @ data / weights.sum(-1, keepdim=True)


def dataset_guarded(x, sigma, data):
    weights = torch.exp(-(torch.cdist(x, data) ** 2) / (2 * sigma**2))
    return weights @ data / (weights.sum(-1, keepdim=True) + 1e-12)


def score_sign(velocity, x, sigma):
    return -score(velocity, x, sigma)


def score_by_sigma(velocity, x, sigma):
    return score(velocity, x, sigma) * sigma


def score_denoised(velocity, x, sigma):
    return x + sigma**2 * score(velocity, x, sigma)


def score_minus_native(velocity, x, sigma):
    t = sigma / (1 + sigma)
    x_t = (1 - t) * x
    return ((x_t - t * velocity(x_t, t)) - x_t) / sigma**2


def score_native(velocity, x, sigma):
    return score(velocity, x, sigma) * (1 + sigma)


def score_no_scaling(velocity, x, sigma):
    t = sigma / (1 + sigma)
    return ((x - t * velocity(x, t)) - x) / sigma**2


def score_network_unscaled(velocity, x, sigma):
    t = sigma / (1 + sigma)
    return (((1 - t) * x - t * velocity(x, t)) - x) / sigma**2


def score_velocity_times_sigma(velocity, x, sigma):
    t = sigma / (1 + sigma)
    x_t = (1 - t) * x
    return ((x_t - sigma * velocity(x_t, t)) - x) / sigma**2


def score_sigma_as_time(velocity, x, sigma):
    x_t = (1 - sigma) * x
    return ((x_t - sigma * velocity(x_t, sigma)) - x) / sigma**2


def clock_of_native_sigma(sigma):
    integral = -torch.log(1 - sigma**2)
    return (-0.1 + torch.sqrt(0.01 + 39.8 * integral)) / 19.9


def clock_not_squared(sigma):
    return (-0.1 + torch.sqrt(0.01 + 39.8 * torch.log(1 + sigma))) / 19.9


def clock_factor_two(sigma):
    return (-0.1 + torch.sqrt(0.01 + 19.9 * torch.log(1 + sigma**2))) / 19.9


def clock_without_half(sigma):
    return (-0.1 + torch.sqrt(0.01 + 79.6 * torch.log(1 + sigma**2))) / 39.8


def clock_negative(sigma):
    return (-0.1 - torch.sqrt(0.01 + 39.8 * torch.log(1 + sigma**2))) / 19.9


def clock_no_beta_min(sigma):
    return torch.sqrt(torch.log(1 + sigma**2) / 9.95)


def clock_in_steps(sigma):
    return 1000 * clock(sigma)


def clock_only_low(sigma):
    return torch.where(sigma < 1, clock(sigma), torch.nan)


# ---------------------------------------------------------------- answers, notebook 02


def eye(n):
    return torch.eye(n, dtype=F64)


def ddim(sigmas):
    solver = linear_multistep(sigmas, eye(len(sigmas) - 1), "noise")
    return solver.A, solver.B


def ab2(older, now, after):
    middle = (now + after) / 2
    return (middle - older) / (now - older), (now - middle) / (now - older)


def dpmpp(sigmas):
    return dpmpp_weights(sigmas, 2)


def ab2_table(sigmas):
    solver = linear_multistep(sigmas, polynomial_weights(sigmas, 2, lambda s: s), "noise")
    return solver.A, solver.B


def consistent(sigmas, A, B):
    """By experiment: two constant denoisers, two directions."""
    passed = torch.ones(len(A), dtype=torch.bool)
    for d, e in ((1.0, 0.0), (0.3, -2.0)):
        states = d + sigmas * e
        following = A @ states[:-1] + B @ torch.full_like(states[:-1], d)
        passed &= (following - states[1:]).abs() < 1e-9
    return passed


def ddim_swapped(sigmas):
    return ddim(sigmas)[::-1]


def ddim_upside_down(sigmas):
    keep = sigmas[:-1] / sigmas[1:]
    return torch.diag(keep), torch.diag(1 - keep)


def ddim_state_kept_whole(sigmas):
    return eye(len(sigmas) - 1), ddim(sigmas)[1]


def ddim_sign(sigmas):
    A, B = ddim(sigmas)
    return A, -B


def ddim_whole_output(sigmas):
    return ddim(sigmas)[0], eye(len(sigmas) - 1)


def ddim_native(sigmas):
    alpha = torch.rsqrt(1 + sigmas**2)
    A = alpha[1:] * sigmas[1:] / (alpha * sigmas)[:-1]
    return torch.diag(A), torch.diag(alpha[1:] - alpha[:-1] * A)


def ddim_vectors(sigmas):
    A, B = ddim(sigmas)
    return A.diag(), B.diag()


def ab2_uniform(older, now, after):
    return 1.5, -0.5


def ab2_swapped(older, now, after):
    return ab2(older, now, after)[::-1]


def ab2_upside_down(older, now, after):
    w = (now - older) / (after - now) / 2
    return 1 + w, -w


def ab2_without_half(older, now, after):
    r = (after - now) / (now - older)
    return 1 + r, -r


def ab2_sign(older, now, after):
    r = (after - now) / (now - older)
    return 1 - r / 2, r / 2


def ab2_in_log(older, now, after):
    return ab2(older.log(), now.log(), after.log())


def ab2_times_step(older, now, after):
    return tuple(w * (after - now) for w in ab2(older, now, after))


def ab2_wrong_sum(older, now, after):
    return 1.2, -0.3


def ab2_wrong_line(older, now, after):
    return 1.3, -0.3


def dpmpp_ratio(sigmas, half=0.5, power=1, clock=torch.log):
    h = -clock(sigmas).diff()
    older = half * (h[1:] / h[:-1]) ** power
    return torch.diag(torch.cat([older.new_zeros(1), older])) + eye(len(h)) - torch.diag(older, -1)


def dpmpp_no_warm_up(sigmas):
    W = dpmpp(sigmas)
    W[0, 0] = 1.5
    return W


def bug_left_in(sigmas, a=True, b=True):
    """ab2 with noises divided by the level of the row, in A, in B or in both."""
    weights, own = polynomial_weights(sigmas, 2, lambda s: s), sigmas[:-1]
    step, row = sigmas.diff()[:, None], sigmas[:-1, None]
    A = eye(len(own)) + step * weights / (row if a else own)
    return A, -step * weights / (row if b else own)


def bug_next_level(sigmas):
    weights, step = polynomial_weights(sigmas, 2, lambda s: s), sigmas.diff()[:, None]
    return eye(len(weights)) + step * weights / sigmas[1:, None], -step * weights / sigmas[1:, None]


def bug_other_solver(sigmas):
    solver = linear_multistep(sigmas, ipndm_weights(sigmas, 2), "noise")
    return solver.A, solver.B


def bug_worse(sigmas):
    A, B = ab2_table(sigmas)
    return A, 0.9 * B


def only_sums(sigmas, A, B):
    return ((A + B).sum(1) - 1).abs() < 1e-9


def only_along_e(sigmas, A, B):
    return (A @ sigmas[:-1] - sigmas[1:]).abs() < 1e-9


def only_the_diagonal(sigmas, A, B):
    return (A.diag() - sigmas[1:] / sigmas[:-1]).abs() < 1e-9


def without_tolerance(sigmas, A, B):
    return ((A + B).sum(1) == 1) & (A @ sigmas[:-1] == sigmas[1:])


def wrong_levels(sigmas, A, B):
    return only_sums(sigmas, A, B) & ((A @ sigmas[1:] - sigmas[1:]).abs() < 1e-9)


def one_bool(sigmas, A, B):
    return consistent(sigmas, A, B).all()


# ---------------------------------------------------------------- answers, notebook 04


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
        def denoise(x, sigma):
            within = (where or (lambda s: low < s <= high))(float(sigma))
            if wasteful:
                conditional(x, sigma)
            if within:
                return inside(conditional(x, sigma), unconditional(x, sigma), w)
            return {"conditional": conditional, "unconditional": unconditional}[outside](x, sigma)

        return denoise

    return in_interval


def fitted(horizontal=lambda n: 1 / n, result=lambda d, b, u: d.mean() - b * u.mean()):
    """Least squares of d over ``horizontal(n)``, and what of it is returned."""

    def at_infinity(counts, distances):
        u = horizontal(torch.tensor(counts, dtype=torch.float64))
        d = torch.tensor(distances, dtype=torch.float64)
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


# ---------------------------------------------------------------- the checks

RIGHT = {
    "00-worth": (lambda target: 8, distance, 0.13),
    "00-count": lambda steps, order: sum(min(i + 1, order) for i in range(steps)),
    "00-row-sums": lambda solver: (solver.A + solver.B).sum(1).tolist(),
    "01-gaussian": gaussian,
    "01-dataset": dataset,
    "01-score": score,
    "01-clock": clock,
    "02-ddim": ddim,
    "02-ab2": ab2,
    "02-dpmpp-2m": dpmpp,
    "02-bug": ab2_table,
    "02-consistency": consistent,
    "04-score": score_adapter(),
    "04-interval": interval(),
    "04-infinity": fitted(),
    "04-copies": copies,
}

WRONG = [
    ("00-worth", (lambda target: 7, distance, 0.13), "still above"),
    ("00-worth", (lambda target: 9, distance, 0.13), "smallest"),
    ("00-count", lambda steps, order: steps * order, "less history"),
    ("00-count", lambda steps, order: sum(min(i, order) for i in range(steps)), "from 1"),
    ("00-count", lambda n, k: k * n - k * (k - 1) // 2 if n > 2 else 6, "few steps"),
    ("00-row-sums", lambda solver: (solver.A + solver.B).sum(0).tolist(), "columns"),
    ("00-row-sums", lambda solver: solver.B.sum(1).tolist(), "B alone"),
    ("00-row-sums", lambda solver: solver.B.sum(1), "tolist"),
    ("01-gaussian", gaussian_score, "you return the score"),
    ("01-gaussian", gaussian_noise_kept, "kept the noise"),
    ("01-gaussian", gaussian_sigma_not_squared, "sigma**2 on the diagonal"),
    ("01-gaussian", gaussian_sigma_everywhere, "diagonal only"),
    ("01-gaussian", gaussian_entrywise, "entry by entry"),
    ("01-gaussian", gaussian_diagonal, "off-diagonal"),
    ("01-gaussian", gaussian_towards_zero, "towards 0"),
    ("01-gaussian", gaussian_without_mean, "add the mean back"),
    ("01-gaussian", lambda x, s, m, c: x[:, :1], "shape (5, 1)"),
    ("01-gaussian", lambda x, s, m, c: None, "return statement"),
    ("01-gaussian", lambda x, s, m, c: 3 * x, "not yet"),
    ("01-dataset", dataset_without_half, "½"),
    ("01-dataset", dataset_sigma_not_squared, "not by σ"),
    ("01-dataset", dataset_distance_not_squared, "squared"),
    ("01-dataset", dataset_wrong_axis, "over the data"),
    ("01-dataset", dataset_unnormalised, "do not sum to 1"),
    ("01-dataset", dataset_nearest, "the average is soft"),
    ("01-dataset", dataset_underflows, "0/0 at sigma = 0.001"),
    ("01-dataset", dataset_guarded, "Adding a small number"),
    ("01-score", score_sign, "wrong sign"),
    ("01-score", score_by_sigma, "by σ², not by σ"),
    ("01-score", score_denoised, "stopped at the denoised point"),
    ("01-score", score_minus_native, "not for x_t"),
    ("01-score", score_native, "own coordinate"),
    ("01-score", score_no_scaling, "lives in the coordinate"),
    ("01-score", score_network_unscaled, "where it wants x_t"),
    ("01-score", score_velocity_times_sigma, "by t, not by sigma"),
    ("01-score", score_sigma_as_time, "you told it sigma"),
    ("01-clock", clock_of_native_sigma, "σ_t, not σ_t/α_t"),
    ("01-clock", clock_not_squared, "squared"),
    ("01-clock", clock_factor_two, "factor of 2"),
    ("01-clock", clock_without_half, "with a ½"),
    ("01-clock", clock_negative, "negative root"),
    ("01-clock", clock_no_beta_min, "left out"),
    ("01-clock", clock_in_steps, "not from 0 to 1000"),
    ("01-clock", clock_only_low, "NaN"),
    ("02-ddim", ddim_swapped, "return (A, B)"),
    ("02-ddim", ddim_upside_down, "upside down"),
    ("02-ddim", ddim_state_kept_whole, "A is sigma[i+1] / sigma[i], not 1"),
    ("02-ddim", ddim_sign, "wrong sign"),
    ("02-ddim", ddim_whole_output, "1 minus that share"),
    ("02-ddim", ddim_native, "own coordinate"),
    ("02-ddim", ddim_vectors, "shape (2, 4)"),
    ("02-ddim", lambda sigmas: ddim(sigmas)[0], "return two matrices"),
    ("02-ab2", ab2_uniform, "uniform grid only"),
    ("02-ab2", ab2_swapped, "wrong order"),
    ("02-ab2", ab2_upside_down, "upside down"),
    ("02-ab2", ab2_without_half, "factor ½"),
    ("02-ab2", ab2_sign, "wrong sign"),
    ("02-ab2", ab2_in_log, "in log σ"),
    ("02-ab2", ab2_times_step, "bare weights"),
    ("02-ab2", ab2_wrong_sum, "0.9 times"),
    ("02-ab2", ab2_wrong_line, "middle of the step"),
    ("02-ab2", lambda *levels: 1.0, "return two numbers"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, power=-1), "upside down"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, clock=lambda x: x), "steps in σ"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, half=1), "½ is missing"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, half=-0.5), "wrong sign"),
    ("02-dpmpp-2m", lambda s: polynomial_weights(s, 2, torch.log, "data"), "exp-ab2"),
    ("02-dpmpp-2m", lambda s: dpmpp(s).T, "transpose"),
    ("02-dpmpp-2m", lambda s: ipndm_weights(s, 2), "all steps in λ were equal"),
    ("02-dpmpp-2m", dpmpp_no_warm_up, "row 0"),
    ("02-dpmpp-2m", lambda s: eye(len(s) - 1), "no memory"),
    ("02-dpmpp-2m", lambda s: eye(len(s)), "shape (6, 6)"),
    ("02-bug", bug_left_in, "broken table still"),
    ("02-bug", lambda s: bug_left_in(s, a=False), "only A is repaired"),
    ("02-bug", lambda s: bug_left_in(s, b=False), "only B is repaired"),
    ("02-bug", ddim, "memory is gone"),
    ("02-bug", bug_next_level, "level that the step goes to"),
    ("02-bug", bug_other_solver, "another solver"),
    ("02-bug", bug_worse, "measured order is"),
    ("02-bug", lambda s: ab2_table(s)[0], "return two matrices"),
    ("02-consistency", only_sums, "Σ_j A_ij σ_j = σ_{i+1}"),
    ("02-consistency", only_along_e, "Σ_j (A_ij + B_ij) = 1"),
    ("02-consistency", only_the_diagonal, "off the diagonal"),
    ("02-consistency", without_tolerance, "no =="),
    ("02-consistency", wrong_levels, "you reject it"),
    ("02-consistency", one_bool, "one bool for each"),
    ("02-consistency", lambda s, A, B: (A + B).sum(1) - 1, "True and False"),
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
    ("04-interval", interval(where=lambda s: not 0.3 < s <= 5.0), "below low"),
    ("04-interval", interval(where=lambda s: s > 0.3), "above high"),
    ("04-interval", interval(where=lambda s: False), "upside down"),
    ("04-interval", interval(lambda c, u, w: c + w * (c - u)), "the other convention"),
    ("04-interval", interval(lambda c, u, w: c + w * (u - c)), "exchanged"),
    ("04-interval", interval(lambda c, u, w: w * (c - u)), "in front"),
    ("04-interval", interval(outside="unconditional"), "label is lost"),
    ("04-interval", interval(wasteful=True), "save calls"),
    ("04-interval", lambda *parts: lambda x, sigma: x, "return the state"),
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


def said(capsys, name: str, answer) -> str:
    check(name, answer)
    return capsys.readouterr().out


def test_every_check_is_tried():
    own = {name for name in CHECKS if name[:2] in {"00", "01", "02", "04"}}
    assert set(RIGHT) == {name for name, *_ in WRONG} == own


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert said(capsys, name, RIGHT[name]).startswith(f"✓ {name}")


@pytest.mark.parametrize(("name", "answer", "words"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, words, capsys):
    sentence = said(capsys, name, answer)
    assert sentence.startswith(f"✗ {name}")
    assert words in sentence


@pytest.mark.parametrize("name", RIGHT)
def test_an_empty_stub_is_not_an_error(name, capsys):
    def stub(*arguments):
        raise NotImplementedError("your turn")

    answer = (stub, *RIGHT[name][1:]) if isinstance(RIGHT[name], tuple) else stub
    assert "nothing here yet" in said(capsys, name, answer)

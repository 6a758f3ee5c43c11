"""Right and wrong answers to the exercises of notebook 01."""

import torch


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


RIGHT = {
    "01-gaussian": gaussian,
    "01-dataset": dataset,
    "01-score": score,
    "01-clock": clock,
}

WRONG = [
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
]

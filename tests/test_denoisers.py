"""The exact mixture, the adapters, guidance, and the count of network calls."""

import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import Counted, GaussianMixture, from_data, from_noise, from_velocity, guided
from s4s_nb.errors import InputError
from s4s_nb.schedules import VE, Flow, VPCosine, VPDiscrete, VPLinear
from s4s_nb.solvers import sample
from tests.problems import F64, MIXTURE, log_grid, noise

integrate = pytest.importorskip("scipy.integrate")


def native(schedule, kind: str):
    """A network in its own convention, from the mixture: what it predicts of x_t at time t."""

    def net(x_t, t):
        sigma = schedule.level(t)
        alpha = schedule.alpha(sigma)
        x = x_t / alpha
        d = MIXTURE(x, sigma)
        eps = (x - d) / sigma
        if kind == "velocity":
            flow = isinstance(schedule, Flow)
            return eps - d if flow else alpha * eps - alpha * sigma * d
        return {"data": d, "noise": eps}[kind]

    return net


ADAPTERS = {"data": from_data, "noise": from_noise, "velocity": from_velocity}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(
    "schedule", [VPLinear(), VPCosine(), VPDiscrete.from_betas(), Flow()], ids=lambda s: type(s).__name__
)
def test_every_process_and_prediction_gives_the_same_samples(schedule, kind):
    solver = make_solver("dpmpp-3m", 12, log_grid)
    start = 4 * noise()
    adapted = sample(ADAPTERS[kind](native(schedule, kind), schedule), start, solver)
    assert (adapted - sample(MIXTURE, start, solver)).abs().max() < 1e-10


def test_ve_velocity_is_the_noise():
    def net(x, t):
        return (x - MIXTURE(x, t)) / t

    sigma = torch.tensor(0.7, dtype=F64)
    assert (from_velocity(net, VE())(noise(), sigma) - MIXTURE(noise(), sigma)).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [2.0, 0.1])
def test_posterior_mean_against_quadrature(sigma):
    mixture = GaussianMixture([[-1.0], [0.5]], [0.2, 0.6], torch.tensor([0.3, 0.7]))
    x = 0.4

    def joint(y):
        y = torch.tensor([[y]], dtype=F64)
        prior = mixture.log_density(y, torch.tensor(0.0, dtype=F64)).exp()
        return float(prior * torch.exp(-((x - y) ** 2) / (2 * sigma**2)))

    top, _ = integrate.quad(lambda y: y * joint(y), -8, 8, points=[-1, 0.4, 0.5], epsabs=1e-13)
    bottom, _ = integrate.quad(joint, -8, 8, points=[-1, 0.4, 0.5], epsabs=1e-13)
    exact = mixture(torch.tensor([[x]], dtype=F64), torch.tensor(sigma, dtype=F64))
    assert exact.item() == pytest.approx(top / bottom, rel=1e-7)


def test_score_is_the_gradient_of_the_log_density():
    x, sigma = noise().requires_grad_(), torch.tensor(0.6, dtype=F64)
    (gradient,) = torch.autograd.grad(MIXTURE.log_density(x, sigma).sum(), x)
    assert (MIXTURE.score(x, sigma) - gradient).abs().max() < 1e-10


def test_stable_at_tiny_noise_and_tiny_spread():
    mixture = GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], [1e-3, 1e-3])
    x = torch.tensor([[4.0, 1.0], [0.01, 0.0], [-300.0, 2.0]], dtype=F64)
    d = mixture(x, torch.tensor(1e-3, dtype=F64))
    halfway = mixture.means[[1, 1, 0]]
    assert torch.isfinite(d).all()
    assert torch.allclose(d, (x + halfway) / 2)  # s = σ: half of the way to the nearest mean


def test_draws_have_the_moments_of_the_mixture():
    x = MIXTURE.draw(40_000, torch.Generator().manual_seed(0))
    mean = MIXTURE.log_weights.exp() @ MIXTURE.means
    assert (x.mean(0) - mean).abs().max() < 0.02


def test_one_component_is_a_gaussian_and_bad_mixtures_are_refused():
    gaussian = GaussianMixture([[1.0, 2.0]], [[0.5, 2.0]])
    x, sigma = noise(), torch.tensor(1.5, dtype=F64)
    variance = torch.tensor([0.25, 4.0], dtype=F64)
    expected = gaussian.means + variance / (variance + 2.25) * (x - gaussian.means)
    assert torch.allclose(gaussian(x, sigma), expected)
    with pytest.raises(InputError, match="positive"):
        GaussianMixture([[0.0]], [0.0])
    with pytest.raises(InputError, match=r"weights of shape \(2,\)"):
        GaussianMixture([[0.0], [1.0]], [1.0, 1.0], torch.tensor([1.0]))
    with pytest.raises(InputError, match=r"\(k, d\)"):
        GaussianMixture([0.0, 1.0], [1.0, 1.0])


def test_guidance_counts_two_calls_and_extrapolates():
    conditional, unconditional = Counted(lambda x, s: x + 1), Counted(lambda x, s: x)
    d = guided(conditional, unconditional, 3.0)(torch.zeros(2), torch.tensor(1.0))
    assert d.tolist() == [3.0, 3.0]
    assert conditional.nfe + unconditional.nfe == 2

"""The exact mixture, the adapters, guidance, and the count of network calls."""

import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import (
    Counted,
    checkpointed,
    clipped,
    from_data,
    from_noise,
    from_velocity,
    guided,
    low_precision,
)
from s4s_nb.errors import InputError
from s4s_nb.grids import karras
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.schedules import VE, Flow, VPCosine, VPDiscrete, VPLinear
from s4s_nb.solvers import solve
from tests.problems import F64, MIXTURE, SMOOTH, noise, pairs, problem, student

integrate = pytest.importorskip("scipy.integrate")


# Forward processes x_t = α_t x_0 + σ_t ε as their papers write them, without the package's schedules:
# native time → (α_t, σ_t), and the times at which a solver steps.


def vp_linear(t):
    """Song et al. 2021, eq. 33: α_t = exp(−½ ∫β) with β from 0.1 to 20."""
    alpha = torch.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
    return alpha, torch.sqrt(1 - alpha**2)


def vp_cosine(t):
    """Nichol and Dhariwal 2021, eq. 17: ᾱ_t = f(t)/f(0)."""
    now, start = (torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2 for u in (t, torch.zeros_like(t)))
    return torch.sqrt(now / start), torch.sqrt(1 - now / start)


def vp_discrete(t):
    """Ho et al. 2020: ᾱ_t = Π(1 − β) with β from 1e-4 to 0.02 in 1000 steps; whole timesteps only."""
    assert (t - t.round()).abs().max() < 1e-6
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)[t.round().long()]
    return torch.sqrt(bar), torch.sqrt(1 - bar)


def flow(t):
    """Liu et al. 2023, eq. 1."""
    return 1 - t, t


PROCESSES = {
    "vp linear": (VPLinear(), vp_linear, torch.linspace(0.6, 0.05, 13, dtype=F64)),
    "vp cosine": (VPCosine(), vp_cosine, torch.linspace(0.85, 0.04, 13, dtype=F64)),
    "vp discrete": (VPDiscrete.from_betas(), vp_discrete, torch.arange(620.0, 0.0, -50, dtype=F64)),
    "rectified flow": (Flow(), flow, torch.linspace(0.8, 0.05, 13, dtype=F64)),
}
ADAPTERS = {"data": from_data, "noise": from_noise, "velocity": from_velocity}


def native_network(process, kind: str):
    """The exact posterior means of x_0, ε or v given x_t, from the mixture's own numbers."""

    def net(x_t, t):
        alpha, sigma = process(t)
        variances = alpha**2 * SMOOTH.variances + sigma**2  # of x_t, in each component
        offsets = x_t[:, None] - alpha * SMOOTH.means
        densities = torch.exp(-0.5 * (offsets**2 / variances).sum(-1)) / variances.prod(-1).sqrt()
        joint = SMOOTH.log_weights.exp() * densities
        posterior = (joint / joint.sum(-1, keepdim=True))[..., None]
        noise = (posterior * sigma * offsets / variances).sum(1)
        data = (posterior * (SMOOTH.means + alpha * SMOOTH.variances * offsets / variances)).sum(1)
        velocity = noise - data if process is flow else alpha * noise - sigma * data
        return {"data": data, "noise": noise, "velocity": velocity}[kind]

    return net


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_and_prediction_gives_the_same_samples(name, kind):
    schedule, process, times = PROCESSES[name]
    alpha, sigma = process(times)
    levels = sigma / alpha
    solver = make_solver("dpmpp-3m", len(levels) - 1, lambda _: levels)
    start = levels[0] * noise()
    adapted = solve(ADAPTERS[kind](native_network(process, kind), schedule), start, solver)
    assert (adapted - solve(SMOOTH, start, solver)).abs().max() < 1e-10


def test_ve_velocity_is_the_noise():
    def net(x, t):
        return (x - SMOOTH(x, t)) / t

    sigma = torch.tensor(0.7, dtype=F64)
    assert (from_velocity(net, VE())(noise(), sigma) - SMOOTH(noise(), sigma)).abs().max() < 1e-12


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
    (gradient,) = torch.autograd.grad(SMOOTH.log_density(x, sigma).sum(), x)
    assert (SMOOTH.score(x, sigma) - gradient).abs().max() < 1e-10


def test_stable_at_tiny_noise_and_tiny_spread():
    mixture = GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], [1e-3, 1e-3])
    x = torch.tensor([[4.0, 1.0], [0.01, 0.0], [-300.0, 2.0]], dtype=F64)
    d = mixture(x, torch.tensor(1e-3, dtype=F64))
    halfway = mixture.means[[1, 1, 0]]
    assert torch.isfinite(d).all()
    assert torch.allclose(d, (x + halfway) / 2)  # s = σ: half of the way to the nearest mean


def test_draws_have_the_moments_of_the_mixture():
    x = SMOOTH.draw(40_000, torch.Generator().manual_seed(0))
    mean = SMOOTH.log_weights.exp() @ SMOOTH.means
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


def test_clipping_keeps_predictions_in_the_range_of_images():
    denoise = clipped(lambda x, sigma: 3 * x)
    x = torch.tensor([-2.0, -0.2, 0.0, 0.3, 1.0])
    assert torch.allclose(denoise(x, torch.tensor(1.0)), torch.tensor([-1.0, -0.6, 0.0, 0.9, 1.0]))


def test_low_precision_is_the_networks_alone():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Conv2d(8, 1, 3, padding=1))
    inside = []
    net[0].register_forward_hook(lambda _, __, out: inside.append(out.dtype))
    solver = make_solver("dpmpp-2m", 4, lambda n: karras(n, 10.0, 0.01))
    x = 10 * torch.randn(2, 1, 8, 8, requires_grad=True)
    ends, gradients = [], []
    for network in (net, low_precision(net)):
        end = solve(from_data(lambda native, t, n=network: n(native / 10), VE()), x, solver)
        ends.append(end.detach())
        gradients.append(torch.autograd.grad(end.square().sum(), x)[0])
    assert set(inside[:4]) == {torch.float32} and set(inside[4:]) == {torch.bfloat16}
    assert ends[1].dtype == torch.float32
    for full, half in (ends, gradients):
        error = float((half - full).norm() / full.norm())
        assert 0 < error < 0.02


def test_checkpointing_has_the_same_gradients_for_one_more_evaluation():
    counted, here, gradients = Counted(MIXTURE), student("dpmpp-2m", 4), []
    for denoise in (MIXTURE, checkpointed(counted)):
        by = (here.zero(("coefficients",)) + 0.05).requires_grad_()
        given = problem(denoise=denoise)
        given.loss(here.moved(by, ("coefficients",)), pairs("train", 5)).backward()
        gradients.append(by.grad)
    assert torch.equal(*gradients)
    looks = 2 + 2  # of the contract, and of the activations
    assert counted.nfe - looks == 2 * 4 - 1  # the first output depends on no parameter


def test_checkpointing_takes_conditions():
    def conditional(x, sigma, *, shift):
        return torch.tanh(x + shift) * sigma

    x, shift = noise().requires_grad_(), noise(seed=1)
    sigma = torch.tensor(2.0, dtype=F64)
    one, other = (
        torch.autograd.grad(denoise(x, sigma, shift=shift).square().sum(), x)[0]
        for denoise in (conditional, checkpointed(conditional))
    )
    assert torch.equal(one, other)

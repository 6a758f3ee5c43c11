"""Theory: orders of convergence, consistency, limits, gradients, and the papers' own formulas."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4s_nb.classic import NAMES, make_solver
from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.grids import karras, log_snr, uniform_t
from s4s_nb.multistep import (
    FORMS,
    dpmpp_weights,
    ipndm_weights,
    linear_multistep,
    polynomial_weights,
    predictor_corrector,
    unipc_weights,
)
from s4s_nb.schedules import Flow
from s4s_nb.single_step import LADDERS
from s4s_nb.solvers import solve, trajectory
from tests.problems import F64, SMOOTH, fake_denoiser, graded_grid, log_grid, noise, to_zero

integrate = pytest.importorskip("scipy.integrate")

START = 4 * noise()


def adaptive(rtol: float) -> torch.Tensor:
    """The mixture's ODE from σ = 4 to 0.05 by scipy's DOP853."""

    def slope(sigma, y):
        x = torch.from_numpy(y).reshape(START.shape)
        return ((x - SMOOTH(x, torch.tensor(sigma, dtype=F64))) / sigma).ravel().numpy()

    solution = integrate.solve_ivp(
        slope, (4.0, 0.05), START.ravel().numpy(), method="DOP853", rtol=rtol, atol=rtol / 10
    )
    return torch.from_numpy(solution.y[:, -1]).reshape(START.shape)


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return adaptive(1e-12)


def slope_of(name: str, exact: torch.Tensor, counts: list[int], grid) -> float:
    """Slope of log error on log steps by least squares."""
    ends = [solve(SMOOTH, START, make_solver(name, n, grid)) for n in counts]
    errors = torch.stack([(x - exact).square().mean().sqrt() for x in ends]).log()
    # Where the grid starts with 12 tiny steps, what halves is the size of the others.
    steps = torch.tensor([float(n - 12 if grid is graded_grid else n) for n in counts], dtype=F64).log()
    steps, errors = steps - steps.mean(), errors - errors.mean()
    return -float((steps * errors).sum() / (steps**2).sum())


# One step of Euler at the start has error h², so a multistep method with an Euler warm-up is of
# order 2 at most. With a graded start it has its own order. UniPC's corrector adds one.
PLAIN = {
    "euler": 1, "ipndm-1": 1, "deis-1": 1, "dpmpp-1": 1, "flow-ab1": 1, "flow-ab2": 2,
    "ab2": 2, "ipndm-2": 2, "deis-2": 2, "dpmpp-2m": 2, "exp-ab2": 2, "heun": 2, "dpm-2s": 2,
    "unipc-1-bh1": 2, "unipc-1-bh2": 2, "unipc-2-bh1": 3, "unipc-2-bh2": 3, "dpm-3s": 3,
    # Weights of a uniform grid elsewhere: of order 2 on any smooth grid, never more.
    "ipndm-3": 2, "ipndm-4": 2,
    # Published with half of the second difference's weight: order 2 with a small constant.
    "dpmpp-3m": 2,
}  # fmt: skip
GRADED = {
    "ab3": 3, "ab4": 4, "deis-3": 3, "exp-ab3": 3, "unipc-3-bh1": 4, "unipc-3-bh2": 4,
    "dpmpp-3m": 2, "ipndm-4": 2, "flow-ab3": 3,
}  # fmt: skip


def test_every_solver_has_its_order_tested():
    assert set(PLAIN) | set(GRADED) == set(NAMES)


@pytest.mark.parametrize("name", PLAIN)
def test_order_of_convergence(name, exact):
    counts = [96, 192, 384] if name != "dpm-3s" else [96, 192, 288]
    assert slope_of(name, exact, counts, log_grid) == pytest.approx(PLAIN[name], abs=0.2)


@pytest.mark.parametrize("name", GRADED)
def test_order_of_convergence_after_a_graded_start(name, exact):
    assert slope_of(name, exact, [108, 204, 396], graded_grid) == pytest.approx(GRADED[name], abs=0.2)


def test_an_euler_start_limits_adams_bashforth_to_order_2(exact):
    assert slope_of("ab4", exact, [200, 400, 800], log_grid) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_has_its_order_on_a_uniform_grid(order):
    """One step from exact history: the local error falls by 2^(order + 1)."""

    def local_error(h: float) -> float:
        sigmas = 2.0 - h * torch.arange(order + 1, dtype=F64)
        weights = ipndm_weights(sigmas, order)[-1]
        exact = sigmas[-1].exp() - sigmas[-2].exp()
        return abs(float(exact - (sigmas[-1] - sigmas[-2]) * weights @ sigmas[:-1].exp()))

    rate = torch.tensor(local_error(0.02) / local_error(0.01)).log2()
    assert rate == pytest.approx(order + 1, abs=0.2)


def test_published_3m_weighs_the_second_difference_half():
    """Σ_j w_j (λ_j − λ_i)²: the first difference does not see a square, only the second does."""
    sigmas = log_snr(6, 4.0, 0.05)
    squares = torch.arange(2, -1, -1, dtype=F64) ** 2
    published = dpmpp_weights(sigmas, 3)[-1, -3:] @ squares
    exact = polynomial_weights(sigmas, 3, torch.log, "data")[-1, -3:] @ squares
    assert float(published) == pytest.approx(float(exact) / 2, rel=1e-9)


FLOW_GRIDS = {
    "to 0.005": log_snr(6, 1000.0, 0.005),
    "to 0": to_zero(Flow().level(torch.linspace(0.999, 0.2, 6, dtype=F64))),
}


@pytest.mark.parametrize("sigmas", FLOW_GRIDS.values(), ids=FLOW_GRIDS)
@pytest.mark.parametrize("weights", ["random", "flow-ab3"])
def test_velocity_form_is_the_rectified_flow_s_own_sampler(weights, sigmas):
    """z ← z + (t_{i+1} − t_i) Σ_j W_ij v_j with z = (1 − t) x_0 + t ε, written out for a network v."""

    def velocity(z, t):
        return torch.sin(2 * z) - t * z

    def denoise(x, sigma):  # D = z − t v, asked at x = z/(1 − t)
        t = sigma / (1 + sigma)
        return (1 - t) * x - t * velocity((1 - t) * x, t)

    t = Flow().time(sigmas)
    W = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=F64).tril()
    if weights == "flow-ab3":
        W = polynomial_weights(sigmas, 3, Flow().time, "velocity")
    z, slopes = noise(), []
    states, _ = trajectory(denoise, z / (1 - t[0]), linear_multistep(sigmas, W, "velocity"))
    for i in range(6):
        slopes.append(velocity(z, t[i]))
        z = z + (t[i + 1] - t[i]) * sum(W[i, j] * slopes[j] for j in range(i + 1))
        assert ((1 - t[i + 1]) * states[i + 1] - z).abs().max() < 1e-10


@pytest.mark.parametrize("sigmas", FLOW_GRIDS.values(), ids=FLOW_GRIDS)
def test_euler_is_ddim_in_every_form(sigmas):
    """x' = D + σ' ε, also in flow time, from σ = 1000 and to 0."""
    keep = sigmas[1:] / sigmas[:-1]
    for form in FORMS:
        euler = linear_multistep(sigmas, torch.eye(len(keep), dtype=F64), form)
        assert (euler.A - torch.diag(keep)).abs().max() < 1e-15
        assert (euler.B - torch.diag(1 - keep)).abs().max() < 1e-15


@pytest.mark.parametrize("order", [2, 3])
def test_adams_bashforth_in_flow_time_is_another_solver_than_in_sigma(order):
    ends = [solve(SMOOTH, START, make_solver(name + str(order), 6, log_grid)) for name in ("flow-ab", "ab")]
    assert (ends[0] - ends[1]).abs().max() > 1e-2


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_bashforth_in_flow_time_has_the_textbook_s_weights_on_a_uniform_grid_of_it(order):
    sigmas = uniform_t(6, 1000.0, 0.005, Flow())
    weights = polynomial_weights(sigmas, order, Flow().time, "velocity")
    assert (weights - ipndm_weights(sigmas, order)).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["ab3", "flow-ab3"])
def test_a_last_level_of_0_is_the_limit_of_small_ones(name):
    def ending(last: float) -> torch.Tensor:
        levels = torch.cat([karras(5, 4.0, 0.05), torch.tensor([last], dtype=F64)])
        return solve(SMOOTH, START, make_solver(name, 6, lambda _: levels))

    assert (ending(1e-9) - ending(0.0)).abs().max() < 1e-7


def test_2000_steps_agree_with_an_adaptive_solver():
    end = solve(SMOOTH, START, make_solver("unipc-3-bh2", 2000, log_grid))
    assert (end - adaptive(1e-10)).abs().max() < 1e-6


def test_dpm_solver_3_is_the_paper_s_algorithm_5():
    """Written out for one step, with α = 1: σ_s (e^{r h} − 1) and friends."""
    a, b = torch.tensor([3.0, 0.8], dtype=F64)
    table = make_solver("dpm-3s", 3, lambda _: torch.stack([a, b]))
    h, x = (a / b).log(), START

    def eps(x, s):
        return (x - fake_denoiser(x, s)) / s

    s1, s2 = a * torch.exp(-h / 3), a * torch.exp(-2 * h / 3)
    e0 = eps(x, a)
    u1 = x - s1 * torch.expm1(h / 3) * e0
    d1 = eps(u1, s1) - e0
    u2 = x - s2 * torch.expm1(2 * h / 3) * e0 - 2 * s2 * (torch.expm1(2 * h / 3) / (2 * h / 3) - 1) * d1
    d2 = eps(u2, s2) - e0
    end = x - b * torch.expm1(h) * e0 - 1.5 * b * (torch.expm1(h) / h - 1) * d2
    assert (solve(fake_denoiser, x, table) - end).abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nfe", [1, 2, 3, 5, 8])
def test_nfe_is_what_was_asked_for_and_what_is_counted(name, nfe):
    solver = make_solver(name, nfe, log_grid)
    counted = Counted(fake_denoiser)
    solve(counted, START, solver)
    assert counted.nfe == solver.nfe == nfe


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lower_final", [False, True])
def test_a_constant_denoiser_is_solved_exactly(name, lower_final):
    """x − D shrinks with σ: x_i = D + (σ_i/σ_0)(x_0 − D)."""
    solver = make_solver(name, 7, log_grid, lower_final)
    clean = torch.full_like(START, 0.3)
    states, _ = trajectory(lambda x, sigma: clean, START, solver)
    for x, sigma in zip(states, solver.sigmas, strict=True):
        assert (x - clean - sigma / solver.sigmas[0] * (START - clean)).abs().max() < 1e-12


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LADDERS])
def test_a_last_level_of_0_is_finite_and_one_plain_step(name):
    sigmas = to_zero(karras(5, 4.0, 0.05))
    states, outputs = trajectory(SMOOTH, START, make_solver(name, 6, lambda _: sigmas))
    assert torch.isfinite(states[-1]).all()
    if name.startswith(("dpmpp", "exp", "unipc")):
        assert torch.equal(states[-1], outputs[-1])


@pytest.mark.parametrize("name", LADDERS)
def test_single_step_methods_end_at_0_with_euler(name):
    sigmas = to_zero(karras(2, 4.0, 0.05))
    stages = len(LADDERS[name])
    states, outputs = trajectory(SMOOTH, START, make_solver(name, 2 * stages + 1, lambda _: sigmas))
    assert (states[-1] - outputs[-1]).abs().max() < 1e-12
    with pytest.raises(InputError, match="can spend"):
        make_solver(name, 2 * stages + 2, lambda _: sigmas)


def test_lower_final_lowers_only_the_end():
    plain, lowered = (make_solver("ab3", 6, log_grid, lower) for lower in (False, True))
    assert torch.equal(plain.B[:4], lowered.B[:4])
    assert lowered.B[5].count_nonzero() == 1 and lowered.B[4].count_nonzero() == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=4, max_size=7))
def test_weights_are_exact_for_polynomials_of_their_degree(gaps):
    """Noise 1, τ, τ² is integrated exactly by order 3, on any grid and any clock."""
    sigmas = torch.tensor(gaps, dtype=F64).flip(0).cumsum(0).flip(0)
    weights = polynomial_weights(sigmas, 3, lambda s: s)
    for i in range(2, len(sigmas) - 1):
        for power in range(3):
            value = weights[i] @ sigmas[:-1] ** power * (sigmas[i + 1] - sigmas[i])
            exact = (sigmas[i + 1] ** (power + 1) - sigmas[i] ** (power + 1)) / (power + 1)
            assert float(value) == pytest.approx(float(exact), rel=1e-8, abs=1e-10)


BUILDERS = {
    "ipndm": lambda s: linear_multistep(s, ipndm_weights(s, 3), "noise"),
    "deis": lambda s: linear_multistep(s, polynomial_weights(s, 3, torch.log), "noise"),
    "exp-ab": lambda s: linear_multistep(s, polynomial_weights(s, 3, torch.log, "data"), "data"),
    "flow-ab": lambda s: make_solver("flow-ab3", 4, lambda _: s),
    "dpmpp": lambda s: linear_multistep(s, dpmpp_weights(s, 3), "data"),
    "unipc": lambda s: predictor_corrector(s, *unipc_weights(s, 3), "unipc"),
    "heun": lambda s: make_solver("heun", 8, lambda _: s),
    "dpm-3s": lambda s: make_solver("dpm-3s", 12, lambda _: s),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_gradient_of_a_loss_in_the_levels(name):
    """Against finite differences, through grid, weights and the denoiser's own level."""
    inner = log_grid(4)[1:-1].clone().requires_grad_()

    def loss(inner):
        sigmas = torch.cat([torch.tensor([4.0], dtype=F64), inner, torch.tensor([0.05], dtype=F64)])
        return solve(fake_denoiser, START[:3], BUILDERS[name](sigmas)).square().sum()

    assert torch.autograd.gradcheck(loss, inner)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match="dpmpp-3m"):
        make_solver("dpm++", 5, log_grid)
    with pytest.raises(InputError, match="at least one"):
        make_solver("euler", 0, log_grid)
    with pytest.raises(InputError, match="orders 1, 2 and 3"):
        dpmpp_weights(log_grid(5), 4)


def test_levels_of_single_step_tables_never_rise():
    for name in LADDERS:
        assert all(b <= a for a, b in pairwise(make_solver(name, 7, log_grid).sigmas))

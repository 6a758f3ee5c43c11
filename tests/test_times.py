"""Learnable levels: exact at zero and at the ends, monotone, differentiable, of two meanings."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4s_nb.alternate import learn_in_phases, plan
from s4s_nb.denoisers import Counted, from_noise
from s4s_nb.errors import InputError
from s4s_nb.families import linear_multistep_family, make_family
from s4s_nb.gauss_newton import first_changes, learn_gauss_newton, normal_equations
from s4s_nb.grids import GRIDS, log_snr, make_grid
from s4s_nb.learn import end_point_loss, learn_s4s
from s4s_nb.schedules import VE, Flow, VPCosine, VPLinear
from s4s_nb.solvers import sample
from s4s_nb.times import KINDS, LOG, Joint, Levels, decoupled
from tests.problems import F64, noise
from tests.test_learn import MIXTURE, distance, pairs

VP = VPLinear()
CLOCKS = {
    "log": LOG,
    "sigma": (lambda s: s, lambda s: s),
    "native": (VP.time, VP.level),
    "cosine": (VPCosine().time, VPCosine().level),
    "flow": (Flow().time, Flow().level),
}
GRID = partial(log_snr, sigma_max=10.0, sigma_min=0.01)


def joint(start="dpmpp-3m", steps=5, width=0.5, **options) -> Joint:
    return Joint(make_family(start, steps, GRID), width=width, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", GRIDS)
def test_zero_is_the_reference_and_ends_never_move(kind, clock, name):
    reference = make_grid(name, 6, 80.0, 0.002, VP)
    levels = Levels(reference, CLOCKS[clock], kind)
    at_zero = levels(torch.zeros(levels.size, dtype=F64))
    assert ((at_zero / reference).log().abs() < 1e-9).all()
    moved = levels(noise(1, levels.size)[0])
    assert torch.equal(moved[[0, -1]], reference[[0, -1]])


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.sampled_from(list(KINDS)))
def test_a_grid_stays_a_grid(theta, kind):
    levels = Levels(GRID(5), kind=kind)(torch.tensor(theta, dtype=F64))
    assert (levels.diff() < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_grid_can_be_reached(kind):
    """θ can be found for any target, here by the inverse of each map."""
    target = GRID(5) * torch.tensor([1, 1.3, 0.6, 1.1, 0.8, 1], dtype=F64)
    levels = Levels(GRID(5), kind=kind)
    theta = torch.zeros(4, dtype=F64)
    for _ in range(50):  # Newton
        J = torch.autograd.functional.jacobian(lambda t: levels(t).log()[1:-1], theta)
        theta = theta - torch.linalg.solve(J, (levels(theta) / target).log()[1:-1])
    assert torch.allclose(levels(theta), target, rtol=1e-10)


def test_a_clock_that_is_infinite_at_an_end_is_refused():
    with pytest.raises(InputError, match="another clock"):
        Levels(torch.tensor([10.0, 1.0, 0.0], dtype=F64))
    with pytest.raises(InputError, match="softmax, sticks"):
        Levels(GRID(3), kind="linear")


@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "unipc-3-bh2", "dpm-2s", "heun"])
def test_all_zero_is_the_classic_solver(start):
    j = joint(start, 5)
    table, classic = j.table(j.zero), j.family.table(j.family.zero)
    for key in ("sigmas", "A", "B", "model_sigmas", "kappa"):
        assert (getattr(table, key) - getattr(classic, key)).abs().max() < 1e-12


@pytest.mark.parametrize("held", ["data", "noise"])
@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "unipc-3-bh2", "dpm-2s"])
def test_gradients_through_schedule_coefficients_and_network_time(start, held):
    """In all parts at once, on a process whose network sees its native time."""
    j = joint(start, 5, schedule=VP, held=held)
    family = j.part(tuple(j.sizes))
    starts = 10 * noise(5)

    def network(x, t):  # nonlinear in state and time
        return torch.tanh(x + 3 * t) + 0.1 * x

    denoise = from_noise(network, VP)

    def loss(p):
        return sample(denoise, starts, family.table(p)).square().sum()

    p = (0.1 * noise(1, family.size)[0]).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(p), p)
    for k in range(family.size):
        step = torch.zeros(family.size, dtype=F64)
        step[k] = 1e-6
        slope = (loss(p.detach() + step) - loss(p.detach() - step)) / 2e-6
        assert slope == pytest.approx(float(gradient[k]), rel=1e-5, abs=1e-5 * float(gradient.abs().max()))


def test_what_an_offset_means():
    """Against the papers' own arithmetic, one Euler step of a noise-predicting VP network."""
    sigma, s = torch.tensor([3.0, 1.0], dtype=F64), torch.tensor([2.5], dtype=F64)

    def network(x, t):
        return torch.tanh(x) * (1 + t)

    euler = linear_multistep_family("dpmpp-1", sigma)
    solver = euler.table(euler.zero)
    x = 3 * noise(4)
    native, t = VP.alpha(sigma[0]) * x, VP.time(s[0])
    eps = network(native, t)  # only the time moved
    held_noise = decoupled(solver, s, VP, "noise")
    expected = x + (sigma[1] - sigma[0]) * eps
    assert torch.allclose(sample(from_noise(network, VP), x, held_noise), expected, atol=1e-12)
    held_data = decoupled(solver, s, VP, "data")
    image = VP.alpha(sigma[0]) / VP.alpha(s[0]) * x - s[0] * eps
    expected = sigma[1] / sigma[0] * x + (1 - sigma[1] / sigma[0]) * image
    assert torch.allclose(sample(from_noise(network, VP), x, held_data), expected, atol=1e-12)
    ours = decoupled(solver, s)  # the state stays, whatever the network makes of it
    image = from_noise(network, VP)(x, s[0])
    expected = sigma[1] / sigma[0] * x + (1 - sigma[1] / sigma[0]) * image
    assert torch.allclose(sample(from_noise(network, VP), x, ours), expected, atol=1e-12)
    assert torch.equal(decoupled(solver, s, VE()).kappa, ours.kappa)
    with pytest.raises(InputError, match="data, noise"):
        decoupled(solver, s, held="score")


@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_model_levels_keep_their_place(offsets):
    j = joint()
    table = j.table(j.zero | {"offsets": torch.tensor(offsets, dtype=F64)})
    assert table.model_sigmas[0] == table.sigmas[0]
    gaps = (table.model_sigmas / table.sigmas[:-1]).log().abs()
    assert (gaps <= 0.5 * table.sigmas.log().diff().abs().min() + 1e-12).all()


@pytest.mark.parametrize("start", ["dpmpp-3m", "unipc-3-bh2", "dpm-2s"])
@pytest.mark.parametrize(("derivatives", "tolerance"), [("differences", 0.05), ("tangents", 1e-10)])
def test_normal_equations_of_moving_levels_are_those_of_autograd(start, derivatives, tolerance):
    family, data = joint(start).part(("coefficients", "levels", "offsets")), pairs("train", 20)
    p = 0.05 * noise(1, family.size)[0]

    def residual(q):
        return (sample(MIXTURE, data.starts, family.table(q)) - data.targets).flatten()

    J, r = torch.autograd.functional.jacobian(residual, p), residual(p)
    JJ, Jr = normal_equations(MIXTURE, family, p, data, lambda x: x, derivatives)
    assert (JJ - J.T @ J).abs().max() < tolerance * (J.T @ J).abs().max()
    assert (Jr - J.T @ r).abs().max() < tolerance * (J.T @ r).abs().max()


def test_what_changes_first():
    j = joint()
    base = j.table(j.zero)
    last_offset = j.table(j.zero | {"offsets": torch.tensor([0, 0, 0, 0.1], dtype=F64)})
    assert first_changes(base, last_offset) == (5, 4)
    assert first_changes(base, base) == (5, 5)
    levels = j.table(j.zero | {"levels": torch.tensor([0.1, 0, 0, 0], dtype=F64)})
    assert first_changes(base, levels) == (0, 1)


# ---------------------------------------------------------------- phases

TRAIN, VALIDATION = pairs("train", 40), pairs("validation", 40)
OPTIONS = {"embed": lambda x: x, "iterations": 1, "progress": False}


def newton(family, denoise=MIXTURE, train=TRAIN, state_file=None, **options):
    return learn_gauss_newton(
        denoise, family, train, VALIDATION, state_file=state_file, **(OPTIONS | options)
    )


def test_what_is_kept_never_gets_worse_and_alternation_beats_each_half():
    j = joint("ipndm-3")
    reached = {}
    for method in ("s4s", "ld3", "s4s-alt"):
        learner = newton if method == "s4s-alt" else partial(newton, iterations=8)
        solver, at, phases = learn_in_phases(j, plan(method, j, 8), learner)
        ends = [phases[0].before] + [phase.after for phase in phases]
        assert ends == sorted(ends, reverse=True)
        assert all(a.after == pytest.approx(b.before) for a, b in zip(phases, phases[1:], strict=False))
        reached[method] = float(end_point_loss(MIXTURE, solver, VALIDATION, distance))
        assert reached[method] == pytest.approx(phases[-1].after)
        untouched = {"s4s": "levels", "ld3": "coefficients"}.get(method)
        assert untouched is None or not at[untouched].any()
    assert reached["s4s-alt"] < min(reached["s4s"], reached["ld3"])


def test_phases_start_where_they_are_told():
    j = joint("ipndm-3")
    both, at, phases = learn_in_phases(j, [*plan("s4s", j), *plan("ld3", j)], newton)
    _, first, _ = learn_in_phases(j, plan("s4s", j), newton)
    second, then, rest = learn_in_phases(j, plan("ld3", j), newton, at=first)
    assert all(torch.equal(at[name], then[name]) for name in at) and torch.equal(both.B, second.B)
    assert rest == phases[1:]


def test_adam_takes_the_same_families():
    j = joint("ipndm-3", width=0.0)
    assert "offsets" not in j.sizes
    learner = partial(
        learn_s4s, MIXTURE, train=TRAIN, validation=VALIDATION, distance=distance, epochs=2, progress=False
    )
    _, _, phases = learn_in_phases(j, plan("joint", j, 1), learner)
    assert phases[0].parts == ("coefficients", "levels") and phases[0].after < phases[0].before


def test_bad_plans_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="s4s, ld3, joint, s4s-alt"):
        plan("alternate", joint())
    with pytest.raises(InputError, match="two steps or more"):
        plan("s4s-alt", joint("dpmpp-1", 1))
    state = tmp_path / "state.safetensors"
    newton(joint().part(("levels",)), state_file=state)
    with pytest.raises(InputError, match="another run"):  # alike at zero only
        newton(joint(kind="sticks").part(("levels",)), state_file=state)


def test_phases_go_on_where_they_were_stopped(tmp_path):
    j = joint()
    phases = plan("s4s-alt", j, 2)
    whole, at, _ = learn_in_phases(j, phases, newton)
    counted = Counted(MIXTURE)

    def dies(family, *, state_file):
        learned = newton(family, counted, state_file=state_file)
        if len(list(tmp_path.iterdir())) == 3:
            raise KeyboardInterrupt
        return learned

    with pytest.raises(KeyboardInterrupt):
        learn_in_phases(j, phases, dies, tmp_path)
    used = counted.nfe
    again, at_again, _ = learn_in_phases(j, phases, newton, tmp_path)
    assert all(torch.equal(at[name], at_again[name]) for name in at)
    assert torch.equal(whole.B, again.B) and whole.info["phases"] == again.info["phases"]
    counted.nfe = 0
    learn_in_phases(j, phases[:3], partial(newton, denoise=counted), tmp_path)
    assert counted.nfe == 0 < used  # finished phases are read back
    with pytest.raises(InputError, match="another run"):
        learn_in_phases(j, plan("ld3", j, 1), partial(newton, train=TRAIN[:20]), tmp_path)

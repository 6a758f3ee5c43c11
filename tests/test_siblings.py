"""The whole table, and the students of other methods, against their papers' own arithmetic."""

import pytest
import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.families import make_student
from s4s_nb.files import data_file
from s4s_nb.grids import karras
from s4s_nb.learn import learn
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.methods import ALL, METHODS, WHOLE
from s4s_nb.levels import clock_of, decoupled
from s4s_nb.models import Model
from s4s_nb.multistep import dpmpp_weights
from s4s_nb.schedules import VE, Flow, VPLinear
from s4s_nb.siblings import GivenTable, dyweight_student
from s4s_nb.solvers import Solver, solve
from s4s_nb.student import FURTHER, PARTS, Student
from tests.problems import F64, GRID, MIXTURE, fake_denoiser, noise, problem, same_bits, to_zero
from tests.test_student import CLOCKS, grid_of

N = 5
WHOLLY = {"history": "all", "first": True, "scales": True}
BUNDLED = ["fashion_joint-bfgs_5", "faces-latent_s4s-alt_4", "faces-flow_joint-bfgs_5", "faces_s4s_3"]


def parts_of(here: Student) -> tuple[str, ...]:
    """Those that a student has."""
    return tuple(name for name in PARTS + FURTHER if getattr(here, name).numel())


def moved(here: Student, size: float = 0.1, seed: int = 0) -> Student:
    """The student with all of its numbers at random."""
    parts = parts_of(here)
    here.move(size * noise(1, sum(here.sizes(parts)), seed=seed)[0], parts)
    return here


DSS = {"order": "all", "consistent": True, "clock": "native", "width": 0.0}
DLMS = {"order": 4, "consistent": True, "kind": "sticks", "reach": "scale", "width": 0.2}
FORMS = {
    **{name: (row.student, row.start, {"order": row.order}) for name, row in METHODS.items()},
    "dss": (make_student, "flow-ab1", DSS),
    "dss of images": (make_student, "dpmpp-1", DSS),
    "dlms": (make_student, "exp-ab3", DLMS),
}
"""What makes a student, around which classic solver, with which options: of rows, and of two that need
more than a student."""


def formed(name: str, nfe: int = N, grid=GRID, **options) -> Student:
    """The student of a form."""
    make, start, own = FORMS[name]
    return make(start or "dpmpp-3m", nfe, grid, **own, **options)


# ---------------------------------------------------------------- the whole table


@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "flow-ab3", "unipc-3-bh2", "heun", "dpm-2s"])
@pytest.mark.parametrize("held", ["data", "noise"])
def test_zero_of_the_whole_table_is_its_start_to_the_bit(start, held):
    for nfe in (1, 2, 5):
        for schedule in (None, VPLinear(), Flow()):
            here = make_student(start, nfe, GRID, schedule=schedule, held=held, **WHOLLY)
            assert same_bits(here.solver(), make_solver(start, nfe, GRID))


@pytest.mark.parametrize("file", BUNDLED)
def test_zero_around_a_given_table_is_that_table_to_the_bit(file):
    given = Solver.load(data_file(f"solvers/{file}.safetensors"))
    for schedule in (VE(), VPLinear(), Flow()):
        assert same_bits(GivenTable(given, schedule=schedule, **WHOLLY).solver(), given)


def test_a_table_that_ends_at_0_can_be_given():
    given = make_solver("ipndm-3", N, lambda n: to_zero(karras(n - 1, 10.0, 0.01)))
    here = GivenTable(given, **WHOLLY)
    assert same_bits(here.solver(), given) and not here.levels.numel()
    assert here.moved(here.zero(("history",)) + 0.1, ("history",)).sigmas[-1] == 0


def test_history_is_what_the_docstring_says():
    """Against a loop that knows neither A nor B."""
    here = make_student("dpmpp-2m", N, GRID, history="all")
    numbers = 0.3 * noise(1, N * N)[0]
    table, classic = here.moved(numbers, ("history",)), here.solver()
    d, e = numbers[:15].tolist(), numbers[15:].tolist()
    x, sigmas = 10 * noise(8), classic.sigmas
    states, images = [x], []
    for i in range(N):
        images.append(fake_denoiser(states[i], sigmas[i]))
        following = sum(classic.A[i, j] * states[j] + classic.B[i, j] * images[j] for j in range(i + 1))
        for j in range(i + 1):
            following = following + d.pop(0) * images[j]
            if i < N - 1:
                following = following + sigmas[i + 1] * e.pop(0) * (states[j] - images[j]) / sigmas[j]
        states.append(following)
    assert not d and not e
    assert torch.allclose(solve(fake_denoiser, x, table), states[-1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", [None, VPLinear(), Flow()])
def test_the_first_asked_level_scales_its_input_along(schedule):
    """So that an input of unit data and noise σ_0 has the size that the network knows at s_0."""
    here = make_student("ipndm-3", N, GRID, schedule=schedule, first=True)
    table = here.moved(torch.tensor([0.7], dtype=F64), ("first",))
    asked = 10 * torch.tensor(0.7, dtype=F64).exp()
    assert torch.allclose(table.model_sigmas[0], asked)
    assert torch.allclose(table.kappa[0] ** 2, (1 + asked**2) / 101)
    rest, classic = slice(1, None), here.solver()
    assert torch.equal(table.model_sigmas[rest], classic.model_sigmas[rest])
    assert (table.kappa[rest] == 1).all() and torch.equal(table.B, classic.B)


def test_input_scales_are_of_inputs_alone():
    here = make_student("ipndm-3", N, GRID, scales=True)
    eta = noise(1, N)[0]
    table, classic = here.moved(eta, ("scales",)), here.solver()
    assert torch.allclose(table.kappa, eta.exp())
    for key in ("A", "B", "model_sigmas"):
        assert torch.equal(getattr(table, key), getattr(classic, key))


def test_a_given_table_on_other_levels_holds_what_a_row_takes_of_image_and_noise():
    """Euler takes one of each, and is Euler on all levels; what is asked where moves with its level."""
    other = karras(N, 10.0, 0.01)
    euler = GivenTable(make_solver("euler", N, GRID)).table(other)
    for key in ("A", "B", "model_sigmas"):
        expected = getattr(make_solver("euler", N, lambda n: other), key)
        assert torch.allclose(getattr(euler, key), expected, rtol=1e-12, atol=1e-12)
    given = Solver.load(data_file("solvers/fashion_joint-bfgs_5.safetensors"))
    levels = karras(N, 80.0, 0.002)
    there = GivenTable(given).table(levels)
    assert torch.allclose(there.A + there.B, given.A + given.B, rtol=1e-10)
    share, before = (s.A * s.sigmas[:-1] / s.sigmas[1:, None] for s in (there, given))
    assert torch.allclose(share, before, rtol=1e-10)
    assert torch.allclose(there.model_sigmas / levels[:-1], given.model_sigmas / given.sigmas[:-1])


@pytest.mark.parametrize("nfe", [3, 5])
def test_the_whole_table_is_the_space_of_bns_with_its_first_evaluation_freed(nfe):
    """Every input of the model, and the end, mix x_0 and the outputs so far: N(N+1)/2 + N + 1 numbers, and
    N asked levels. Past states say nothing that x_0 and the outputs do not; levels, and scales after the
    first, are other coordinates of the same space."""
    here = moved(GivenTable(make_solver("dpmpp-2m", nfe, GRID), **WHOLLY), 0.05)
    table, x = here.solver(), 10 * noise(100)
    mixes = [torch.eye(nfe + 1)[0].double()]  # of x_0, D_0, …, a row a state
    for i in range(nfe):
        outputs = torch.cat([torch.zeros(1).double(), table.B[i]])
        mixes.append(sum(table.A[i, j] * mixes[j] for j in range(i + 1)) + outputs)
    free = torch.ones(nfe + 1, nfe + 1).tril().bool()
    mix = torch.stack(mixes) * torch.cat([table.kappa, torch.ones(1).double()])[:, None]
    point = torch.cat([mix[free], table.model_sigmas])

    def unrolled(numbers: Tensor) -> Tensor:
        weights = torch.zeros_like(mix).masked_scatter(free, numbers[:-nfe])
        known = [x]
        for i in range(nfe):
            asked = sum(w * v for w, v in zip(weights[i], known, strict=False))
            known.append(fake_denoiser(asked, numbers[i - nfe]))
        return sum(w * v for w, v in zip(weights[nfe], known, strict=True)).flatten()

    def ours(by: Tensor) -> Tensor:
        return solve(fake_denoiser, x, here.moved(by, WHOLE)).flatten()

    assert torch.allclose(unrolled(point), ours(here.zero(WHOLE)), rtol=1e-10)
    both = [torch.autograd.functional.jacobian(unrolled, point)]
    both.append(torch.autograd.functional.jacobian(ours, here.zero(WHOLE)))
    slopes = [J / J.norm(dim=0) for J in both]

    def rank(J: Tensor) -> int:
        values = torch.linalg.svdvals(J)
        return int((values > 1e-11 * values[0]).sum())

    count = nfe * (nfe + 5) // 2 + 1
    assert len(point) == count < slopes[1].shape[1]
    assert rank(slopes[0]) == rank(slopes[1]) == rank(torch.cat(slopes, dim=1)) == count


def test_a_usual_student_has_none_of_it():
    """Guards old states of runs, which hold three parameters."""
    here = make_student("dpmpp-2m", N, GRID)
    assert [name for name, _ in here.named_parameters()] == list(PARTS)
    for part in FURTHER:
        with pytest.raises(InputError, match=f'no {part} to learn; make it with history="all"'):
            here.zero((part,))
    with pytest.raises(InputError, match="no history and no first and no scales"):
        learn_student(problem(), here, "whole", progress=False)


def test_the_whole_table_goes_on_where_everything_at_once_ends():
    """And further down the training pairs than as many more iterations in S4S's space."""
    given = problem()

    def learned(turns):
        here = make_student("dpmpp-3m", N, GRID, **WHOLLY)
        return learn_student(given, here, "whole", turns=turns, iterations=8, progress=False)

    longer, whole = learned([ALL, ALL]), learned(None)
    assert whole.turns[0] == longer.turns[0] and whole.turns[1].parts == WHOLE
    reached, before = (float(given.loss(r.solver, given.train)) for r in (whole, longer))
    assert reached < 0.5 * before and whole.turns[1].after < whole.turns[1].before
    with pytest.raises(InputError, match="coefficients, levels, offsets, history, first, scales"):
        learned([("everything",)])


# ---------------------------------------------------------------- forms of the siblings


@pytest.mark.parametrize("name", FORMS)
def test_zero_of_every_form_is_its_start_to_the_bit(name):
    for schedule in (None, VPLinear(), Flow()):
        for nfe in (2, 6):
            here = formed(name, nfe, schedule=schedule)
            assert same_bits(here.solver(), make_solver(here.start, nfe, GRID))


COUNTS = {  # numbers that move, by N
    "dss": lambda n: n * (n - 1) // 2 + n - 1,  # N(N+1)/2, of which one Δt follows from the others
    "bns": lambda n: n * (n + 5) // 2 + 1 - 2,  # both ends are held
    "dlms": lambda n: sum(min(i, 4) - 1 for i in range(1, n + 1)) + 2 * (n - 1),
}


@pytest.mark.parametrize("nfe", [4, 5, 8])
@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_those_of_the_papers(name, nfe):
    here = formed(name, nfe)
    assert sum(here.sizes(parts_of(here))) == COUNTS[name](nfe)


def test_dss_is_its_algorithm_1():
    """x_{i+1} = x_i + Δt_i Σ M_ij v_j in a rectified flow's own coordinate, rows of M summing to one, Δt a
    softmax (2505.21114)."""
    grid, flow = grid_of("uniform", "flow"), Flow()
    here = moved(formed("dss", grid=grid, schedule=flow), 0.5)
    x = 1000 * noise(6)
    t = flow.time(here.sigmas)
    logits = (t.diff() / (t[-1] - t[0])).log() + torch.cat([here.levels.detach(), torch.zeros(1).double()])
    dt, free = logits.softmax(0) * (t[-1] - t[0]), here.coefficients.tolist()
    state, velocities, now = x / (1 + here.sigmas[0]), [], t[0]
    for i in range(N):
        image = fake_denoiser(state / (1 - now), now / (1 - now))
        velocities.append((state - image) / now)
        row = [free.pop(0) for _ in range(i)]
        row = [*row, 1 - sum(row)]
        state = state + dt[i] * sum(m * v for m, v in zip(row, velocities, strict=True))
        now = now + dt[i]
    end = solve(fake_denoiser, x, here.solver()) / (1 + here.sigmas[-1])
    assert torch.allclose(end, state, rtol=1e-9, atol=1e-9)


def test_bns_is_weights_of_the_start_and_of_all_velocities():
    """x_{i+1} = a_i x_0 + Σ b_ij u_j: ours add to a classic row, which is such a sum already."""
    here = moved(formed("bns", grid=grid_of("uniform", "flow"), schedule=Flow()), 0.3)
    table, start = here.solver(), 1000 * noise(6)
    t, more = Flow().time(table.sigmas), here.coefficients.tolist()
    a, b = torch.ones(N + 1).double(), torch.zeros(N + 1, N).double()
    for i in range(N):  # the recursion that turns our numbers into theirs
        weights = torch.tensor([more.pop(0) + (j == i) for j in range(i + 1)], dtype=F64)
        a[i + 1] = a[i] + here.history[i]
        b[i + 1] = b[i]
        b[i + 1, : i + 1] += (t[i + 1] - t[i]) * weights
    x0, u, state = start / (1 + table.sigmas[0]), [], start / (1 + table.sigmas[0])
    for i in range(N):
        u.append((state - fake_denoiser(state / (1 - t[i]), table.sigmas[i])) / t[i])
        state = a[i + 1] * x0 + sum(b[i + 1, j] * u[j] for j in range(i + 1))
    end = solve(fake_denoiser, start, table) / (1 + table.sigmas[-1])
    assert torch.allclose(end, state.detach(), rtol=1e-8, atol=1e-8)


def test_gs_is_a_residual_on_the_classic_solver_of_its_own_levels():
    """x_{n+1} = Σ a x + Σ c f, f the image at t by the noise asked elsewhere; t_n = (T − δ) Π sigmoid + δ.

    There the offsets are added to t, here they are factors of σ, which do not leave the process's times."""
    vp = VPLinear()
    here = moved(formed("gs", grid=grid_of("uniform"), schedule=vp), 0.2)
    here.coefficients.data.zero_()
    table, x = here.solver(), 80 * noise(6)
    t = vp.time(here.sigmas)
    T, delta = t[0], t[-1]
    left = (t[1:-1] - delta) / (T - delta)
    theta = (left / torch.cat([torch.ones(1).double(), left[:-1]])).logit() + here.levels.detach()
    inner = (T - delta) * torch.sigmoid(theta).cumprod(0) + delta
    times = torch.cat([T[None], inner, delta[None]])
    sigmas = vp.level(times)
    assert torch.allclose(table.sigmas, sigmas, rtol=1e-9)
    asked = sigmas[:-1] * torch.cat([here.first, here.offsets]).detach().exp()
    d, e = here.history.detach().split([15, 10])
    d, e, weights = d.tolist(), e.tolist(), dpmpp_weights(sigmas, 3)
    states, images = [x], []
    for i in range(N):
        s = asked[i]
        kappa = vp.alpha(sigmas[i]) / vp.alpha(s)
        noise_there = (kappa * states[i] - fake_denoiser(kappa * states[i], s)) / s
        images.append(states[i] - sigmas[i] * noise_there)
        r = sigmas[i + 1] / sigmas[i]
        following = r * states[i] + (1 - r) * sum(weights[i, j] * images[j] for j in range(i + 1))
        for j in range(i + 1):
            following = following + d.pop(0) * images[j]
            if i < N - 1:
                following = following + sigmas[i + 1] * e.pop(0) * (states[j] - images[j]) / sigmas[j]
        states.append(following)
    assert torch.allclose(solve(fake_denoiser, x, table), states[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [0.05, 1.0])
def test_dyweight_is_its_sampler(size):
    """Weights with a free sum, which moves the level that the state is said to have (2603.11607)."""
    here = moved(formed("dyweight"), size)
    table, x = here.solver(), 10 * noise(6)
    free, classic = here.coefficients.tolist(), {1: [1.0], 2: [-0.5, 1.5], 3: [5 / 12, -16 / 12, 23 / 12]}
    level, grid, slopes, levels = here.sigmas[0], table.sigmas, [], []
    state, scales = x, [1.0, *(1 + 0.5 * here.offsets.detach().tanh()).tolist()]
    for i in range(N):
        levels.append(float(level))
        slopes.append((state - fake_denoiser(state, scales[i] * level.abs())) / level)
        row = classic[min(i + 1, 3)]
        row = [w + free.pop(0) for w in row]
        step = grid[i + 1] - level
        state = state + step * sum(w * s for w, s in zip(row, slopes[-len(row) :], strict=True))
        level = level + sum(row) * step
    assert torch.allclose(solve(fake_denoiser, x, table), state, rtol=1e-10, atol=1e-10)
    assert (min(levels) < 0) == (size == 1.0), "where one is negative, the model is asked at its size"
    with pytest.raises(InputError, match="noise form"):
        dyweight_student("dpmpp-2m", N, GRID)


@pytest.mark.parametrize("schedule", [VE(), VPLinear(), Flow()])
def test_dlms_divides_what_is_left_in_log_snr_and_scales_the_time(schedule):
    """x_n from a weighted image; t_n a part of the way that is left in log σ; s_n of the native time."""
    here = moved(formed("dlms", schedule=schedule), 0.4)
    table, x = here.solver(), 10 * noise(6)
    lam = here.sigmas.log()
    parts = (lam[1:-1] - lam[-1]) / (lam[:-2] - lam[-1])
    kept = torch.sigmoid(parts.logit() + here.levels.detach())
    left = (lam[0] - lam[-1]) * kept.cumprod(0) + lam[-1]
    sigmas = torch.cat([lam[:1], left, lam[-1:]]).exp()
    scale = torch.cat([torch.ones(1).double(), 1 + 0.2 * here.offsets.detach().tanh()])
    asked = schedule.level(scale * schedule.time(sigmas[:-1]))
    weights, free = make_solver("exp-ab3", N, lambda n: sigmas), here.coefficients.tolist()
    classic = weights.B / (1 - sigmas[1:] / sigmas[:-1])[:, None]
    state, images = x, []
    for i in range(N):
        kappa = schedule.alpha(sigmas[i]) / schedule.alpha(asked[i])
        images.append(fake_denoiser(kappa * state, asked[i]))
        past = min(i + 1, 4)
        row = [free.pop(0) for _ in range(past - 1)]
        row = torch.tensor([*row, -sum(row)], dtype=F64) + classic[i, i + 1 - past : i + 1]
        assert torch.allclose(row.sum(), torch.ones(1).double())
        r = sigmas[i + 1] / sigmas[i]
        state = r * state + (1 - r) * sum(w * D for w, D in zip(row, images[-past:], strict=True))
    assert torch.allclose(solve(fake_denoiser, x, table), state, rtol=1e-9, atol=1e-9)


def test_a_time_scale_beyond_the_process_counts_as_blown_up():
    """Guards the one error that learners take for an infinite distance: flow times end at 1."""
    here = formed("dlms", 8, grid_of("uniform", "flow"), schedule=Flow())
    with pytest.raises(DivergedError, match="moved too far"):
        here.moved(here.zero(("offsets",)) + 3, ("offsets",))


def test_clocks_by_name_are_those_of_the_process():
    sigma, flow = GRID(N), Flow()
    for name, known in (("log", "log"), ("sigma", "sigma"), ("native", "flow")):
        for named, given in zip(clock_of(name, flow), CLOCKS[known], strict=True):
            inside = sigma / 10.1
            assert torch.allclose(named(inside), given(inside), rtol=1e-12)
    assert torch.allclose(clock_of("native", VE())[0](sigma), VPLinear().time(sigma))
    with pytest.raises(InputError, match="log, sigma, native"):
        make_student("dpmpp-2m", N, GRID, clock="noise")


@pytest.mark.parametrize("option", ["reach", "history"])
def test_unknown_choices_are_refused_in_a_sentence(option):
    with pytest.raises(InputError, match="gap, scale, free" if option == "reach" else "none, start, all"):
        make_student("dpmpp-2m", N, GRID, **{option: "wide"})


def test_model_levels_move_on_from_those_that_are_there():
    """Decoupled twice is decoupled once."""
    classic, vp = make_solver("ipndm-3", N, GRID), VPLinear()
    once, twice = 0.9 * classic.sigmas[:-1], 0.8 * classic.sigmas[:-1]
    for held in ("data", "noise"):
        direct = decoupled(classic, twice, vp, held)
        via = decoupled(decoupled(classic, once, vp, held), twice, vp, held)
        for key in ("A", "B", "model_sigmas", "kappa"):
            assert torch.allclose(getattr(via, key), getattr(direct, key), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["whole", "bns", "gs", "dyweight"])
def test_every_sibling_is_learned_by_the_one_entry(method, tmp_path):
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01)
    out = tmp_path / "solver.safetensors"
    options = {"grid": "logsnr", "pairs": 40, "out": out, "iterations": 3, "progress": False}
    start = METHODS[method].start or "dpmpp-3m"
    other = {"optimiser": "gauss-newton"} if method == "gs" else {}  # in place of 10,000 updates
    result = learn(model, 4, method, start=start, **options, **other)
    assert result.record["kept"] == "learned" and result.record["method"] == method
    if method == "dyweight":
        assert result.record["learning_rate"] == 3e-2
    moved_parts = {part for turn in result.turns for part in turn.parts}
    assert moved_parts == {part for turn in METHODS[method].turns for part in turn}
    assert same_bits(Solver.load(out), result.solver)

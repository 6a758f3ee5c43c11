"""What a denoiser is asked and may answer: kept in one place, and refused in a sentence."""

import math
import sys

import numpy as np
import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import (
    activation_bytes,
    black_box,
    examined,
    from_data,
    from_noise,
    from_velocity,
    guided,
)
from s4s_nb.errors import InputError
from s4s_nb.evaluate import sample
from s4s_nb.grids import karras
from s4s_nb.learn import learn
from s4s_nb.learn.gradients import check_gradients
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.problem import Problem
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.pairs import run, seeded_noise
from s4s_nb.schedules import VE, VPCosine, VPDiscrete
from s4s_nb.solvers import solve
from tests.problems import F64, MIXTURE, problem, same_bits, student, student_of

LEVELS = karras(5, 10.0, 0.01)
SOLVERS = [
    make_solver(name, 5, lambda n: karras(n, 10.0, 0.01)) for name in ("euler", "ipndm-3", "unipc-3-bh2")
]
STARTS = 10 * seeded_noise("test", 24, (2,)).double()


class Reusing:
    """A network that answers in the same memory every time, as a captured graph does."""

    def __init__(self, net=MIXTURE):
        self.net, self.memory = net, {}

    def __call__(self, x, sigma, **cond):
        memory = self.memory.setdefault(len(x), torch.empty_like(x))
        return memory.copy_(self.net(x, sigma, **cond))


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_a_network_may_answer_in_the_same_memory(solver):
    assert torch.equal(solve(Reusing(), STARTS, solver), solve(MIXTURE, STARTS, solver))
    both = Reusing()
    alone = guided(MIXTURE, lambda x, s: 0.5 * MIXTURE(x, s), 2.0)
    shared = guided(both, lambda x, s: both(x, s).mul_(0.5), 2.0)
    assert torch.equal(solve(shared, STARTS, solver), solve(alone, STARTS, solver))


def test_a_network_may_change_its_input():
    def careless(x, sigma):
        answer = MIXTURE(x, sigma)
        x.zero_()
        return answer

    assert torch.equal(solve(careless, STARTS, SOLVERS[1]), solve(MIXTURE, STARTS, SOLVERS[1]))


def overwriting(x, *inputs):
    answer = MIXTURE(x, *inputs)
    x.zero_()
    return answer


@pytest.mark.parametrize("adapter", [from_data, from_noise, from_velocity])
def test_a_network_within_an_adapter_may_change_its_input_too(adapter):
    for schedule in (VE(), VPCosine()):
        given, kept = (adapter(net, schedule)(STARTS.clone(), LEVELS[2]) for net in (overwriting, MIXTURE))
        assert torch.equal(given, kept)
    given, kept = (guided(net, net, 2.0)(STARTS.clone(), LEVELS[2]) for net in (overwriting, MIXTURE))
    assert torch.equal(given, kept)


def test_a_network_may_change_its_sigma():
    """Guards a solver whose levels would move with it."""

    def clamping(x, sigma):
        return MIXTURE(x, sigma.clamp_(min=0.5))

    solver = make_solver("ipndm-3", 5, lambda n: karras(n, 10.0, 0.01))
    before = solver.model_sigmas.clone()
    model = Model(clamping, (2,), 10.0, 0.01, teacher_solver=solver)
    for use in (
        lambda: solve(clamping, STARTS, solver),
        lambda: sample(model, solver, 4),
        lambda: model.pairs("train", 4, progress=False),
        lambda: problem(denoise=clamping).identity(),
    ):
        use()
        assert torch.equal(solver.model_sigmas, before) and torch.equal(solver.sigmas[:-1], before)


def test_what_a_network_keeps_from_sampling_serves_learning_too():
    """Guards memory that was made under inference mode, which no gradient could pass."""
    kept = {}

    def caching(x, sigma):
        return kept.setdefault(len(x), torch.ones(len(x), 1, dtype=F64)) * MIXTURE(x, sigma)

    model = Model(caching, shape=(2,), sigma_max=10.0, sigma_min=0.01)
    how = {"start": "euler", "grid": "karras", "pairs": 4, "iterations": 1, "progress": False}
    assert learn(model, 3, **how).record["optimiser"] == "BFGS"


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("optimiser", ["bfgs", "adam", "gauss-newton"])
def test_learning_has_its_own_mode_of_gradients(around, optimiser):
    given, options = problem(), {"iterations": 1, "progress": False}
    plain = learn_student(given, student(), "s4s", optimiser, **options)
    here = student()
    with around():
        again = learn_student(given, here, "s4s", optimiser, **options)
    assert same_bits(again.solver, plain.solver)


def test_an_answer_is_not_spread_over_channels():
    x = torch.randn(2, 3, 4, 4, dtype=F64)
    for wrong in (lambda x, t: x[:, :1], lambda x, t: x.mean()):
        for denoise in (from_noise(wrong, VE()), from_velocity(wrong, VE()), guided(wrong, wrong, 2.0)):
            with pytest.raises(InputError, match="in the shape of its input"):
                denoise(x, LEVELS[0])


def test_a_teacher_starts_where_the_noise_is():
    model = Model(MIXTURE, (2,), 20.0, 0.01, teacher_solver=SOLVERS[0])
    with pytest.raises(InputError, match="starts at sigma 10, but model at 20"):
        model.pairs("train", 2, progress=False)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """Guards a record that JSON cannot hold, after all was learned."""
    model = Model(MIXTURE, (2,), 10.0, 0.01)
    model.sigma_max, model.guidance_scale = np.float32(10), np.float32(2)
    model.__post_init__()
    how = {"start": "euler", "grid": "karras", "pairs": 4, "iterations": 1, "progress": False}
    learn(model, 3, "s4s", out=tmp_path / "own.safetensors", **how)
    assert (tmp_path / "own.safetensors").exists()


@pytest.mark.parametrize("wrong", [{"nfe": 0}, {"order": -1}, {"batch": 0}, {"seed": -1}, {"pairs": -5}])
def test_numbers_of_learning_are_whole(wrong):
    with pytest.raises(InputError, match="is a whole number above 0"):
        learn(Model(MIXTURE, (2,), 10.0, 0.01), **{"start": "euler", "grid": "karras", **wrong})


def test_threads_take_turns_where_the_memory_is_the_same():
    """Of many batches at once, by which they would overwrite each other."""
    reusing = examined(Reusing(), STARTS, LEVELS[0])
    assert reusing is not examined(MIXTURE, STARTS, LEVELS[0]) is MIXTURE
    starts = STARTS.repeat(20, 1)
    for _ in range(3):
        assert torch.equal(
            run(reusing, starts, SOLVERS[0], batch=8), run(MIXTURE, starts, SOLVERS[0], batch=8)
        )


def test_learning_with_a_network_that_answers_in_the_same_memory():
    options = {"iterations": 1, "progress": False}
    ours = learn_student(problem(denoise=Reusing()), student(), "s4s", **options)
    assert same_bits(ours.solver, learn_student(problem(), student(), "s4s", **options).solver)


# ---------------------------------------------------------------- sigma


def test_sigma_is_a_number_of_float64_on_the_device_of_x():
    seen = []

    def denoise(x, sigma):
        seen.append((sigma.ndim, sigma.dtype, sigma.device))
        return MIXTURE(x, sigma).to(x)

    solve(denoise, STARTS, SOLVERS[2])
    assert set(seen) == {(0, F64, STARTS.device)}


@pytest.mark.parametrize("adapter", [from_data, from_noise, from_velocity])
@pytest.mark.parametrize(
    "schedule", [VE(), VPCosine(), VPDiscrete.from_betas()], ids=lambda s: type(s).__name__
)
def test_a_level_a_sample_is_that_of_its_sample(adapter, schedule):
    """Of images as wide as the batch is long, along whose width it could broadcast."""

    def net(native, t):
        t = t.reshape(-1, 1, 1, 1).to(native)
        return torch.tanh(native) * torch.cos(t / (1 + t))

    x, sigma = torch.randn(4, 3, 5, 4, dtype=F64), torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=F64)
    denoise = adapter(net, schedule)
    together, alone = denoise(x, sigma), [denoise(x[k : k + 1], sigma[k]) for k in range(4)]
    assert (together - torch.cat(alone)).abs().max() < 1e-12
    for wrong in (sigma[:3], sigma[None], sigma.reshape(-1, 1)):
        with pytest.raises(InputError, match="one a sample"):
            denoise(x, wrong)


# ---------------------------------------------------------------- answers


class Output:
    """What libraries return."""

    def __init__(self, sample):
        self.sample, self.note = sample, "text"


@pytest.mark.parametrize(
    ("answer", "told"),
    [(Output, r"as \.sample"), (lambda d: (d, None), r"as \[0\]"), (lambda d: {"x": d}, r"as \['x'\]")],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_other_answers_than_tensors_are_named(answer, told, adapted):
    def net(x, sigma):
        return answer(MIXTURE(x, sigma))

    denoise = from_noise(net, VE()) if adapted else net
    with pytest.raises(InputError, match=told):
        solve(denoise, STARTS, SOLVERS[0])
    with pytest.raises(InputError, match=told):
        problem(denoise=denoise)


def test_an_answer_of_numpy_points_to_the_black_box():
    def net(x, sigma):
        return MIXTURE(x, sigma).numpy()

    with pytest.raises(InputError, match="black_box"):
        solve(net, STARTS, SOLVERS[0])


@pytest.mark.parametrize(
    "net",
    [
        torch.nn.Linear(2, 2, dtype=F64).forward,
        lambda x, sigma, label: x,
        lambda x, sigma: x @ torch.ones(3, 3),
    ],
)
def test_what_fails_in_its_own_words_is_told_in_a_sentence(net):
    model = Model(net, shape=(2,), sigma_max=10.0, sigma_min=0.01)
    with pytest.raises(
        InputError, match=r"^The denoiser failed when it was asked with x \(1, 2\)[^\n]*\.$"
    ):
        model.pairs("train", 2, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *_: torch.zeros(3),
        lambda *_: {"label": 1},
        lambda split, n, first: {"label": torch.zeros(n + 1)},
    ],
)
def test_conditions_are_tensors_by_name(wrong):
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, conditions=wrong)
    with pytest.raises(InputError, match="asked for 4 samples"):
        model.condition("train", 4)


# ---------------------------------------------------------------- gradients


def hidden(x, sigma):
    with torch.no_grad():
        return MIXTURE(x, sigma)


def half_hidden(x, sigma):
    """As an adapter around a network under no_grad: what is left of the gradient is wrong."""
    return x - hidden(x, sigma) * 0.0 - (x - hidden(x, sigma)).detach()


def inference(x, sigma):
    with torch.inference_mode():
        return MIXTURE(x, sigma)


def box(x, sigma):
    return black_box(lambda x, s: MIXTURE(torch.from_numpy(x), torch.from_numpy(s)).numpy())(x, sigma)


def stepped(x, sigma):
    """As a network whose times are whole numbers."""
    return MIXTURE(x, (1000 * sigma).round() / 1000)


@pytest.mark.parametrize("net", [hidden, half_hidden, inference, box], ids=lambda n: n.__name__)
@pytest.mark.parametrize(
    ("method", "optimiser"), [(name, tool) for name in METHODS for tool in ("bfgs", "adam")]
)
def test_a_hidden_gradient_is_found(net, method, optimiser):
    with pytest.raises(InputError, match="gradient of the denoiser is not .* gauss-newton"):
        learn_student(problem(denoise=net), student_of(method), method, optimiser, progress=False)


def test_that_in_sigma_is_needed_where_levels_move():
    with pytest.raises(InputError, match="gradient of the denoiser's sigma is not"):
        learn_student(problem(denoise=stepped), student(), "ld3", "bfgs", progress=False)
    learn_student(problem(denoise=stepped), student(), "s4s", "bfgs", iterations=1, progress=False)


def test_an_embedding_may_hide_it_too():
    with pytest.raises(InputError, match="gradient of the embedding is not"):
        learn_student(problem(embed=lambda x: x.detach() + 0 * x), student(), "joint", progress=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bundled_models_hide_nothing(name):
    model = load(name, side=64)
    pairs = model.pairs("train", 2, progress=False)
    check_gradients(Problem(model.denoise, pairs, pairs, model.embed))


def test_a_black_box_is_learned_by_differences():
    result = learn_student(problem(denoise=box), student(), "s4s", "gauss-newton", progress=False)
    plain = learn_student(problem(), student(), "s4s", "gauss-newton", progress=False)
    assert same_bits(result.solver, plain.solver) and result.record["kept"] == "learned"


def test_a_black_box_takes_conditions():
    seen = []

    def function(x, sigma, label):
        seen.append((type(x), type(sigma), sigma.shape, label.dtype))
        return x * label[:, None]

    d = black_box(function)(STARTS, LEVELS[0], label=torch.arange(24))
    assert torch.equal(d, STARTS * torch.arange(24)[:, None]) and d.dtype == STARTS.dtype
    assert seen == [(np.ndarray, np.ndarray, (), np.dtype("int64"))]


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_states_of_half_precision_are_mixed_in_float32(dtype, solver):
    """What is lost is the rounding of start, network and end, not that of every sum."""
    bell = GaussianMixture([[0.3, -0.2]], [0.5])

    def net(x, sigma):
        assert x.dtype == dtype
        return bell(x.double(), sigma).to(dtype)

    def exactly(x, sigma):
        return net(x.to(dtype), sigma).float()

    start = STARTS.to(dtype)
    end = solve(net, start, solver)
    assert end.dtype == dtype and torch.equal(end, solve(exactly, start.float(), solver).to(dtype))


def test_pairs_of_half_precision_are_learned_from_in_float32():
    given = problem()
    half = problem(denoise=lambda x, s: MIXTURE(x, s).to(x))
    for split in ("train", "validation"):
        pairs = getattr(given, split)
        halved = type(pairs)(pairs.starts.bfloat16(), pairs.targets.bfloat16()).checked(split)
        assert halved.starts.dtype == halved.targets.dtype == torch.float32
        setattr(half, split, halved)
    assert math.isfinite(learn_student(half, student(), "s4s", iterations=1, progress=False).history[-1][2])


def test_noise_has_its_own_dtype_and_device():
    plain = seeded_noise("test", 3, (2, 5))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(F64)
        with torch.device("meta"):
            other = seeded_noise("test", 3, (2, 5))
    finally:
        torch.set_default_dtype(before)
    assert other.dtype == torch.float32 and other.device.type == "cpu" and torch.equal(plain, other)


def test_a_start_without_floats_is_refused():
    with pytest.raises(InputError, match="int64"):
        solve(MIXTURE, torch.zeros(2, 2, dtype=torch.int64), SOLVERS[0])


# ---------------------------------------------------------------- memory of gradients


def test_activations_are_those_that_backward_keeps():
    """Of two hidden layers of 8 and 16 numbers a sample, and of the tanh between them."""
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 16), torch.nn.Tanh()
    )

    def denoise(x, sigma):
        return net(x)[:, :2]

    starts = STARTS.float()
    assert activation_bytes(denoise, starts, LEVELS[0]) == 4 * (2 + 8 + 16)
    assert activation_bytes(hidden, STARTS, LEVELS[0]) == 0


def test_gradients_have_the_same_bits_whether_activations_are_kept_or_not(monkeypatch):
    by, parts = student().zero(("coefficients", "levels")) + 0.01, ("coefficients", "levels")
    kept = problem().value_and_gradient(student(), by, parts)
    monkeypatch.setattr(sys.modules["s4s_nb.learn.problem"], "ACTIVATION_BYTES", 0)
    given = problem()
    assert given.remembered(1) is not given.denoise
    again = given.value_and_gradient(student(), by, parts)
    assert kept[0] == again[0] and torch.equal(kept[1], again[1])

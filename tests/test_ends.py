"""The last level belongs to the grid: grids take it, opponents choose it, and rows and records say it."""

import pytest
import torch

from s4s_nb.classic import AS_USED, make_solver
from s4s_nb.comparison import as_table
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.evaluate import evaluate
from s4s_nb.files import read_json
from s4s_nb.grids import GRIDS, last_levels
from s4s_nb.learn import learn
from s4s_nb.learn.starts import best_start
from s4s_nb.levels import LOG, SHARES, Levels
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.opponents import at_its_best, classical, compare, trial_distance
from s4s_nb.solvers import Solver
from s4s_nb.student import PARTS
from tests.problems import F64, GRID, MIXTURE, noise, problem, same_bits, student, to_zero
from tests.test_student import A_START_OF_EACH, CLOCKS


@pytest.fixture
def model() -> Model:
    """The exact mixture, sampled down to a level far below what five steps need."""
    return Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=1e-4, name="mixture")


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_takes_its_last_level_and_the_teacher_keeps_its_own(name, model):
    plain, ended = model.grid(name)(5), model.grid(name, end=0.03)(5)
    assert [plain[-1], ended[-1]] == pytest.approx([1e-4, 0.03]) and plain[0] == ended[0]
    assert torch.equal(model.grid(name, end=1e-4)(5), plain)
    assert model.teacher().sigmas[-1].item() == pytest.approx(1e-4)


@pytest.mark.parametrize("end", [0.0, -1.0, 10.0, 20.0, float("nan"), float("inf")])
def test_a_last_level_lies_below_the_first_and_above_0(end, model):
    with pytest.raises(InputError, match="ends at a level above 0 and below sigma_max = 10"):
        model.grid("karras", end)


def test_a_solver_by_name_takes_a_last_level(model):
    assert find_solver(model, "dpmpp-2m", 5, "karras", end=0.02).sigmas[-1].item() == pytest.approx(0.02)


@pytest.mark.parametrize("name", SETTINGS)
def test_last_levels_to_try_begin_with_the_teachers_and_stay_small(name):
    setting = SETTINGS[name]
    tried = last_levels(setting.sigma_max, setting.sigma_min)
    assert tried[0] == setting.sigma_min and 3 <= len(tried) <= 4
    assert list(tried) == sorted(tried) and tried[-1] < 0.31
    assert last_levels(1.0, 0.5) == (0.5,), "what is there stays, whatever its share"


# ---------------------------------------------------------------- opponents


@pytest.mark.parametrize("name, lower_final", [("euler", False), ("dpmpp-3m", True), ("ipndm-3", False)])
@pytest.mark.parametrize("grid", ["karras", "logsnr"])
def test_a_classic_solver_is_judged_with_the_last_level_that_suits_it(name, lower_final, grid, model):
    """The best by validation noises of those tried; the test noises are not asked."""
    best = at_its_best(model, name, 5, grid, lower_final)
    tried = [make_solver(name, 5, model.grid(grid, end), lower_final) for end in last_levels(10.0, 1e-4)]
    distances = [trial_distance(model, solver) for solver in tried]
    assert trial_distance(model, best) == min(distances) < max(distances)
    fixed = make_solver(name, 5, model.grid(grid), lower_final)
    gain = evaluate(model, fixed, 200)["rmse"] - evaluate(model, best, 200)["rmse"]
    assert gain > 0 if best.sigmas[-1] > 2e-4 else gain == 0


def test_choosing_costs_what_it_says(model):
    trial_distance(model, model.teacher())  # the teacher's noises, once
    model.network.nfe = 0
    at_its_best(model, "euler", 5, "karras")
    assert model.network.nfe == 4 * 5, "four levels, a batch of 20 noises each"
    model.network.nfe = 0
    assert at_its_best(model, "euler", 5, "karras", ends=(0.02,)).sigmas[-1].item() == pytest.approx(0.02)
    assert model.network.nfe == 0, "a single level is not tried"


def test_a_solver_that_blows_up_at_a_level_is_not_chosen(model):
    def sometimes(x, sigma):
        return MIXTURE(x, sigma) if sigma > 0.02 else MIXTURE(x, sigma) * torch.nan

    few = make_solver("unipc-3-bh2", 12, model.grid("karras", 0.05))
    bad = Model(sometimes, shape=(2,), sigma_max=10.0, sigma_min=1e-3, teacher_solver=few)
    fixed = make_solver("euler", 9, bad.grid("logsnr"))
    assert trial_distance(bad, fixed) == torch.inf
    assert trial_distance(bad, at_its_best(bad, "euler", 9, "logsnr")) < torch.inf


def test_rows_say_where_their_solvers_end_and_the_table_shows_it(model):
    own = make_solver("dpm-2s", 4, model.grid("logsnr", 0.004))
    comparison = compare(model, 3, [own], ["logsnr"], samples=20)
    *rows, learned, teacher = comparison.rows
    chosen = [float(solver.sigmas[-1]) for _, solver in classical(model, 3, ["logsnr"])]
    assert [row["end"] for row in rows] == chosen and len(chosen) == len(AS_USED)
    assert [learned["end"], teacher["end"]] == pytest.approx([0.004, 1e-4])
    assert "last level" in str(comparison).splitlines()[0]
    fixed = compare(model, 3, [own], ["logsnr"], samples=20, ends=(1e-4,))
    assert [row["end"] for row in fixed.rows[:-2]] == pytest.approx([1e-4] * len(AS_USED))
    of_old = [{key: value for key, value in row.items() if key != "end"} for row in comparison.rows]
    assert "last level" not in as_table(of_old), "tables that were stored before still print"


def test_last_levels_of_images_are_compared_by_lpips():
    fashion = load("fashion")
    few = (0.002, 0.06)
    best = at_its_best(fashion, "euler", 3, "karras", ends=few)
    tried = [make_solver("euler", 3, fashion.grid("karras", end)) for end in few]
    lpips = [trial_distance(fashion, solver) for solver in tried]
    assert trial_distance(fashion, best) == min(lpips) and 0.01 < max(lpips) < 1


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_free_end_has_one_more_number_and_is_at_rest_at_zero(kind, clock):
    held, free = (Levels(GRID(5), CLOCKS[clock], kind, free_end=end) for end in (False, True))
    assert free.size == held.size + 1
    assert torch.equal(free(torch.zeros(5, dtype=F64)), GRID(5))
    theta = noise(1, 4)[0]
    assert torch.equal(free(torch.cat([theta, torch.zeros(1, dtype=F64)])), held(theta))
    moved = free(torch.cat([theta, torch.ones(1, dtype=F64)]))
    assert moved[-1] / GRID(5)[-1] == pytest.approx(torch.e) and moved[0] == GRID(5)[0]
    shares = [CLOCKS[clock][0](levels) for levels in (moved, held(theta))]
    ways = [(tau[1:-1] - tau[0]) / (tau[-1] - tau[0]) for tau in shares]
    assert torch.allclose(*ways, rtol=1e-9), "the way to there is divided as the way before was"
    assert torch.autograd.gradcheck(free, (0.3 * noise(1, 5)[0]).requires_grad_())


@pytest.mark.parametrize("start", A_START_OF_EACH)
def test_a_student_with_a_free_end_is_the_classic_solver_at_zero(start):
    held, free = student(start), student(start, free_end=True)
    assert same_bits(held.solver(), free.solver())
    assert sum(free.sizes()) == sum(held.sizes()) + 1
    moved = free.moved(0.1 * noise(1, sum(free.sizes()))[0], PARTS)
    assert moved.sigmas[0] == free.sigmas[0] and moved.sigmas[-1] != free.sigmas[-1]


@pytest.mark.parametrize("by", [1e3, -1e3, 8.0, float("inf"), float("nan")])
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_last_level_that_leaves_the_grid_counts_as_blown_up(clock, by):
    here = student("dpmpp-3m", clock=CLOCKS[clock], free_end=True)
    with pytest.raises(DivergedError, match="run together"):
        here.moved(torch.tensor([0, 0, 0, 0, by], dtype=F64), ("levels",))


def test_a_last_level_of_0_does_not_move():
    with pytest.raises(InputError, match="last level of 0 does not move"):
        Levels(to_zero(GRID(4)), CLOCKS["sigma"], free_end=True)
    with pytest.raises(InputError, match="infinity"):
        Levels(to_zero(GRID(4)), LOG, free_end=True)


def test_a_race_takes_the_last_level_that_is_nearest_on_the_validation_pairs():
    def grids(name, end):
        return lambda steps: GRID(steps, sigma_min=end or 1e-4)

    given, ends = problem(), (1e-4, 0.01, 0.3)
    start, grid, end = best_start(given, grids, 4, None, ["logsnr"], ["dpmpp-3m"], ends)
    distances = {
        level: float(given.distances(make_solver(start, 4, grids(grid, level), True)).mean())
        for level in ends
    }
    assert distances[end] == min(distances.values()) < distances[1e-4]
    assert best_start(given, grids, 4, None, ["logsnr"], ["dpmpp-3m"]) == ("dpmpp-3m", "logsnr", None)


def test_a_learned_solver_says_where_it_ends(model, tmp_path):
    options = {"method": "ld3", "start": "dpmpp-2m", "grid": "logsnr", "pairs": 20, "progress": False}
    reached = {}
    for end in (None, 1e-4, "learn", "race"):
        out = tmp_path / f"{end}.safetensors"
        result = learn(model, 4, end=end, out=out, **options)
        levels = Solver.load(out).info["ends"]
        assert levels == pytest.approx([10.0, float(result.solver.sigmas[-1])])
        reached[end] = result.record["validation_best"]
        race = tmp_path / f"{end}.work" / "race.json"
        assert race.exists() == isinstance(end, str)
        if end == "race":
            assert levels[1] == pytest.approx(read_json(race)["picked"]["end"])
    assert levels[1] > 2e-4 and reached["learn"] < min(reached["race"], reached[1e-4])
    assert reached[None] == pytest.approx(reached[1e-4], rel=1e-6), "left out it is that of the model"
    again = learn(model, 4, end="learn", out=tmp_path / "learn.safetensors", **options)
    assert same_bits(again.solver, Solver.load(tmp_path / "learn.safetensors")), "it goes on from its end"
    with pytest.raises(InputError, match="ends at a level above 0"):
        learn(model, 4, end=20.0, **options)


@pytest.mark.usefixtures("unchecked")
def test_a_last_level_is_a_number_or_a_way_to_choose_it(model):
    with pytest.raises(InputError, match="race, learn"):
        learn(model, 4, end="guess")  # pyright: ignore[reportArgumentType]

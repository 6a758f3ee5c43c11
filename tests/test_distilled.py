"""The table of Linear Multistep Solver Distillation: its start, its rows, its scales and its ablations."""

from functools import partial

import pytest
import torch

from s4s_nb.distilled import SCALE, Distilled, distilled_student
from s4s_nb.errors import InputError
from s4s_nb.grids import log_snr, uniform_t
from s4s_nb.learn import learn
from s4s_nb.learn.methods import METHODS
from s4s_nb.models import Model
from s4s_nb.multistep import ADAMS_BASHFORTH, linear_multistep
from s4s_nb.schedules import VPLinear
from s4s_nb.solvers import solve
from tests.problems import F64, MIXTURE, noise, same_bits

VP = VPLinear()
GRID = uniform_t(6, 80.0, 0.01, VP)


def test_at_zero_it_is_plms_in_data_form():
    weights = torch.zeros(6, 6, dtype=F64)
    for i in range(6):
        row = ADAMS_BASHFORTH[min(i + 1, 4)]
        weights[i, i + 1 - len(row) : i + 1] = torch.tensor(row, dtype=F64).flip(0)
    assert same_bits(Distilled(GRID).solver(), linear_multistep(GRID, weights, "data"))
    euler = Distilled(GRID, high_order=False).solver()
    assert same_bits(euler, linear_multistep(GRID, torch.eye(6, dtype=F64), "data"))


def test_rows_sum_to_one_and_scales_move_the_asked_level_alone():
    student = Distilled(GRID)
    assert [student.coefficients.numel(), student.levels.numel(), student.offsets.numel()] == [12, 5, 5]
    student.move(noise(1, 12, seed=1)[0], ("coefficients",))
    student.move(0.1 * noise(1, 5, seed=2)[0], ("levels",))
    before = student.solver()
    student.move(100 * torch.tensor([1.0, -1, 0, 1, -1], dtype=F64), ("offsets",))
    solver = student.solver()
    scales = solver.model_sigmas / solver.sigmas[:-1]
    expected = torch.tensor([1, 1 + SCALE, 1 - SCALE, 1, 1 + SCALE, 1 - SCALE], dtype=F64)
    assert torch.allclose(scales, expected, rtol=1e-12)
    assert torch.equal(solver.B, before.B) and torch.equal(solver.sigmas, before.sigmas)
    still = solve(lambda x, sigma: torch.full_like(x, 0.2), torch.full((1, 1), 0.7, dtype=F64), solver)
    assert float(still) == pytest.approx(0.2 + 0.5 * float(solver.sigmas[-1] / solver.sigmas[0]), rel=1e-12)


@pytest.mark.parametrize(
    "ablation, sizes",
    [({"scale": False}, [12, 5, 0]), ({"learn_levels": False}, [12, 0, 5]), ({"order": 2}, [5, 5, 5])],
)
def test_ablations_take_parameters_away(ablation, sizes):
    student = Distilled(GRID, **{"high_order": False, **ablation})
    assert [p.numel() for p in (student.coefficients, student.levels, student.offsets)] == sizes
    student.solver()


def test_its_recipe_learns_step_by_step():
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, schedule=VP)
    result = learn(model, 5, "dlms", pairs=40, iterations=25, progress=False)
    record = result.record
    assert record["kept"] == "learned" and record["validation_best"] < 0.9 * record["validation_start"]
    assert (record["objective"], record["ema"], record["order"]) == ("dlms", 0.95, 4)
    assert record["family"] == "distilled multistep" and record["start"] == "plms"


def test_a_form_with_other_options_takes_the_place_of_the_methods_own():
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, schedule=VP)
    how = {"pairs": 20, "iterations": 2, "progress": False}
    still = learn(model, 4, "dlms", student=partial(distilled_student, learn_levels=False), **how)
    assert still.student.levels.numel() == 0 and torch.equal(
        still.solver.sigmas, uniform_t(4, 10.0, 0.01, VP)
    )
    low = learn(model, 4, "dlms", student=partial(distilled_student, high_order=False), order=2, **how)
    assert low.record["start"] == "dpmpp-1" and low.student.coefficients.numel() == 3


def test_a_race_for_its_objective_is_run_without_stopped_gradients():
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, schedule=VP)
    how = {"optimiser": "adam", "pairs": 8, "iterations": 1, "progress": False}
    result = learn(model, 3, "s4s", start="dpmpp-2m", objective="dlms", **how)
    assert result.record["objective"] == "dlms"
    with pytest.raises(InputError, match="for adam alone"):
        learn(model, 3, "s4s", start="dpmpp-2m", objective="dlms", pairs=8, progress=False)


@pytest.mark.parametrize("method", ["dss", "dlms"])
@pytest.mark.parametrize("option", [{"start": "heun"}, {"held": "noise"}, {"consistent": True}])
def test_what_a_method_has_of_its_own_is_not_taken_in_silence(method, option):
    row = METHODS[method]
    options = {"start": row.start, "nfe": 3, "order": row.order, "grid": lambda n: log_snr(n, 10.0, 0.01)}
    with pytest.raises(InputError, match=f"Method {method} has a start and rows of its own"):
        row.student(**options | option)

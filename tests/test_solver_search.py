"""Differentiable Solver Search: the published tables on a Gaussian, the form, and its own recipe."""

import pytest
import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.errors import InputError
from s4s_nb.grids import uniform_t
from s4s_nb.learn import learn
from s4s_nb.learn.methods import METHODS
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.models import Model
from s4s_nb.schedules import VE, Flow, VPCosine, VPDiscrete, VPLinear
from s4s_nb.solver_search import SolverSearch, search_student
from s4s_nb.solvers import Solver, solve
from tests.problems import F64, MIXTURE, noise, same_bits

DEVIATION = 0.5
GAUSSIAN = GaussianMixture([[0.0]], [DEVIATION])
VP = VPLinear()

PUBLISHED = {
    5: (
        [0.2582, 0.1766, 0.1766, 0.2156, 0.1731],
        [[-1.43], [0.93, -1.55], [0, 0, -0.69], [0, 0, 0, -0.59]],
    ),
    8: (
        [0.2033, 0.1476, 0.1094, 0.0990, 0.1116, 0.1233, 0.1310, 0.0748],
        [
            [-1.14],
            [0.80, -1.76],
            [0.02, 0.48, -1.62],
            [-0.12, 0.06, 0.62, -1.42],
            [0.04, -0.10, 0.12, 0.16, -1.04],
            [0.06, -0.04, -0.06, 0.08, -0.08, -0.56],
            [-0.02, -0.04, -0.04, 0.12, 0.14, 0.04, -0.90],
        ],
    ),
    10: (
        [0.2174, 0.1123, 0.1037, 0.0724, 0.0681, 0.0816, 0.0938, 0.0977, 0.0849, 0.0681],
        [
            [-1.17],
            [0.35, -0.99],
            [0.25, -0.11, -0.99],
            [0.03, 0.05, -0.07, -0.85],
            [-0.03, 0.03, 0.25, -0.09, -0.93],
            [-0.01, -0.03, -0.01, 0.21, -0.11, -0.67],
            [0.01, -0.03, -0.03, 0.07, 0.09, -0.03, -0.81],
            [0.03, -0.03, -0.03, -0.03, 0.05, 0.01, -0.11, -0.27],
            [-0.01, -0.01, -0.01, -0.01, 0.03, 0.07, -0.01, -0.05, -0.57],
        ],
    ),
}
"""Steps in time, and weights of past outputs in the rows after the first: the solvers that DSS's authors
searched for VP (arXiv 2505.21114, appendix J)."""


def published(nfe: int) -> tuple[Tensor, Tensor]:
    """Levels and weights, (N + 1,) and (N, N); time runs from 0.999 to 0.001 or a little below."""
    steps, rows = PUBLISHED[nfe]
    times = 0.999 - torch.cat([torch.zeros(1, dtype=F64), torch.tensor(steps, dtype=F64).cumsum(0)])
    weights = torch.zeros(nfe, nfe, dtype=F64)
    for i, row in enumerate(rows, start=1):
        weights[i, :i] = torch.tensor(row, dtype=F64)
    return VP.level(times.clamp(min=1e-3)), weights


def searched(nfe: int) -> Solver:
    """The published solver as a table of this package."""
    sigmas, weights = published(nfe)
    student = SolverSearch(sigmas, VP)
    student.move(student.coefficients_of(weights), ("coefficients",))
    return student.solver()


def released(nfe: int) -> Solver:
    """The published solver as the authors' code runs it.

    It keeps every output twice, so that weight j is given to output j // 2, and after every update makes
    another one, of first order, by the same output and with the factor σ_{i+1}/σ_i of VP's own coordinate.
    """
    sigmas, weights = published(nfe)
    ratio, alpha = sigmas[1:] / sigmas[:-1], VP.alpha(sigmas)
    mixed = torch.diag(1 - weights.sum(1))
    for j in range(nfe):
        mixed[:, j // 2] += weights[:, j]
    second = ratio * alpha[1:] / alpha[:-1]
    A, B = torch.diag(second * ratio), second[:, None] * (1 - ratio)[:, None] * mixed
    return Solver("released", sigmas, A, B + torch.diag(1 - ratio))


def deviation(solver: Solver) -> float:
    """Standard deviation of the Gaussian's samples in VP's own coordinate; exact at the start."""
    start = (DEVIATION**2 + solver.sigmas[0] ** 2).sqrt().reshape(1, 1)
    return float(VP.alpha(solver.sigmas[-1]) * solve(GAUSSIAN, start, solver))


ON_A_GAUSSIAN = [(5, 0.4098, 0.1976), (8, 0.4935, 0.2509), (10, 0.4948, 0.2614)]


@pytest.mark.parametrize("nfe, once, twice", ON_A_GAUSSIAN)
def test_the_published_tables_on_a_gaussian(nfe, once, twice):
    """The published code's second update loses half of what there is."""
    last = published(nfe)[0][-1]
    exact = float(VP.alpha(last) * (DEVIATION**2 + last**2).sqrt())
    assert exact == pytest.approx(0.5001, abs=5e-5)
    assert deviation(searched(nfe)) == pytest.approx(once, abs=6e-5)
    assert deviation(released(nfe)) == pytest.approx(twice, abs=6e-5)


@pytest.mark.parametrize("schedule", [Flow(), VP, VPCosine(), VPDiscrete.from_betas(), VE(), None])
@pytest.mark.parametrize("nfe", [1, 2, 5, 8])
def test_at_zero_it_is_euler(schedule, nfe):
    clock = Flow() if schedule is None or isinstance(schedule, VE) else schedule
    grid = lambda n: uniform_t(n, 80.0, 0.01, clock)  # noqa: E731
    student, x = search_student(grid, nfe, schedule), 80 * noise(4)
    name = "flow-ab1" if isinstance(clock, Flow) else "dpmpp-1"
    assert same_bits(student.solver(), make_solver(name, nfe, grid))
    assert torch.allclose(
        solve(MIXTURE, x, student.solver()), solve(MIXTURE, x, make_solver("euler", nfe, grid)), rtol=1e-9
    )


@pytest.mark.parametrize("nfe, size", [(5, 5), (6, 8), (7, 21), (10, 45)])
def test_rows_sum_to_one_and_short_ones_hold_one_past_output(nfe, size):
    student = SolverSearch(uniform_t(nfe, 80.0, 0.01, VP), VP)
    assert student.coefficients.numel() == size and student.levels.numel() == nfe - 1
    student.move(0.3 * noise(1, size, seed=3)[0], ("coefficients",))
    solver, x = student.solver(), torch.full((1, 1), 0.7, dtype=F64)
    still = solve(lambda x, sigma: torch.full_like(x, 0.2), x, solver)  # a constant output is kept exactly
    expected = 0.2 + (x - 0.2) * solver.sigmas[-1] / solver.sigmas[0]
    assert torch.allclose(still, expected, rtol=1e-12)
    past = (solver.B.tril(-1) != 0).sum(1)
    assert past[-2:].tolist() == ([1, 1] if nfe <= 6 else [nfe - 2, nfe - 1])


def test_its_recipe_learns_along_the_way_of_a_hundred_steps_of_euler():
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, schedule=VP)
    result = learn(model, 5, "dss", pairs=20, iterations=4, progress=False)
    record = result.record
    assert record["kept"] == "learned" and record["validation_best"] < 0.9 * record["validation_start"]
    assert record["teacher"] == ["euler", 100, "uniform"] and record["objective"] == "dss"
    assert (record["optimiser"], record["size"], record["embed"]) == ("Lion", 4, "states")
    assert (record["start"], record["grid"], record["family"]) == (
        "dpmpp-1",
        "uniform, moved",
        "solver search",
    )
    assert METHODS["dss"].turns == (("coefficients", "levels"),)
    with pytest.raises(InputError, match="no offsets"):
        result.student.sizes(("offsets",))

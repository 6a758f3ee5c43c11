"""Families: moved levels, parameter counts, exactness, gradients."""

import pytest
import torch

from s4s_nb.classic import MULTISTEP, make_solver
from s4s_nb.errors import InputError
from s4s_nb.grids import karras
from s4s_nb.learn.loop import learn_student
from s4s_nb.multistep import linear_multistep, polynomial_weights
from s4s_nb.solvers import Solver, solve
from s4s_nb.student import Student
from tests.problems import F64, held_out, noise, problem, student, to_zero
from tests.test_student import STARTS, grid_of

A_START_OF_EACH_KIND = ["ipndm-3", "dpmpp-3m", "flow-ab3", "unipc-3-bh2", "heun", "dpm-2s", "dpm-3s"]
COEFFICIENTS = ("coefficients",)
KARRAS, REFERENCE = grid_of("karras"), grid_of("logsnr")


def size(start: str, nfe: int, **options) -> int:
    """How many coefficients a student has."""
    return student(start, nfe, KARRAS, **options).coefficients.numel()


def same(one: Solver, other: Solver) -> bool:
    """Whether two tables agree to 1e-12."""
    pairs_of = ((getattr(one, key), getattr(other, key)) for key in ("sigmas", "A", "B"))
    return all((a - b).abs().max() <= 1e-12 * b.abs().max() for a, b in pairs_of)


def with_coefficients(here: Student, coefficients: torch.Tensor) -> Student:
    """The student, moved."""
    here.move(coefficients, COEFFICIENTS)
    return here


@pytest.mark.parametrize("start", STARTS)
def test_a_residual_is_the_classic_solver_wherever_the_levels_move(start):
    here = student(start, 6, REFERENCE)
    moved = KARRAS(len(here.sigmas) - 1)
    assert same(here.table(moved), make_solver(start, 6, KARRAS))


@pytest.mark.parametrize("start", ["ipndm-3", "ab3", "dpmpp-3m", "flow-ab3", "unipc-3-bh2"])
def test_residual_and_absolute_coefficients(start):
    """One family on its own grid, two on moved levels, but for iPNDM, whose weights are fixed numbers."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(student(start, 6, REFERENCE).sizes(COEFFICIENTS), generator=generator, dtype=F64)
    residual, absolute = (
        with_coefficients(student(start, 6, REFERENCE, absolute=held), numbers) for held in (False, True)
    )
    assert same(absolute.solver(), residual.solver())
    moved = KARRAS(6)
    assert same(absolute.table(moved), residual.table(moved)) == (start == "ipndm-3")
    at_zero = student(start, 6, REFERENCE, absolute=True)
    assert same(at_zero.table(moved), make_solver(start, 6, KARRAS)) == (start == "ipndm-3")


def test_absolute_coefficients_are_those_of_the_reference_grid():
    absolute = student("ab3", 6, REFERENCE, absolute=True)
    held = linear_multistep(KARRAS(6), polynomial_weights(REFERENCE(6), 3, lambda s: s), "noise")
    assert same(absolute.table(KARRAS(6)), held)


@pytest.mark.parametrize("start", ["dpmpp-2m", "unipc-3-bh2"])
def test_the_start_may_have_its_order_lowered_at_the_end(start):
    classic = make_solver(start, 5, KARRAS, lower_final=True)
    assert torch.equal(student(start, 5, KARRAS, lower_final=True).solver().B, classic.B)
    assert not torch.equal(classic.B, make_solver(start, 5, KARRAS).B)


COUNTS = {3: 6, 4: 9, 5: 12, 6: 15, 7: 18, 8: 21, 10: 27}
"""m = kN − k(k−1)/2 for k = 3."""


@pytest.mark.parametrize("nfe", COUNTS)
@pytest.mark.parametrize("start", ["ipndm-3", "dpmpp-3m", "flow-ab3"])
def test_parameter_count_of_linear_multistep(start, nfe):
    """m, and N fewer where the coefficients sum to 1; N(N+1)/2 with the whole history."""
    assert size(start, nfe) == COUNTS[nfe]
    assert size(start, nfe, consistent=True) == COUNTS[nfe] - nfe
    assert size(start, nfe, order=nfe) == nfe * (nfe + 1) // 2


@pytest.mark.parametrize("nfe", COUNTS)
def test_parameter_count_of_predictor_corrector(nfe):
    """2m + N − 1 − k, and one fewer in each of the 2N − 1 rows that sum to 1."""
    count = 2 * COUNTS[nfe] + nfe - 1 - 3
    assert size("unipc-3-bh2", nfe) == count
    assert size("unipc-3-bh2", nfe, consistent=True) == count - (2 * nfe - 1)


@pytest.mark.parametrize(
    "start, nfe, count", [("heun", 4, 6), ("dpm-2s", 4, 8), ("dpm-2s", 5, 9), ("dpm-3s", 6, 16)]
)
def test_parameter_count_of_single_step(start, nfe, count):
    """s(s + 1)/2 weights a step of s stages, and its nodes."""
    assert size(start, nfe) == count


def test_a_start_with_more_history_than_the_family_is_refused():
    for start in ("ipndm-4", "unipc-3-bh1"):
        with pytest.raises(InputError, match="higher order"):
            student(start, 5, KARRAS, order=2)


def test_a_single_step_student_needs_a_level_above_zero():
    with pytest.raises(InputError, match="above 0"):
        student("dpm-2s", 4, lambda n: to_zero(karras(n - 1, 80.0, 0.1)))


@pytest.mark.parametrize(
    "start", ["ipndm-3", "dpmpp-3m", "exp-ab3", "flow-ab3", "flow-ab1", "unipc-3-bh2", "unipc-2-bh1"]
)
def test_a_consistent_family_is_exact_on_a_constant_denoiser(start):
    """D = d everywhere: x_N = d + (σ_N/σ_0)(x_0 − d), whatever the parameters and the form."""
    x, d = torch.tensor([[80.0, -40.0]], dtype=F64), torch.tensor([[0.5, 2.0]], dtype=F64)

    def end_of(here: Student, coefficients: torch.Tensor) -> torch.Tensor:
        return solve(lambda x, sigma: d, x, here.moved(coefficients, COEFFICIENTS))

    here = student(start, 5, REFERENCE, consistent=True)
    numbers = torch.randn(here.sizes(COEFFICIENTS), dtype=F64, generator=torch.Generator().manual_seed(0))
    exact = d + 0.002 / 80 * (x - d)
    assert (end_of(here, numbers) - exact).abs().max() < 1e-10
    free = student(start, 5, REFERENCE)
    assert (end_of(free, free.zero(COEFFICIENTS) + 0.1) - exact).abs().max() > 1e-3


@pytest.mark.parametrize("start", ["ipndm-3", "deis-2", "heun", "dpm-2s", "dpm-3s"])
def test_a_consistent_noise_form_is_exact_on_a_constant_noise(start):
    """ε = e everywhere: x_N = x_0 + (σ_N − σ_0) e, whatever the coefficients (nodes at rest)."""
    options = {"nodes": False} if start not in MULTISTEP else {}
    here = student(start, 5, REFERENCE, consistent=True, **options)
    numbers = torch.randn(here.sizes(COEFFICIENTS), dtype=F64, generator=torch.Generator().manual_seed(0))
    x, e = torch.tensor([[3.0, -1.0]], dtype=F64), torch.tensor([[0.5, 2.0]], dtype=F64)
    end = solve(lambda x, sigma: x - sigma * e, x, here.moved(numbers, COEFFICIENTS))
    assert (end - (x + (0.002 - 80) * e)).abs().max() < 1e-8


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("start", A_START_OF_EACH_KIND)
def test_gradient_of_the_table_in_coefficients_and_levels(start, consistent):
    """Against finite differences, every entry, away from the classic solver and from the student's grid."""
    here = student(start, 4, consistent=consistent)
    parts = ("coefficients", "levels")
    point = 0.1 * noise(1, sum(here.sizes(parts)))[0]

    def entries(by):
        table = here.moved(by, parts)
        return torch.cat([table.A.flatten(), table.B.flatten(), table.sigmas])

    assert torch.autograd.gradcheck(entries, point.requires_grad_(), eps=1e-7, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("start", A_START_OF_EACH_KIND)
def test_gradient_of_a_loss_in_the_coefficients(start, consistent):
    """Against central differences, at a point away from the classic solver."""
    here, given = student(start, 4, consistent=consistent), problem(train=6)
    point = 0.1 * noise(1, *here.sizes(COEFFICIENTS))[0]

    def loss(coefficients):
        return given.loss(here.moved(coefficients, COEFFICIENTS), given.train)

    learned = point.clone().requires_grad_()
    loss(learned).backward()
    h, numeric = 1e-6, torch.zeros_like(point)
    for k, direction in enumerate(torch.eye(len(point), dtype=F64)):
        numeric[k] = (loss(point + h * direction) - loss(point - h * direction)) / (2 * h)
    assert learned.grad is not None
    assert (learned.grad - numeric).abs().max() < 1e-5 * numeric.abs().max()


@pytest.mark.parametrize("start", A_START_OF_EACH_KIND)
def test_every_family_improves_on_unseen_noise(start):
    here = student(start, 4)
    before = held_out(here.solver())
    options = {"optimiser": "gauss-newton", "progress": False}
    learned = learn_student(problem(train=100, validation=50), here, "s4s", **options)
    assert held_out(learned.solver) < 0.9 * before

"""Batches side by side give what batches in turn give, in the caller's modes; bars; TF32."""

import threading

import pytest
import torch

from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.learn.gauss_newton import normal_equations
from s4s_nb.learn.loop import learn_student
from s4s_nb.runtime import bar, full_float32, map_batches, on_threads
from tests.problems import MIXTURE, problem, same_bits, student

# ---------------------------------------------------------------- threads


@pytest.fixture
def two_threads():
    with on_threads(2):
        yield


def test_parts_keep_their_order_and_run_on_one_thread_each(two_threads):
    meeting = threading.Barrier(2, timeout=20)  # breaks unless two parts run at once

    def work(k: int) -> tuple[int, int]:
        meeting.wait()
        return k, torch.get_num_threads()

    assert map_batches(work, range(4), "cpu") == [(k, 1) for k in range(4)]
    assert torch.get_num_threads() == 2


def test_gradient_modes_reach_the_workers(two_threads):
    x = torch.ones(1, requires_grad=True)
    assert all(y.requires_grad for y in map_batches(lambda k: k * x, range(3), "cpu"))
    with torch.no_grad():
        assert not any(y.requires_grad for y in map_batches(lambda k: k * x, range(3), "cpu"))
    with torch.inference_mode():
        assert all(y.is_inference() for y in map_batches(lambda k: k * x, range(3), "cpu"))
    assert not any(y.is_inference() for y in map_batches(lambda k: k * x, range(3), "cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_reaches_the_workers(dtype, two_threads):
    """Guards low precision, which would otherwise hold for a single batch and be lost for several."""
    x = torch.ones(4, 4)

    def product(k: int) -> tuple[bool, torch.dtype]:
        return torch.is_autocast_enabled("cpu"), (x @ x).dtype

    with torch.autocast("cpu", dtype):
        assert map_batches(product, range(3), "cpu") == [(True, dtype)] * 3
        with torch.autocast("cpu", enabled=False):
            assert map_batches(product, range(3), "cpu") == [(False, torch.float32)] * 3
    assert map_batches(product, range(3), "cpu") == [(False, torch.float32)] * 3


def test_an_error_in_a_part_is_raised_and_gives_the_threads_back(two_threads):
    """Guards the rest of the session, which would go on with a single thread."""

    def fail(k: int) -> None:
        raise InputError(f"part {k}")

    with pytest.raises(InputError, match="part 0"):
        map_batches(fail, range(4), "cpu")
    assert torch.get_num_threads() == 2
    threads = []
    new = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert threads == [2]  # what the workers set would also be the default of threads to come


def test_learning_has_the_same_bits_on_one_thread_and_on_two():
    """Guards sums over batches, whose order must not depend on which is done first."""
    before, solvers = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            result = learn_student(problem(batch=5), student(), "joint", iterations=3, progress=False)
            solvers.append(result.solver)
    finally:
        torch.set_num_threads(before)
    assert same_bits(*solvers)


def test_calls_are_counted_from_all_threads(two_threads):
    counted = Counted(lambda x: x)
    map_batches(lambda x: [counted(x) for _ in range(2000)], torch.ones(8, 1).split(1), "cpu")
    assert counted.nfe == 16_000


# ---------------------------------------------------------------- TF32

FLAGS = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture
def tf32():
    """TF32 as CUDA uses it by default since Ampere; put back after the test."""
    before = [flag.allow_tf32 for flag in FLAGS]
    for flag in FLAGS:
        flag.allow_tf32 = True  # pyright: ignore[reportAttributeAccessIssue]
    yield
    for flag, value in zip(FLAGS, before, strict=True):
        flag.allow_tf32 = value  # pyright: ignore[reportAttributeAccessIssue]


def test_full_float32_is_without_tf32_and_puts_it_back(tf32):
    with full_float32():
        assert not any(flag.allow_tf32 for flag in FLAGS)
    assert all(flag.allow_tf32 for flag in FLAGS)
    with pytest.raises(InputError), full_float32():
        raise InputError("inside")
    assert all(flag.allow_tf32 for flag in FLAGS)
    torch.backends.cudnn.allow_tf32 = False
    with full_float32():
        pass
    assert [flag.allow_tf32 for flag in FLAGS] == [True, False]


def test_derivatives_by_differences_are_taken_in_full_float32(tf32):
    """Guards gradients that are wrong by up to 86 % on a GPU."""
    seen = []

    def denoise(x, sigma):
        seen.append(any(flag.allow_tf32 for flag in FLAGS))
        return MIXTURE(x, sigma)

    here, given = student(), problem(denoise=denoise)
    seen.clear()  # of the look at the denoiser
    normal_equations(given, here, here.zero(("coefficients",)), ("coefficients",))
    assert len(seen) > 10 and not any(seen)
    seen.clear()
    given.distances(here.solver())
    assert seen and all(seen)  # what is no derivative keeps the speed


# ---------------------------------------------------------------- bars


def test_a_log_gets_lines_at_the_start_and_the_end(capsys):
    assert sum(bar(range(1000), desc="steps")) == 499_500
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert "\r" not in written and 1 <= len(lines) <= 4
    assert all(line.startswith("steps:") for line in lines) and "1000/1000" in lines[-1]


def test_a_disabled_bar_is_silent(capsys):
    assert list(bar(range(3), disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_learning_shows_its_bar_unless_told_not_to(capsys):
    learn_student(problem(), student(), "s4s", iterations=1)
    assert "s4s from dpmpp-3m" in capsys.readouterr().err
    learn_student(problem(), student(), "s4s", iterations=1, progress=False)
    assert capsys.readouterr().err == ""

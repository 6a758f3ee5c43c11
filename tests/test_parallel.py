"""Batches side by side give what batches in turn give, in order, and errors come through."""

import threading

import pytest
import torch

from s4s_nb.denoisers import Counted
from s4s_nb.errors import InputError
from s4s_nb.parallel import map_batches


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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


def test_an_error_in_a_part_is_raised(two_threads):
    def fail(k: int) -> None:
        raise InputError(f"part {k}")

    with pytest.raises(InputError, match="part 0"):
        map_batches(fail, range(4), "cpu")


def test_calls_are_counted_from_all_threads(two_threads):
    counted = Counted(lambda x: x)
    map_batches(lambda x: [counted(x) for _ in range(2000)], torch.ones(8, 1).split(1), "cpu")
    assert counted.nfe == 16_000

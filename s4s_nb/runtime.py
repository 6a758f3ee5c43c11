"""How work is spread: batches over the threads of a CPU, shares over processes, and its progress shown."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch
import torch.distributed as dist
from IPython.core.getipython import get_ipython
from tqdm.auto import tqdm

from s4s_nb.errors import InputError

Part = TypeVar("Part")
Done = TypeVar("Done")

# ---------------------------------------------------------------- bars

SECONDS_BETWEEN_LINES = 30


class Lines:
    """A file that turns what a bar writes over and over into lines of their own on standard error."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line is flushed already."""


def bar(*iterable, **options) -> tqdm:
    """A tqdm bar; without a terminal a line at its start, at its end and every 30 seconds."""
    if sys.stderr.isatty() or get_ipython() is not None:
        return tqdm(*iterable, **options)
    lines = {"file": Lines(), "mininterval": SECONDS_BETWEEN_LINES, "ncols": 100, "ascii": " ="}
    return tqdm(*iterable, **options | lines)


# ---------------------------------------------------------------- threads


def batch_size(device: torch.device | str) -> int:
    """Samples a batch where nothing else is asked for: few for the caches of a CPU, many for a GPU."""
    return 20 if torch.device(device).type == "cpu" else 200


def threads_for(device: torch.device | str) -> int:
    """Batches at a time: one a thread of torch on the CPU, one on an accelerator."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


def map_batches(
    function: Callable[[Part], Done],
    parts: Sequence[Part],
    device: torch.device | str,
    title: str | None = None,
) -> list[Done]:
    """``[function(part) for part in parts]``, with a bar if it has a title.

    Inside one operation of a small network several threads mostly wait for each other. So on the CPU as
    many parts run at once as torch has threads, each on a single one; ``s4s-nb bench`` measures what that
    gains. ``function``, and the denoiser in it, must bear to be called from several threads, which run in
    the caller's gradient mode and autocast. An accelerator takes the parts in turn.

    Parts side by side have the numbers of one thread, however many there are. A single part runs on all
    threads of torch, and so may be rounded otherwise if it has fewer than 16 images: what has to have the
    same bits whatever else is made beside it runs under :func:`on_threads`.

    After an error the parts that run are waited for. After an interrupt they are left to themselves.
    """
    threads = threads_for(device)

    def listed(results: Iterable[Done]) -> list[Done]:
        return list(bar(results, total=len(parts), desc=title, disable=title is None, mininterval=1))

    if min(threads, len(parts)) < 2:
        return listed(map(function, parts))
    work = in_the_modes_of_this_thread(function)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting = True
    try:
        return listed(in_order([pool.submit(work, part) for part in parts]))
    except KeyboardInterrupt:
        waiting = False
        raise
    finally:
        pool.shutdown(waiting, cancel_futures=True)
        torch.set_num_threads(threads)  # what the workers set is also the default of threads to come


@contextmanager
def on_threads(count: int):
    """Operations of torch on so many threads, whose number decides how small batches are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(futures: Sequence[Future[Done]]) -> Iterator[Done]:
    """The results, in waits of a second: Windows interrupts none that lasts."""
    for future in futures:
        while not future.done():
            wait([future], timeout=1)
        yield future.result()


def in_the_modes_of_this_thread(function: Callable[[Part], Done]) -> Callable[[Part], Done]:
    """``function`` under the inference, gradient and autocast modes that hold here.

    All three belong to a thread, and a new one starts without them.
    """
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def work(part: Part) -> Done:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients),
            torch.autocast("cpu", dtype, enabled=autocast),
        ):
            return function(part)

    return work


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was told; a clock that is read before that tells nothing."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def full_float32():
    """Products and convolutions in full float32, without TF32, which CUDA uses by default since Ampere.

    TF32 keeps 10 bits of a mantissa. Derivatives by differences of 10⁻³ drown in its rounding: emulated on
    the bundled networks, their gradient was wrong by 1 to 86 %.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# ---------------------------------------------------------------- processes, started here


def in_processes(calls: Sequence[Callable[[], object]], jobs: int) -> None:
    """Make the calls, ``jobs`` at a time, each in a process with its share of torch's threads.

    An error or an interrupt ends the others at once, and none outlives this process, however it ends.

    Raises:
        InputError: the system killed one.
    """
    jobs, others = min(jobs, len(calls)), set(active_children())
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), begin_work, (max(1, torch.get_num_threads() // jobs),)
    )
    try:
        with interrupts_held_back():
            parts = [pool.submit(call) for call in calls]
        for _ in in_order(parts):
            pass
    except BaseException as error:
        for process in set(active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                "A process was killed, perhaps for want of memory; use fewer --jobs."
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def interrupts_held_back():
    """Let a Ctrl-C wait. Processes that are started within never hear one: their parent acts on it."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows, where begin_work alone makes them deaf
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_work(threads: int) -> None:
    """Make a process that works for another: so many threads, deaf to Ctrl-C, gone once the other is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait until the process that started this one has ended, killed or not, and end."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# ---------------------------------------------------------------- processes, started by torchrun


def own_device(device: str) -> str:
    """``device``, but under torchrun "cuda" is each process's own GPU, by its local rank.

    Called before anything is put on the device, so that no network lands on the first GPU by mistake.
    """
    if "LOCAL_RANK" not in os.environ or torch.device(device).type != "cuda":
        return device
    local = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(local)
    return local


def world(device: str) -> tuple[int, int]:
    """(rank, number of processes); joins the group on the first call, (0, 1) without ``torchrun``."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def wait_for_all() -> None:
    """Let no process go on before all have come here; nothing without ``torchrun``."""
    if dist.is_initialized():
        dist.barrier()

"""Batches side by side on the CPU: one thread a core, each with a whole batch to itself.

Inside one operation of a small network several threads mostly wait for each other; ``s4s-nb bench``
measures what this way gains on the machine at hand.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from s4s_nb.progress import bar

Part = TypeVar("Part")
Result = TypeVar("Result")


def batch_size(device: torch.device | str) -> int:
    """Samples a batch where nothing else is asked for: few for the caches of a CPU, many for a GPU."""
    return 20 if torch.device(device).type == "cpu" else 200


def map_batches(
    function: Callable[[Part], Result],
    parts: Sequence[Part],
    device: torch.device | str,
    title: str | None = None,
) -> list[Result]:
    """``[function(part) for part in parts]``, with a bar if it has a title.

    On the CPU as many parts run at once as torch has threads, each on a single one, so ``function``,
    and the denoiser in it, must bear to be called from several threads. The numbers do not depend on
    how many there are. An accelerator takes the parts in turn.
    """
    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def work(part: Part) -> Result:
        # Both modes belong to a thread, and a new one starts without them.
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(part)

    def listed(results: Iterable[Result]) -> list[Result]:
        return list(bar(results, total=len(parts), desc=title, disable=title is None, mininterval=1))

    if min(threads, len(parts)) < 2:
        return listed(map(function, parts))
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = listed(pool.map(work, parts))
    torch.set_num_threads(threads)  # what the workers set is also the default of threads to come
    return results

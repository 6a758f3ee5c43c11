"""Processes made by fork, for the scripts that kill them."""

import os
import threading
from collections.abc import Callable

from tqdm.auto import tqdm

# By default forked processes share tqdm's lock: one killed while it holds it stops all that follow.
tqdm.set_lock(threading.RLock())


def forked(work: Callable[[], object]) -> int:
    """Start a process that does ``work`` and ends; returns its pid."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

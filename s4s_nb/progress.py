"""Progress bars: live on a terminal and in a notebook, now and then a line in a log."""

import sys

from IPython.core.getipython import get_ipython
from tqdm.auto import tqdm

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

"""Where every command ends: errors become sentences, an interrupt ends at once; any terminal will do."""

import codecs
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from typer.core import TyperGroup

from s4s_nb.atomic import reason
from s4s_nb.errors import InputError


class Commands(TyperGroup):
    """The commands, each of which runs within :func:`boundary`."""

    def invoke(self, ctx: Any) -> Any:
        with boundary():
            return super().invoke(ctx)


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what ends a command into a status and a sentence on standard error.

    2 for an :class:`InputError` and for what the system refuses: files, disks. 128 and the signal's number,
    so 130 for Ctrl-C, at once for an interrupt, whatever the threads do. 1, without a word, where nobody
    reads on. Other errors are faults, and keep their traceback.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        end(2, str(error), getattr(error, "__notes__", ()))
    except BrokenPipeError:
        end(1)
    except OSError as error:
        end(2, f"{error.filename}: {reason(error)}." if error.filename else f"{reason(error)}.")
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError):
            print(
                ("\n" if sys.stderr.isatty() else "") + "s4s-nb: interrupted.", file=sys.stderr, flush=True
            )
        os._exit(128 + getattr(interrupt, "signal", signal.SIGINT))  # a plain exit waits for the threads


class Stopped(KeyboardInterrupt):
    """An interrupt by another signal than Ctrl-C's: the process is to end, or its terminal was closed."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = number


def stop(number: int, frame: Any) -> None:
    """What handles such a signal."""
    raise Stopped(number)


def end(status: int, sentence: str = "", notes: Any = ()) -> None:
    """Exit, once all was said."""
    with suppress(OSError):
        for line in (*notes, *([f"s4s-nb: {sentence}"] if sentence else [])):
            print(line, file=sys.stderr, flush=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # else Python tries again at its end, and complains
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


# ---------------------------------------------------------------- the terminal

PLAIN = {"–": "-", "—": "-", "−": "-", "…": ".", "→": ">", "×": "x", "‖": "|", "’": "'", "“": '"', "”": '"'}
"""What is written for characters that an encoding lacks: one for one, so that columns stay columns."""


def plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of encoders, by :data:`PLAIN`; other characters are escaped."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    escaped = (PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing)
    return "".join(escaped), error.end


def prepare() -> None:
    """Write what the terminal lacks in plain characters, hear signals, draw pictures without a screen."""
    codecs.register_error("s4s_nb.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="s4s_nb.plain")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP, and nohup ignores it
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)
    os.environ["MPLBACKEND"] = "agg"  # before matplotlib is imported

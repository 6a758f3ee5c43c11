"""Errors that a user can act on: one sentence each, shown by the command line without a traceback."""

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


class InputError(ValueError):
    """Bad input; the message says what to do."""


class DivergedError(InputError):
    """A solver whose numbers stopped being finite, or whose levels ran together: it blew up.

    The one failure that a learner may meet in a trial and count as an infinite distance.
    """


def choose(known: Mapping[K, T], name: K, what: str) -> T:
    """``known[name]``, or an :class:`InputError` that lists the known names."""
    if name not in known:
        raise InputError(f"Unknown {what} {name!r}; choose one of: {', '.join(map(str, known))}.")
    return known[name]

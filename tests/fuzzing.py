"""A fuzz of every file that the package reads: a mutated one is refused in a sentence, or read as before.

python -m tests.fuzzing --files 10000 --seed 0 [--only learn] [--case learn:17]
"""

import argparse
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from random import Random

import torch

from s4s_nb.errors import InputError
from tests.fuzzed_files import TARGETS, bits, place
from tests.mutated_files import mutated

SECONDS = 10
"""What takes longer hangs."""
BAD = ("changed", "traceback", "hang", "unclear")
"""Outcomes that are defects; ``refused`` and ``equal`` are none."""


class Hang(BaseException):
    """It took too long."""


def stop(*_) -> None:
    raise Hang


def is_sentence(error: InputError) -> bool:
    """One line that ends with a full stop and can be printed."""
    text = str(error)
    return text.endswith(".") and len(text.splitlines()) == 1 and text.isprintable()


@contextmanager
def quiet():
    """Without what is printed."""
    with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(null), redirect_stderr(null):
        with warnings.catch_warnings(action="ignore"):
            yield


def outcome(read: Callable[[], object], before: object, trace: bool = False) -> tuple[str, str]:
    """What becomes of a reading, and where, if it is a defect of the package's code."""
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with quiet():
            return ("equal", "") if bits(read()) == before else ("changed", "")
    except InputError as error:
        return ("refused", "") if is_sentence(error) else ("unclear", f"{str(error)!r:.120}")
    except Hang:
        return "hang", ""
    except Exception as error:
        if trace:
            traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "/s4s_nb/" in f.filename] or frames[-1:]
        where = f"{own[-1].filename.rpartition('/s4s_nb/')[2]}:{own[-1].lineno} {own[-1].name}"
        return "traceback", f"{type(error).__name__} at {where}"
    finally:
        signal.alarm(0)


def fuzz(
    name: str, numbers: Iterable[int], seed: int, folder: Path, trace: bool = False
) -> Iterator[tuple[int, str, str, str]]:
    """(number, outcome, where, what was mutated) of the mutations of a target with these numbers."""
    own = folder / name.replace(" ", "-")
    own.mkdir()
    with quiet():
        target = TARGETS[name][1](own)
        before = bits(target.read(place(folder / "case", target.files)))
    for number in numbers:
        random = Random(f"{seed} {name} {number}")
        changed, told = mutated(random, target.files, target.names, target.foreign)
        there = place(folder / "case", changed)
        yield number, *outcome(partial(target.read, there), before, trace), told


def main(count: int, seed: int, name: str | None, case: str | None) -> None:
    """Fuzz all targets, or one; print how many files had which outcome, and each defect's smallest one."""
    name, _, number = case.rpartition(":") if case else (name, "", "")
    names = [name] if name else list(TARGETS)
    per_share = count / sum(TARGETS[key][0] for key in names)
    outcomes, smallest, started = Counter(), {}, time.monotonic()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            numbers = [int(number)] if number else range(round(per_share * TARGETS[name][0]))
            for k, what, where, told in fuzz(name, numbers, seed, Path(folder), bool(case)):
                outcomes[name, what] += 1
                kind = name.split()[0], what, where or told.partition(":")[0]
                if what in BAD:
                    times, *known = smallest.get(kind, (0, told, f"{name}:{k}"))
                    known = min(known, [told, f"{name}:{k}"], key=lambda found: len(found[0]))
                    smallest[kind] = times + 1, *known
    print(f"{'':16s}" + "".join(f"{what:>11s}" for what in ("refused", "equal", *BAD)))
    for name in names:
        row = (outcomes[name, what] for what in ("refused", "equal", *BAD))
        print(f"{name:16s}" + "".join(f"{number:11d}" for number in row))
    for (target, what, where), (times, told, case) in sorted(smallest.items()):
        print(f"\n{target}, {what}, {times} times: {where}\n    {told}    [--case '{case}']")
    print(f"\n{sum(outcomes.values())} files in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--case", help="TARGET:NUMBER, that file of the same seed alone, and its traceback")
    given = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))  # a huge size is refused, not tried
    main(given.files, given.seed, given.only, given.case)

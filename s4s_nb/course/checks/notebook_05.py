"""Checks of notebook 05: order from doublings, strong enough, nodes to keep, shards to make."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s_nb.course.checks.diagnosis import (
    Check,
    WrongKind,
    diagnose,
    diagnose_counts,
    first,
    indices,
    number,
    pair,
)
from s4s_nb.distances import rmse
from s4s_nb.files import sha256, write_json, write_safetensors


def order_and_error(answer: Callable[[float, float], Any]) -> str | None:
    """p = log₂(d₁/d₂) and e = d₂/(2^p − 1), as ``answer(d1, d2) -> (p, e)``."""
    return first(one_order(answer, *case) for case in ((0.36, 0.048), (0.02, 0.007)))


def one_order(answer: Callable[[float, float], Any], d1: float, d2: float) -> str | None:
    """What is wrong with the order and the error of two distances."""
    p, natural, error = math.log2(d1 / d2), math.log(d1 / d2), d2 / (d1 / d2 - 1)

    def both(order: float, error: float) -> Tensor:
        return torch.tensor([order, error], dtype=torch.float64)

    right = both(p, error)
    mistakes = {
        "right numbers, wrong way round: return (p, e).": right.flip(0),
        "your order is negative: divide the larger difference, d1, by the smaller.": (
            both(-p, d2 / (d2 / d1 - 1))
        ),
        "the error is right, but your order is negative: divide d1, the larger, by d2.": both(-p, error),
        "that is a natural logarithm; a doubling divides by 2^p, so take log₂.": both(natural, error),
        "that is a natural logarithm, so the error is wrong as well; take log₂.": (
            both(natural, d2 / (2**natural - 1))
        ),
        "that is the error of the solver with 2N evaluations; the finest has 4N.": (
            both(p, d2 / (1 - d2 / d1))
        ),
        "that is the error of the solver with N evaluations; the finest has 4N.": (
            both(p, d1 / (1 - d2 / d1))
        ),
        "d2 is the distance of *two* approximations, e_2N − e_4N: divide by 2^p − 1, not by 2^p.": (
            both(p, d2 * d2 / d1)
        ),
        "d2 itself is nearly the error of the coarser solver; that of the finest is d2 / (2^p − 1).": (
            both(p, d2)
        ),
    }
    given = [number(value) for value in pair(answer(d1, d2), "two numbers, p and e")]
    return diagnose(given, right, mistakes)


class Endless(Exception):
    """A search that goes on where it should have stopped."""


class FakeTeacher:
    """End points of a solver of order 2, with its calls: error about 2/n², not the same in all pixels."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, evaluations: int) -> Tensor:
        self.calls.append(evaluations)
        if evaluations > 5000 or len(self.calls) > 200:
            raise Endless
        if evaluations < 1:
            raise WrongKind(f"you run the teacher with {evaluations} evaluations; begin with `first`.")
        image = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 1, 4, 4)
        return image + (1 + image.flip(2)) * 2 / evaluations**2


def missed(n: int) -> float:
    """d(N, 2N) of the fake teacher."""
    ends = FakeTeacher()
    return float(rmse(ends(n), ends(2 * n)).mean())


def doubled(error: float, start: int, measure: Callable[[int], float] = missed) -> int:
    """The first N of start, 2·start, … whose ``measure`` is below an error."""
    n = start
    while measure(n) >= error:
        n *= 2
    return n


def strong_enough(answer: Callable[[Callable[[int], Tensor], float, int], int]) -> str | None:
    """Smallest N of first, 2·first, … with d(N, 2N) < error/10, by (ends, student_error, first)."""
    near = 10 * missed(20)
    cases = [(0.0166, 5), (1.05 * near, 5), (0.95 * near, 5), (15 * missed(8), 8)]
    teachers = {case: FakeTeacher() for case in cases}

    def right(error: float, start: int) -> int:
        return doubled(0.1 * error, start)

    mistakes = {
        "you return the finer of the two; the coarser one is strong enough already.": (
            lambda error, start: 2 * right(error, start)
        ),
        "you compare with the student's error; the teacher's must be below a *tenth* of it.": doubled,
        "you compare with a hundredth of the student's error; a tenth is asked for.": (
            lambda error, start: doubled(0.01 * error, start)
        ),
        "you compare mean *squares*; the RMSE has a root.": (
            lambda error, start: doubled(0.1 * error, start, lambda n: missed(n) ** 2)
        ),
        "you stopped one doubling too early; is the comparison made before N is doubled?": (
            lambda error, start: right(error, start) // 2
        ),
    }
    story = "for a student's error of {:.3g}, begun at {},"
    try:
        problem = diagnose_counts(
            lambda *case: answer(teachers[case], *case), cases, right, mistakes, story
        )
    except Endless:
        return "your search goes on where d(N, 2N) is far below a tenth of the student's error."
    return problem or first(wasteful(teachers[case].calls, case[1], right(*case)) for case in cases)


def wasteful(calls: list[int], start: int, enough: int) -> str | None:
    """Runs of the teacher that were not needed."""
    if len(calls) > len(set(calls)):
        return (
            f"right, but you ran the teacher at {calls} evaluations: keep the finer end points, they are"
            " the coarser ones of the next round."
        )
    needed = [start * 2**k for k in range(20) if start * 2**k <= 2 * enough]
    if sorted(calls) != needed:
        return f"right, but you ran the teacher at {calls} evaluations; {needed} are needed, each once."
    return None


def nodes_to_keep(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """argmin_i |log σ_i − log level| for each level, as ``answer(sigmas, levels) -> (k,) ints``."""
    sigmas = torch.tensor([80.0, 30.0, 10.0, 3.5, 1.0, 0.3, 0.05, 0.002], dtype=torch.float64)
    levels = torch.tensor([1.7, 18.0, 0.2, 0.012], dtype=torch.float64)
    logs = (sigmas.log()[:, None] - levels.log()).abs()
    right = logs.argmin(0)
    above = (sigmas[:, None] >= levels).sum(0) - 1
    mistakes = {
        "nearest in σ is not nearest in log σ: 0.012 lies a factor 4 from 0.05 and 6 from 0.002.": (
            (sigmas[:, None] - levels).abs().argmin(0)
        ),
        "these are the levels of the nodes; return their indices.": sigmas[right],
        "you take the last node *above* a level; the nearest one may lie below.": above,
        "you take the first node *below* a level; the nearest one may lie above.": above + 1,
        "these are the farthest nodes; take the least distance.": logs.argmax(0),
        "you sorted the levels; keep them in the order given.": right.sort().values,
        "for every node you return a level; it is the other way round: argmin over the nodes.": (
            logs.argmin(1)
        ),
    }
    return diagnose(answer(sigmas, levels), right, mistakes)


def shards_in(folder: Path) -> list[Path]:
    """Where 33 pairs lie in shards of 5."""
    return [folder / f"{index:05d}.safetensors" for index in range(7)]


def write_shards(folder: Path) -> None:
    """33 pairs in shards of 5, each with its record."""
    for index, path in enumerate(shards_in(folder)):
        pairs = min(5, 33 - 5 * index)
        write_safetensors(path, {"targets": torch.full((pairs, 4), float(index))}, {})
        write_json(path.with_suffix(".json"), {"sha256": sha256(path), "pairs": pairs})


def shards_to_make(answer: Callable[[Path, int, int], list[int]]) -> str | None:
    """Indices of shards that are missing, damaged, without record or short, (folder, count, shard)."""
    with tempfile.TemporaryDirectory() as name:
        whole, faulty = Path(name) / "whole", Path(name) / "faulty"
        write_shards(whole)
        shutil.copytree(whole, faulty)
        paths = shards_in(faulty)
        paths[1].unlink()
        damaged = bytearray(paths[2].read_bytes())
        damaged[-3] ^= 1
        paths[2].write_bytes(damaged)
        paths[3].with_suffix(".json").unlink()
        paths[5].with_suffix(".json").write_text('{"sha256": "0', encoding="utf-8")
        paths[6].unlink()
        cases = [
            (whole, 33, [], "a folder in which all is whole, the short last shard too: "),
            (faulty, 33, [1, 2, 3, 5, 6], "a folder with five faults: "),
            (whole, 34, [6], "34 pairs asked for, and the last shard has 3 where 4 belong: "),
        ]
        return first(told(answer, *case) for case in cases)


SHARD_HINTS = {
    (0, 1, 2, 3, 4, 5, 6): "you name every shard; those that are whole need not be made.",
    (6,): "it may be shorter than the others: min(shard, count − index · shard) pairs belong there.",
    (1, 2, 3, 5): "the last shard is forgotten: there are ⌈count / shard⌉ of them.",
    (1, 6): "you trust every file that is there; compare its sha256 with the record's.",
    (1, 3, 6): "you trust every file that has a record; compare its sha256 with the record's.",
    (1, 3, 5, 6): "one byte of shard 2 has changed; its sha256 is no longer that of the record.",
    (): "compare the record's number of pairs with the number that belongs there.",
}


def told(
    answer: Callable[[Path, int, int], list[int]], folder: Path, count: int, expected: list[int], story: str
) -> str | None:
    """What is wrong with ``answer`` on this folder."""
    try:
        given = answer(folder, count, 5)
    except FileNotFoundError:
        return story + "a file or a record may be missing; that is no reason to crash."
    except json.JSONDecodeError:
        return story + "a record may be half-written; that is no reason to crash."
    given = indices(given, "a list of indices")
    if given == expected:
        return None
    return story + SHARD_HINTS.get(tuple(given), f"to be made are {expected}, not {given}.")


CHECKS: dict[str, Check] = {
    "05-order": order_and_error,
    "05-strong": strong_enough,
    "05-nodes": nodes_to_keep,
    "05-shards": shards_to_make,
}

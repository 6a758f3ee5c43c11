"""The checks of the exercises accept right answers and name the mistake in wrong ones."""

import math
import operator
import re
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
import torch
from torch import Tensor

from s4s_nb.course.checks import CHECKS, check
from s4s_nb.course.checks.notebook_06 import ball_projection
from s4s_nb.learn.relaxed import RelaxedStarts
from s4s_nb.pairs import Pairs
from tests import answers
from tests.problems import F64, noise

MODULES = [import_module(f"{answers.__name__}.{found.name}") for found in iter_modules(answers.__path__)]
RIGHT = [case for module in MODULES for case in module.RIGHT.items()]
WRONG = [case for module in MODULES for case in module.WRONG]
IDS = [name for name, _ in RIGHT]


def said(capsys, name: str, answer) -> str:
    check(name, answer)
    return capsys.readouterr().out


def test_every_check_is_tried():
    assert sorted(IDS) == sorted(CHECKS)
    assert {name for name, *_ in WRONG} == set(CHECKS)


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=IDS)
def test_a_right_answer_passes(name, answer, capsys):
    assert said(capsys, name, answer).startswith(f"✓ {name}")


@pytest.mark.parametrize(
    ("name", "answer", "words"), WRONG, ids=[f"{name}-{words}" for name, _, words in WRONG]
)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, words, capsys):
    sentence = said(capsys, name, answer)
    assert sentence.startswith(f"✗ {name}")
    assert words in sentence


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=IDS)
def test_an_empty_stub_is_not_an_error(name, answer, capsys):
    def stub(*arguments):
        raise NotImplementedError("your turn")

    unwritten = (stub, *answer[1:]) if isinstance(answer, tuple) else stub
    assert "nothing here yet" in said(capsys, name, unwritten)


def changed(answer, change):
    """An answer whose results are changed; so are those of a function that it returns."""
    if isinstance(answer, tuple):
        return (changed(answer[0], change), *answer[1:])

    def other(*given, **more):
        result = answer(*given, **more)
        return changed(result, change) if callable(result) else change(result)

    return other


def each(change):
    """A change of every part of a pair."""

    def both(result):
        if not isinstance(result, tuple):
            return change(result)
        parts = tuple(map(change, result))
        return result if all(map(operator.is_, parts, result)) else parts

    return both


def coarse(value):
    """float32, if it is of floats."""
    return value.float() if isinstance(value, Tensor) and value.dtype.is_floating_point else value


def array(value):
    """What NumPy would give."""
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)


def listed(value):
    """Numbers in lists."""
    return value.tolist() if isinstance(value, Tensor) else value


def small(value):
    """A tensor where a number is meant."""
    return torch.tensor(value) if isinstance(value, bool | int | float | list) else value


TURNS = {"07-turns", "08-row"}
"""Take whatever the learner is given, or a method, and no numbers."""
LIST = {"00-row-sums"}
"""Asks for a list of floats, with which the notebook goes on."""
GRADIENT = {"03-stick"}
"""Asks for a gradient, which only a tensor has."""


@pytest.mark.parametrize("change", [coarse, array, listed, small], ids=lambda change: change.__name__)
@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=IDS)
def test_a_right_answer_may_come_in_any_type(name, answer, change, capsys):
    sentence = said(capsys, name, changed(answer, each(change)))
    if name in TURNS or (name in LIST and change in (array, small)):
        assert name in TURNS or "`.tolist()` makes one" in sentence
    elif name in GRADIENT and change in (array, listed):
        assert "no gradient reaches θ" in sentence
    else:
        assert sentence.startswith("✓")


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=IDS)
def test_a_computation_in_float32_is_right_or_told_so(name, answer, capsys):
    def lower(*given, **more):
        result = answer(*map(coarse, given), **more)
        return changed(result, coarse) if callable(result) else result

    sentence = said(capsys, name, answer if isinstance(answer, tuple) else lower)
    assert sentence.startswith("✓") or "float64" in sentence


def of(kinds, change):
    """A change of results of some kinds; others stay as they are."""
    return lambda result: change(result) if isinstance(result, kinds) else result


NAN = float("nan")
KINDS = [
    ("None", lambda result: None, "return statement"),
    ("half None", each(lambda part: None), "return statement"),
    ("a word", lambda result: "a word", "not a str"),
    ("a dict", each(lambda part: {}), "not a dict"),
    ("ragged", each(lambda part: [1, [2, 3]]), "differ in shape|not a list"),
    ("NaN", each(of(float | Tensor, lambda part: part * NAN)), "NaN|not of numbers"),
    ("infinity", each(of(float | Tensor, lambda part: part + math.inf)), "infinity|not of numbers"),
    ("complex", each(of(Tensor, lambda part: part + 1j)), "complex|not of numbers"),
    ("one axis more", each(of(Tensor, lambda part: part[None, None] if part.ndim else part)), "shape"),
    (
        "the sum",
        each(of(Tensor, lambda part: part.sum() if part.ndim else part)),
        "is one number|not of numbers",
    ),
    ("not one number", each(of(int | float, lambda part: torch.ones(3, 2))), r"shape \(3, 2\)"),
]


@pytest.mark.parametrize(("change", "words"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=IDS)
def test_another_kind_of_answer_is_named(name, answer, change, words, capsys):
    """Whatever an exercise asks for: what came instead is in the message, and no traceback."""
    seen = []

    def noted(result):
        seen.append(change(result) is not result)
        return change(result)

    sentence = said(capsys, name, changed(answer, noted))
    assert "your code raised" not in sentence
    if name in TURNS | LIST:
        return
    assert re.search(words, sentence) if any(seen) else sentence.startswith("✓")


def test_a_result_instead_of_a_function_is_named(capsys):
    assert "hand in the function itself" in said(capsys, "00-count", 12)


def test_float32_beside_float64_is_explained(capsys):
    def mixed(shifts, radius):
        return shifts @ torch.eye(shifts.shape[1], dtype=torch.float32)

    assert "make your own tensors with dtype=torch.float64" in said(capsys, "06-ball", mixed)


def test_the_ball_is_that_of_the_package():
    shifts = noise(8) * torch.logspace(-2, 1, 8, dtype=F64)[:, None]
    ours = ball_projection(shifts, 0.5)
    theirs = RelaxedStarts(Pairs(shifts, shifts), 80.0, 0.5).project(shifts)
    assert torch.allclose(ours, theirs, rtol=1e-12)

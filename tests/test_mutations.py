"""Every check refuses every mutant of the stored solution: right answers with one small mistake."""

import contextlib
import io
import json
import math
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
import torch

import s4s_nb
from s4s_nb.course.checks import CHECKS, check
from s4s_nb.course.refresh import NOTEBOOKS
from tests.mutants import mutants


def distance(nfe: int) -> float:
    return 1 / nfe


GIVEN: dict[str, dict[str, Any]] = {"00-worth": {"ddim_distance": distance}}
"""Names that a solution takes from its notebook, beside the package and what NumPy and torch have."""
WITH: dict[str, Callable[[Any], Any]] = {"00-worth": lambda enough: (enough, distance, 0.13)}
"""What is handed to a check that takes more than the function."""

ROUNDING = "the exercise leaves the tolerance open: about 1e-9"
TIE = "differs where two rounded numbers are equal to the last bit, and there both readings are right"
CENTRED = "deviations from a mean sum to 0, so a constant added to the other factor, or its mean, drops out"
BRACKET = "any interval around 1 … 50 will do, and halving it once more or less changes the 15th digit"
ENDS_ONCE = "every path ends once at the last place: a price there is added to all of them alike"
UNREACHED = "the search ends before it"
TOGETHER = "what moves in one turn moves together, in whatever order it is named"
ROW = (
    "return s4s.Method(turns=(({}), ({})), optimiser='gauss-newton', pairs=80, rounds=2,"
    " student=partial(s4s.make_student, history='all'))"
)
SAME = {
    "00-worth": {
        "return next(nfe for nfe in range(4, 60) if ddim_distance(nfe) <= target)": "too few",
        "return next(nfe for nfe in range(5, 59) if ddim_distance(nfe) <= target)": UNREACHED,
        "return next(nfe for nfe in range(5, 61) if ddim_distance(nfe) <= target)": UNREACHED,
    },
    "00-count": {"return sum(min(i, order) for i in range(0, steps + 1))": "step 0 adds min(0, order) = 0"},
    "01-dataset": {
        "return torch.softmax(-squares / (2 * sigma ** 2), dim=1) @ data": "the last of two axes is axis 1",
    },
    "02-dpmpp-2m": {"h = sigmas.log().diff()": "only ratios of h count"},
    "02-consistency": {
        "return (along_d.abs() <= 1e-09) & (along_e.abs() < 1e-09)": ROUNDING,
        "return (along_d.abs() < 1e-09) & (along_e.abs() <= 1e-09)": ROUNDING,
        "return (along_d.abs() < 2e-09) & (along_e.abs() < 1e-09)": ROUNDING,
        "return (along_d.abs() < 5e-10) & (along_e.abs() < 1e-09)": ROUNDING,
        "return (along_d.abs() < 1e-09) & (along_e.abs() < 2e-09)": ROUNDING,
        "return (along_d.abs() < 1e-09) & (along_e.abs() < 5e-10)": ROUNDING,
    },
    "03-rho": {
        "low, high = (0.5, 50.0)": BRACKET,
        "low, high = (1.0, 100.0)": BRACKET,
        "for _ in range(61):": BRACKET,
        "for _ in range(59):": BRACKET,
        "if gaps[0] >= gaps[-1]:": TIE,
        "if gaps[0] > gaps[1]:": "gaps of σ^(1/ρ) rise or fall all along the grid, so any two of them tell",
    },
    "03-stick": {"left = theta.sigmoid().cumprod(-1)": "θ has one axis, the first and the last"},
    "03-path": {"V[-1] = 1": ENDS_ONCE, "V[-1] = -1": ENDS_ONCE},
    "04-infinity": {
        "u = 2 / torch.as_tensor(counts, dtype=torch.float64)": "the unit of 1/n moves the slope alone",
        "b = ((u + u.mean()) * (d - d.mean())).sum() / (u - u.mean()).square().sum()": CENTRED,
        "b = ((u - u.sum()) * (d - d.mean())).sum() / (u - u.mean()).square().sum()": CENTRED,
        "b = (u * (d - d.mean())).sum() / (u - u.mean()).square().sum()": CENTRED,
        "b = ((u - u.mean()) * (d + d.mean())).sum() / (u - u.mean()).square().sum()": CENTRED,
        "b = ((u - u.mean()) * (d - d.sum())).sum() / (u - u.mean()).square().sum()": CENTRED,
        "b = ((u - u.mean()) * d).sum() / (u - u.mean()).square().sum()": CENTRED,
    },
    "04-copies": {"return float((nearest <= threshold).double().mean())": TIE},
    "05-strong": {"if s4s.rmse(coarse, fine).mean() <= student_error / 10:": TIE},
    "08-span": {
        "weights = torch.linalg.lstsq(vectors.T, target[:, None]).solution[:, -1]": "there is one column",
    },
    "08-row": {
        ROW.format("'offsets', 'levels'", "'coefficients', 'history'"): TOGETHER,
        ROW.format("'levels', 'offsets'", "'history', 'coefficients'"): TOGETHER,
    },
}
"""Mutants that are right answers too: exercise → changed line → why."""


class Solution(NamedTuple):
    """A solution as it is stored in a notebook."""

    name: str
    function: str
    source: str
    double: bool
    """Whether its notebook makes new tensors float64."""

    def built(self, source: str) -> Any:
        """The answer that some source defines."""
        names = {"torch": torch, "np": np, "math": math, "json": json, "Path": Path, "s4s": s4s_nb}
        names |= {"partial": partial}
        names |= vars(s4s_nb)
        exec(compile(source, self.name, "exec"), names)
        names.update(GIVEN.get(self.name, {}))
        return WITH.get(self.name, lambda f: f)(names[self.function])

    @property
    def lines(self) -> tuple[int, int]:
        """Between which lines the solution stands."""
        numbered = list(enumerate(self.source.splitlines(), 1))
        first, last = (next(k for k, line in numbered if mark in line) for mark in ("# BEGIN", "# END"))
        return first, last


def solutions() -> Iterator[Solution]:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        double = any("set_default_dtype(torch.float64)" in source for source in cells)
        for number, source in enumerate(cells):
            if "# BEGIN SOLUTION" in source:
                after = "\n".join(cells[number:])
                found = re.search(r'nb\.check\(\s*"([^"]+)",\s*\(?\s*(\w+)', after)
                assert found, f"no check after a solution in {path.name}"
                yield Solution(found[1], found[2], source, double)


SOLUTIONS = list(solutions())


pytestmark = pytest.mark.filterwarnings("ignore")  # mutants do odd things


@pytest.fixture(autouse=True)
def quick():
    """One thread, for the tensors are tiny; and torch's default type back at the end."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


def too_long(*_) -> None:
    raise TimeoutError("this mutant runs for ever")


def passes(name: str, answer: Any) -> bool:
    """Whether a check accepts an answer; one that takes 10 s is refused."""
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            check(name, answer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert said.getvalue().startswith(("✓", "✗"))
    return said.getvalue().startswith("✓")


def bare(line: str) -> str:
    """A line without spaces and round brackets, of which each Python writes its own."""
    return re.sub(r"[\s()]", "", line)


def test_every_check_has_a_stored_solution():
    assert sorted(s.name for s in SOLUTIONS) == sorted(CHECKS)


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda s: s.name)
def test_only_mutants_that_are_right_too_pass(solution):
    torch.set_default_dtype(torch.float64 if solution.double else torch.float32)
    assert passes(solution.name, solution.built(solution.source)), "the stored solution itself"
    tried = list(mutants(solution.source, *solution.lines))
    passed = [bare(line) for line, source in tried if passes(solution.name, solution.built(source))]
    exempt = [bare(line) for line in SAME.get(solution.name, {})]
    assert len(tried) >= 4
    assert not set(passed) - set(exempt), "wrong answers that pass"
    assert sorted(exempt) == sorted(passed), "exempt, but refused, no longer there, or there twice"

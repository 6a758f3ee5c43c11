"""How pytest compares notebooks: a plugin on top of nbval (``-p s4s_nb.course.nbval_rules``).

nbval runs every cell and compares what it prints with what is stored, as strings. Here numbers are
compared as numbers: text around them and integers exactly, floats to a relative 1e-3, or to what a
tag such as ``tol-1e-1`` on the cell says. Pictures are compared by their number and their alt text.

With pytest-xdist (``pytest -n 2``) the cells of a notebook stay in one process, in order.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import pytest

from s4s_nb.errors import InputError

# A point that nothing follows ends a sentence ("5 steps of 7.") unless it stands as torch prints: [1., 2.]
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+\.\d+|\.\d+|\d+\.(?=[],eE])|\d+)(?:[eE][-+]?\d+)?")
TOLERANCE, SMALLEST = 1e-3, 1e-9


class Tolerant(str):
    """Text that equals other text if only its floats differ, and those by little."""

    tolerance = TOLERANCE

    def __eq__(self, other: object) -> bool:
        if NUMBER.sub("#", self) != NUMBER.sub("#", str(other)):
            return False
        pairs = zip(NUMBER.findall(self), NUMBER.findall(str(other)), strict=True)
        return all(self.close(a, b) for a, b in pairs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def close(self, a: str, b: str) -> bool:
        """Integers as they stand; floats within the tolerance."""
        if a.lstrip("+-−").isdigit() and b.lstrip("+-−").isdigit():
            return a == b
        x, y = (float(v.replace("−", "-")) for v in (a, b))
        return math.isclose(x, y, rel_tol=self.tolerance, abs_tol=SMALLEST)


def tolerant(tolerance: float):
    """A sanitiser for nbval: str → Tolerant with this tolerance."""
    kind = type("Tolerant", (Tolerant,), {"tolerance": tolerance})
    return lambda value: kind(value) if isinstance(value, str) else value


def is_cell(item: pytest.Item) -> bool:
    return type(item).__name__ == "IPyNbCell"


def picture_count(outputs: list) -> int:
    """How many outputs have a picture."""
    return sum("image/png" in output.get("data", {}) for output in outputs)


def compare_with_pictures(item: Any, compare: Callable[..., bool], test: list, ref: list, *rest) -> bool:
    """What nbval compares, which leaves pictures out, and whether there are as many of them."""
    if picture_count(test) == picture_count(ref):
        return compare(test, ref, *rest)
    item.comparison_traceback = [
        f"{picture_count(ref)} pictures are stored; the run had {picture_count(test)}"
    ]
    return False


def pytest_configure(config: pytest.Config) -> None:
    os.environ["S4S_NB_STATIC"] = "1"  # widgets draw once, at their starts


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``-n`` alone, which hands out tests one by one: a notebook as a whole. Only xdist asks for it."""
    if config.getoption("dist") != "load":
        return None
    scheduler = import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduler._split_scope = notebook_or_test
    return scheduler


def notebook_or_test(nodeid: str) -> str:
    """What one process takes: the notebook of a cell, or a single test."""
    path, _, _ = nodeid.partition("::")
    return path if path.endswith(".ipynb") else nodeid


def tolerance_of(tags: Sequence[str]) -> float:
    """The tolerance that a cell asks for by a tag, as tol-1e-2.

    Raises:
        InputError: the tag has no number.
    """
    for tag in tags:
        if tag.startswith("tol-"):
            try:
                return float(tag.removeprefix("tol-"))
            except ValueError:
                raise InputError(
                    f"The tag {tag!r} of a cell has no number; write it as tol-1e-2."
                ) from None
    return TOLERANCE


def pytest_itemcollected(item: Any) -> None:
    if not is_cell(item):
        return
    notebook: Any = item.parent
    notebook.skip_compare = {*notebook.skip_compare, "stderr", "text/html"}
    item.compare_outputs = partial(compare_with_pictures, item, item.compare_outputs)
    item.output_timeout = 60  # nbval's own 5 s are too few for a busy machine
    item.sanitize = tolerant(tolerance_of(item.cell.metadata.get("tags", [])))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if is_cell(item) and getattr(item.parent, "has_failed", False):
        pytest.skip("an earlier cell of this notebook failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if is_cell(item) and report.failed:
        notebook: Any = item.parent
        notebook.has_failed = True
    return report

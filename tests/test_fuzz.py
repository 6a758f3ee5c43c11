"""Mutated files are refused in a sentence, or read as they were; of more: python -m tests.fuzzing."""

import pytest

from s4s_nb.runtime import on_threads
from tests.fuzzed_files import TARGETS
from tests.fuzzing import BAD, fuzz

FILES = 10
"""For each share of a target, of another seed than those tried by hand."""


@pytest.fixture
def one_thread():
    """Tiny problems lose time by threads."""
    with on_threads(1):
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_no_mutated_file_is_a_traceback_or_read_as_something_else(name, tmp_path, one_thread, unchecked):
    share, _ = TARGETS[name]
    found = list(fuzz(name, range(FILES * share), seed=1, folder=tmp_path))
    assert {what for _, what, _, _ in found} >= {"refused"} or name == "notebook"
    bad = [f"{name}:{k} {what} {where}, {told}" for k, what, where, told in found if what in BAD]
    assert not bad, "\n".join(bad)

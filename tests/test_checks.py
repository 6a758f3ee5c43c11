"""The checks of the exercises accept right answers and name the mistake in wrong ones."""

from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch

from s4s_nb.checks import CHECKS, check
from s4s_nb.checks.notebook_06 import ball_projection
from s4s_nb.relaxed import RelaxedStarts
from s4s_nb.teachers import Pairs
from tests import answers
from tests.answers.notebook_03 import cheapest
from tests.answers.notebook_05 import nodes
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


def test_a_path_may_come_as_a_tensor(capsys):
    assert "✓" in said(capsys, "03-path", lambda *given: torch.tensor(cheapest(*given)))


def test_a_list_is_an_answer_too(capsys):
    def listed(sigmas, levels):
        return nodes()(sigmas, levels).tolist()

    assert said(capsys, "05-nodes", listed).startswith("✓")


def test_the_ball_is_that_of_the_package():
    shifts = noise(8) * torch.logspace(-2, 1, 8, dtype=F64)[:, None]
    ours = ball_projection(shifts, 0.5)
    theirs = RelaxedStarts(Pairs(shifts, shifts), 80.0, 0.5).project(shifts)
    assert torch.allclose(ours, theirs, rtol=1e-12)

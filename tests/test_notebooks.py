"""Hygiene: without it the comparison of stored outputs would go hollow in silence."""

import re
from pathlib import Path

import nbformat
import pytest

from s4s_nb import notebook as nb
from s4s_nb.errors import InputError
from s4s_nb.nbval_rules import tolerant
from s4s_nb.refresh import NOTEBOOKS, student_edition

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_the_first_three_notebooks_are_there():
    assert [path.name[:2] for path in PATHS][:3] == ["00", "01", "02"]


def test_executed_top_to_bottom_without_errors(notebook):
    """nbval never compares a cell without an execution count."""
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
    assert not any(o.get("name") == "stderr" for cell in cells for o in cell.outputs)
    assert "widgets" not in notebook.metadata


def test_outputs_are_compared(notebook):
    with_output = [cell for cell in code(notebook) if cell.outputs]
    exempt = [cell for cell in with_output if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(with_output) >= 5
    assert len(exempt) <= 0.1 * len(with_output) + 1
    assert all(cell.metadata.get("reason") for cell in exempt), "an exemption needs a reason"
    assert "nbval-skip" not in str([cell.metadata for cell in notebook.cells])


def test_no_trace_of_the_machine(path, notebook):
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|Users|work|usr)/\w", source)
    assert path.stat().st_size < 2.5e6


def test_every_figure_has_an_alt_text_with_numbers(notebook):
    figures = [o for cell in code(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert figures
    for figure in figures:
        alt = figure.metadata["image/png"]["alt"]
        assert len(alt) >= 40 and any(c.isdigit() for c in alt)
        assert figure.data["text/plain"] == alt, "the alt text is what nbval compares"


def test_form(notebook):
    """Title, objectives ("you can"), needs, time; then exercises with checks and hints, mistakes, reading."""
    prose = text(notebook)
    assert notebook.cells[0].source.startswith("# ")
    for part in (
        "after this notebook you can",
        "you need",
        "minute",
        "common mistakes",
        "exercises",
        "further reading",
    ):
        assert part in prose.lower(), part
    checks = sum(cell.source.count("nb.check(") for cell in code(notebook))
    assert checks >= 3
    assert prose.count("<details>") >= 2 * checks, "two levels of hint an exercise"
    assert prose.count("<details>") == prose.count("</details>")
    assert "nb.explore(" in "\n".join(cell.source for cell in code(notebook))
    levels = [len(m) for m in re.findall(r"^(#+) ", prose, re.MULTILINE)]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), "a heading level is skipped"


def test_equations_survive_every_viewer(notebook):
    prose = text(notebook)
    assert prose.count("$$") % 2 == 0
    assert not re.search(r"\\begin\{(equation|align)\*?\}", prose)


def test_cells_do_not_end_in_a_semicolon(notebook):
    """It does not silence a cell under nbval."""
    assert not any(cell.source.rstrip().endswith(";") for cell in code(notebook))


def test_solutions_pass_their_checks(notebook):
    printed = "\n".join(o.get("text", "") for cell in code(notebook) for o in cell.outputs)
    assert printed.count("✓ ") >= 3
    assert "✗ " not in printed


def test_student_edition_is_up_to_date_and_holds_no_solution(path, notebook):
    student = nbformat.read(NOTEBOOKS / "student" / path.name, as_version=4)
    assert student == student_edition(notebook)
    source = "\n".join(cell.source for cell in student.cells)
    assert "SOLUTION" not in source
    assert source.count("NotImplementedError") >= 3


@pytest.mark.parametrize(
    "stored, fresh, equal",
    [
        ("error 0.12345", "error 0.12346", True),
        ("error 0.12345", "error 0.12445", False),
        ("5 NFE", "6 NFE", False),
        ("best: iPNDM", "best: DEIS", False),
        ("1.0e-05 and 2", "1.0004e-05 and 2", True),
        ("a 0.5", "a 0.5 b", False),
    ],
)
def test_the_comparer(stored, fresh, equal):
    kind = tolerant(1e-3)
    assert (kind(stored) == kind(fresh)) is equal
    assert (kind(stored) != kind(fresh)) is not equal


def test_a_looser_tolerance_of_a_cell():
    assert tolerant(1e-1)("loss 1.05") == "loss 1.00"


def test_show_refuses_an_empty_alt_text():
    import matplotlib.pyplot as plt

    with pytest.raises(InputError, match="alt text"):
        nb.show(plt.figure(), "a figure")


def test_explore_calls_once_at_the_starts(monkeypatch):
    monkeypatch.setenv("S4S_NB_STATIC", "1")
    calls = []
    nb.explore(lambda **arguments: calls.append(arguments), name=["a", "b"], nfe=(3, 10, 1, 5))
    assert calls == [{"name": "a", "nfe": 5}]


def test_an_unknown_check_lists_the_known_ones():
    with pytest.raises(InputError, match="01-gaussian"):
        nb.check("nonsense", None)


def test_an_unfinished_or_broken_answer_is_a_sentence(capsys):
    def unfinished(*_):
        raise NotImplementedError("your turn")

    nb.check("01-gaussian", unfinished)
    assert "nothing here yet" in capsys.readouterr().out
    nb.check("01-gaussian", lambda *_: 1 / 0)
    assert capsys.readouterr().out.startswith("✗")

"""Hygiene: without it the comparison of stored outputs would go hollow in silence."""

import ast
import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from s4s_nb.classic import make_solver
from s4s_nb.course import nbval_rules, plots, refresh
from s4s_nb.course import notebook as nb
from s4s_nb.course.nbval_rules import tolerant
from s4s_nb.course.refresh import NOTEBOOKS, student_edition
from s4s_nb.errors import InputError
from s4s_nb.grids import log_snr

pytest_plugins = "pytester"

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook) -> str:
    return "\n".join(o.get("text", "") for cell in code(notebook) for o in cell.outputs)


def text(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_no_notebook_is_missing_from_the_walk():
    assert [path.name[:2] for path in PATHS] == [f"{number:02d}" for number in range(len(PATHS))]


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
    marks = [cell.source + str(cell.metadata) for cell in code(notebook)]
    assert not any(re.search(r"nbval-skip|raises-exception|# *(NBVAL|PYTEST)_", mark) for mark in marks)


def test_no_trace_of_the_machine(path, notebook):
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|Users|work|usr)/\w", source)
    assert path.stat().st_size < 1.5e6


MINUTES = {"half a": 0.5, "a": 1, "one": 1, "two": 2, "three": 3}


def test_the_promised_time_is_kept(notebook):
    """A promised minute was at most 90 s when measured, and no notebook takes over three."""
    seconds = notebook.metadata["s4s_nb"]["seconds"]
    promise = re.search(
        r"cells run (?:in|for) (?:about |less than )?(half a|a|one|two|three|\d+) minutes?", text(notebook)
    )
    assert promise, 'say near the start that "the cells run in about … minutes"'
    assert seconds <= min(90 * float(MINUTES.get(promise[1], promise[1])), 180)


def test_every_figure_has_an_alt_text_with_numbers(notebook):
    figures = [o for cell in code(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert figures
    for figure in figures:
        alt = figure.metadata["image/png"]["alt"]
        assert len(alt) >= 40 and any(c.isdigit() for c in alt)
        assert figure.data["text/plain"] == alt, "the alt text is what nbval compares"


def test_form(notebook):
    """Title, objectives, needs, time; then exercises with checks and hints, mistakes, reading."""
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
    assert all(line.strip(" >") == "$$" for line in prose.splitlines() if "$$" in line), "$$ stands alone"
    assert not re.search(r"\\begin\{(equation|align)\*?\}", prose)


def test_cells_do_not_end_in_a_semicolon(notebook):
    """It does not silence a cell under nbval."""
    assert not any(cell.source.rstrip().endswith(";") for cell in code(notebook))


def test_solutions_pass_their_checks(notebook):
    checks = re.findall(r"nb\.check\(\"([\w-]+)\"", "\n".join(cell.source for cell in code(notebook)))
    assert len(set(checks)) == len(checks) >= 3
    assert re.findall(r"^✓ ([\w-]+)", printed(notebook), re.MULTILINE) == checks
    assert "✗ " not in printed(notebook)


def test_what_the_notebook_defines_is_shown_to_be_what_the_package_does(notebook):
    """Each cell tagged ``export`` is followed by a compared "… the package…: True"."""
    exports = [cell for cell in code(notebook) if "export" in cell.metadata.get("tags", [])]
    assert all("def " in cell.source for cell in exports)
    proofs = re.findall(r"^.*\bpackage\b.*: +(True|False)$", printed(notebook), re.MULTILINE)
    assert len(proofs) >= len(exports)
    assert "False" not in proofs


def test_student_edition_is_up_to_date_and_holds_no_solution(path, notebook):
    student = nbformat.read(NOTEBOOKS / "student" / path.name, as_version=4)
    assert student == student_edition(notebook)
    source = "\n".join(cell.source for cell in student.cells)
    assert "SOLUTION" not in source
    assert source.count("NotImplementedError") >= 3


def test_stubs_fail_their_checks_with_a_sentence(notebook, capsys):
    """The functions of the student edition, each given to the check of its exercise."""
    student, names = student_edition(notebook), {}
    trees = [ast.parse(cell.source) for cell in code(student)]
    stubs = [tree for tree, cell in zip(trees, code(student), strict=True) if "your turn" in cell.source]
    for tree in stubs:
        assert all(isinstance(node, ast.FunctionDef) for node in tree.body), "a stub raises only if called"
        exec(compile(tree, "student", "exec"), names)
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    checks = [call for call in calls if ast.unparse(call.func) == "nb.check"]
    assert len(checks) == len(stubs)
    for call in checks:
        name, answer = call.args
        parts = answer.elts if isinstance(answer, ast.Tuple) else [answer]
        given = [names.get(ast.unparse(part), 0.0) for part in parts]  # 0.0 is some number
        assert any(given), "the check gets the stub, by name"
        nb.check(ast.literal_eval(name), tuple(given) if len(given) > 1 else given[0])
        assert "nothing here yet" in capsys.readouterr().out


# ---------------------------------------------------------------- the comparison


@pytest.mark.parametrize(
    "stored, fresh, equal",
    [
        ("error 0.12345", "error 0.12346", True),
        ("error 0.12345", "error 0.12445", False),
        ("5 NFE", "6 NFE", False),
        ("best: iPNDM", "best: DEIS", False),
        ("1.0e-05 and 2", "1.0004e-05 and 2", True),
        ("a 0.5", "a 0.5 b", False),
        ("after 10000.", "after 10001.", False),
        ("[1., 0.3333]", "[1., 0.33331]", True),
        ("1.5301x faster", "1.5300x faster", True),
        ("gap 2e-16", "gap 0", True),
        ("-0.5", "0.5", False),
        ("seed 3, 0.5", "seed 3, 0.5, 0.5", False),
    ],
)
def test_the_comparer(stored, fresh, equal):
    kind = tolerant(1e-3)
    assert (kind(stored) == kind(fresh)) is equal
    assert (kind(stored) != kind(fresh)) is not equal


def test_a_looser_tolerance_of_a_cell():
    assert tolerant(1e-1)("loss 1.05") == "loss 1.00"


ALT = "One line that rises from zero to the value 0.5, drawn for a test"
DRAW = 'from IPython.display import display\ndisplay({{"image/png": "", "text/plain": {!r}}}, raw=True)'

SAY = 'from IPython.display import display\ndisplay({{"text/plain": {!r}}}, raw=True)'


def stream(words: str) -> nbformat.NotebookNode:
    return new_output("stream", name="stdout", text=words)


@pytest.mark.parametrize(
    "source, output, passes",
    [
        ("print('error 0.123457')", stream("error 0.123456\n"), True),
        ("print('error 0.124')", stream("error 0.123\n"), False),
        (DRAW.format(ALT), new_output("display_data", {"image/png": "x", "text/plain": ALT}), True),
        (
            DRAW.format(ALT),
            new_output("display_data", {"text/plain": ALT.replace("0.5", "0.6")}),
            False,
        ),
        (SAY.format(ALT), new_output("display_data", {"image/png": "x", "text/plain": ALT}), False),
        (DRAW.format(ALT), new_output("display_data", {"text/plain": ALT}), False),
        ("raise ValueError", None, False),
        ("print('unforeseen')", None, False),
        ("import sys; print('a warning', file=sys.stderr)", None, True),
    ],
)
def test_a_changed_output_fails_and_the_rest_of_the_notebook_is_skipped(pytester, source, output, passes):
    first = new_code_cell(source, execution_count=1, outputs=[output] if output else [])
    last = new_code_cell("print(1)", execution_count=2, outputs=[stream("1\n")])
    nbformat.write(new_notebook(cells=[first, last]), pytester.path / "small.ipynb")
    rules = ["-p", "s4s_nb.course.nbval_rules", "--nbval", "--nbval-current-env"]
    outcome = {"passed": 2} if passes else {"failed": 1, "skipped": 1}
    pytester.runpytest_inprocess(*rules).assert_outcomes(**outcome)


def test_the_cells_of_a_notebook_stay_in_one_process(pytester):
    """Of pytest-xdist, with ``-n 2`` alone: each cell needs the one before."""
    pytest.importorskip("xdist")
    for name in "abc":
        cells = [new_code_cell("k = 0", execution_count=1)]
        for k in range(1, 6):
            output = [stream(f"{k}\n")]
            cells.append(new_code_cell("k += 1; print(k)", execution_count=k + 1, outputs=output))
        nbformat.write(new_notebook(cells=cells), pytester.path / f"{name}.ipynb")
    rules = ["-p", "s4s_nb.course.nbval_rules", "--nbval", "--nbval-current-env", "-n", "2"]
    pytester.runpytest_subprocess(*rules).assert_outcomes(passed=18)


def test_a_notebook_is_handed_out_as_a_whole_and_other_tests_one_by_one():
    cells = [f"notebooks/01_a.ipynb::Cell {k}" for k in range(3)]
    assert {nbval_rules.notebook_or_test(cell) for cell in cells} == {"notebooks/01_a.ipynb"}
    tests = [f"tests/test_a.py::test_a[{k}.ipynb::x]" for k in range(3)]
    assert [nbval_rules.notebook_or_test(test) for test in tests] == tests


# ---------------------------------------------------------------- the helpers


def test_show_displays_the_alt_text_with_the_picture(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, **rest: shown.append((data, rest["metadata"])))
    figure, axis = plt.subplots()
    axis.plot([0, 0.5])
    nb.show(figure, ALT)
    ((data, metadata),) = shown
    assert data["text/plain"] == metadata["image/png"]["alt"] == ALT
    corner = Image.open(io.BytesIO(data["image/png"])).convert("RGBA").getpixel((0, 0))
    assert corner == (255, 255, 255, 255), "opaque white, also in dark mode"
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("alt", ["a figure of 5", "a long sentence that names no number, though it should"])
def test_show_refuses_an_empty_alt_text(alt):
    with pytest.raises(InputError, match="alt text"):
        nb.show(plt.figure(), alt)


def numbers(axis) -> list[str]:
    """What stands in the cells of a heat map, row by row; those of zeros are empty."""
    return [text.get_text() for text in axis.texts if text.get_text()]


def test_a_table_picture_shows_every_number_and_level():
    solver = make_solver("ipndm-2", 3, lambda steps: log_snr(steps, 8.0, 1.0))
    top, bottom = nb.table_picture(solver).axes
    for axis, matrix in [(top, solver.A), (bottom, solver.B)]:
        assert numbers(axis) == [f"{v:.2f}" for v in matrix[matrix != 0].tolist()]
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["8", "4", "2"]


def test_numbers_of_a_heat_map_keep_to_their_cells():
    axis = plt.figure().subplots()
    nb.heat_map(axis, np.array([[0.123, 9.0, 9.0], [-1.5, 0.004, 9.0], [0.0, -16.6, 123.4]]))
    assert numbers(axis) == ["0.12", "-1.50", "-16.6", "123"]


@pytest.mark.parametrize("nfe", [3, 5, 8])
def test_the_numbers_of_a_table_picture_are_drawn_within_their_cells(nfe):
    figure = nb.table_picture(make_solver("dpmpp-3m", nfe, lambda steps: log_snr(steps, 80.0, 0.002)))
    figure.canvas.draw()
    for axis in figure.axes:
        cell = axis.get_window_extent().width / nfe
        widths = [text.get_window_extent().width for text in axis.texts if text.get_text()]
        assert len(widths) >= nfe and max(widths) < cell


def test_an_image_grid_keeps_rows_in_order_and_labels_inside():
    rows = {"a teacher with a long name": -torch.ones(3, 1, 4, 4), "student": torch.ones(3, 3, 4, 4)}
    figure = nb.image_grid(rows)
    figure.canvas.draw()
    assert [np.asarray(axis.images[0].get_array()).mean() for axis in figure.axes] == [0, 0, 0, 1, 1, 1]
    box = figure.get_tightbbox()
    for axis, label in zip(figure.axes[::3], rows, strict=True):
        assert axis.texts[0].get_text() == label
        assert axis.texts[0].get_window_extent().x0 / figure.dpi >= box.x0 - 1e-6


def test_explore_calls_once_at_the_starts(monkeypatch):
    monkeypatch.setenv("S4S_NB_STATIC", "1")
    calls = []
    nb.explore(lambda **arguments: calls.append(arguments), name=["a", "b"], nfe=(3, 10, 1, 5))
    assert calls == [{"name": "a", "nfe": 5}]


@pytest.mark.parametrize("control", [5, (1, 9), []])
def test_explore_refuses_a_control_that_is_none(control):
    with pytest.raises(InputError, match="Give nfe as"):
        nb.explore(print, nfe=control)


def test_explore_makes_sliders_and_menus_in_a_live_notebook(monkeypatch):
    made = {}
    monkeypatch.delenv("S4S_NB_STATIC", raising=False)
    monkeypatch.setattr("ipywidgets.interact", lambda function, **widgets: made.update(widgets))
    nb.explore(print, solver=["euler", "heun"], nfe=(3, 10, 1, 5), log_sigma=(-1.0, 1.0, 0.1, 0.0))
    assert [type(w).__name__ for w in made.values()] == ["Dropdown", "IntSlider", "FloatSlider"]
    assert [w.value for w in made.values()] == ["euler", 5, 0.0]


def test_refresh_stores_outputs_and_writes_the_student_edition_beside(tmp_path, monkeypatch):
    source = "def answer():\n    # BEGIN SOLUTION\n    return 42\n    # END SOLUTION\n\nprint(answer())"
    path = tmp_path / "small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    monkeypatch.setattr(sys, "argv", ["refresh", str(path)])
    refresh.refresh()
    (cell,) = nbformat.read(path, as_version=4).cells
    assert (cell.execution_count, cell.outputs) == (1, [stream("42\n")])
    (stub,) = nbformat.read(tmp_path / "student" / "small.ipynb", as_version=4).cells
    assert stub.source == 'def answer():\n    raise NotImplementedError("your turn")\n\nprint(answer())'
    assert (stub.execution_count, stub.outputs) == (None, [])


@pytest.mark.parametrize("source, sentence", [("1 / 0", "ZeroDivisionError"), (None, "no notebook")])
def test_refresh_fails_with_a_sentence_and_leaves_the_file(tmp_path, monkeypatch, source, sentence):
    path = tmp_path / "small.ipynb"
    if source:
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    before = path.read_bytes() if source else None
    monkeypatch.setattr(sys, "argv", ["refresh", str(path)])
    with pytest.raises(SystemExit, match=sentence):
        refresh.refresh()
    assert (path.read_bytes() if path.exists() else None) == before


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

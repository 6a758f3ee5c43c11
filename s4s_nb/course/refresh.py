"""Run notebooks top to bottom, store their outputs in a stable form, derive the student edition.

python -m s4s_nb.course.refresh [notebooks/01_….ipynb …]        all of notebooks/ without arguments
"""

import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from s4s_nb.errors import InputError
from s4s_nb.files import replace_file

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SOLUTION = re.compile(r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION$", re.DOTALL | re.MULTILINE)
STUB = r'\1raise NotImplementedError("your turn")'


def read_notebook(path: Path) -> NotebookNode:
    """A notebook of format 4, whole.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise InputError(f"There is no notebook {path}; check the name.")
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
        nbformat.writes(notebook).encode()  # JSON may spell what is no text
    except (Exception, RecursionError) as error:  # nbformat and jsonschema raise some ten kinds
        raise InputError(f"{path} is damaged or no notebook ({type(error).__name__}).") from None
    return notebook


def execute(path: Path) -> None:
    """Run a notebook in a fresh kernel beside its file and store it, normalised.

    Raises:
        InputError: no such file, or it is damaged; or a cell raised or took over 180 s, then the file stays
            as it was.
    """
    os.environ["S4S_NB_STATIC"] = "1"
    notebook = read_notebook(path)
    started = time.perf_counter()
    resources = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(notebook, timeout=180, kernel_name="python3", resources=resources).execute()
    except CellExecutionError as error:
        reason = f"a cell raised {error.ename}: {error.evalue}\n\n{error}"
        raise InputError(f"{path.name} was left as it was, because {reason}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise InputError(f"{path.name} was left as it was: {error}") from None
    seconds = round(time.perf_counter() - started)
    write(path, normalise(notebook, seconds))
    print(f"{path.name}: {seconds} s")


def normalise(notebook: NotebookNode, seconds: int) -> NotebookNode:
    """Drop what changes from run to run: timestamps, widget state, stderr, random cell ids."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        s4s_nb={"seconds": seconds},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            for output in cell.outputs:  # of a progress bar its text stays
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            cell.outputs = joined([o for o in cell.outputs if o.get("name") != "stderr"])
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of printed text as one: where they were cut depends on timing."""
    result: list[NotebookNode] = []
    for output in outputs:
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def student_edition(notebook: NotebookNode) -> NotebookNode:
    """The same notebook with stubs in place of solutions, and no outputs."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata.pop("s4s_nb", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(STUB, cell.source)
            cell.outputs, cell.execution_count = [], None
    return notebook


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook in one move."""
    path.parent.mkdir(exist_ok=True)
    replace_file(path, lambda p: p.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8"))


def refresh() -> None:
    """Refresh the notebooks named on the command line, or all; student/ stands beside each."""
    paths = [Path(p).resolve() for p in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        try:
            execute(path)
        except InputError as error:
            sys.exit(str(error))
        student = student_edition(read_notebook(path))
        write(path.parent / "student" / path.name, student)


if __name__ == "__main__":
    refresh()

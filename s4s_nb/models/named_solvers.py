"""Solvers by name: of a file, bundled with a model, or classic."""

from pathlib import Path

from s4s_nb.classic import NAMES, make_solver
from s4s_nb.errors import InputError, choose
from s4s_nb.files import data_file, manifest
from s4s_nb.learn.designer import load_solver
from s4s_nb.models import Model
from s4s_nb.solvers import Solver


def learned_solvers(name: str) -> dict[tuple[str, int], str]:
    """The learned solvers in ``data/`` for a setting: (method, NFE) → file."""
    parts = {file: file.removesuffix(".safetensors").split("_") for file in manifest()}
    return {(p[1], int(p[2])): file for file, p in parts.items() if p[0] == f"solvers/{name}"}


def find_solver(
    model: Model,
    name: str,
    nfe: int,
    grid: str,
    lower_final: bool = False,
    end: float | None = None,
    free_first: bool = False,
) -> Solver:
    """A solver by name: "teacher", a file (.safetensors), a bundled learned one, or a classic one on a grid
    with its last level.

    With ``free_first`` a classic one has a step more (:meth:`s4s_nb.models.Model.first_answer`).

    Raises:
        InputError: an unknown name, a bad file, an NFE for which none is bundled, or ``free_first`` for
            another than a classic one.
    """
    if free_first and name not in NAMES:
        raise InputError(f"{name} is as it was made; a free first answer is given to classic solvers here.")
    if name == "teacher":
        return model.teacher()
    if name.endswith(".safetensors"):
        return load_solver(Path(name), model)
    learned = learned_solvers(model.name)
    if (name, nfe) in learned:
        return Solver.load(data_file(learned[name, nfe]))
    nfes = sorted(n for method, n in learned if method == name)
    if nfes:
        raise InputError(
            f"{name} is bundled for {model.name} at NFE {nfes}, not at {nfe}; see s4s-nb learn."
        )
    choose(dict.fromkeys(["teacher", *(method for method, _ in learned), *NAMES]), name, "solver")
    steps = nfe + free_first
    solver = make_solver(name, steps, model.grid(grid, end), lower_final, model.schedule)
    return solver.with_first(model.first_answer()) if free_first else solver

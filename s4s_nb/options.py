"""What the commands of :mod:`s4s_nb.cli` share: choices, options, and what is done with them."""

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from s4s_nb.atomic import check_ordinary
from s4s_nb.errors import InputError
from s4s_nb.files import write_json
from s4s_nb.grids import GridName
from s4s_nb.learn.embeddings import EmbeddingName
from s4s_nb.learn.methods import MethodName
from s4s_nb.learn.objectives import ObjectiveName
from s4s_nb.models import Model
from s4s_nb.models.bundled import load
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.pairs import PER_SEED
from s4s_nb.runtime import own_device
from s4s_nb.solvers import Solver

StudyName = Literal[
    "uniform",
    "alt",
    "seeds",
    "transfer",
    "optimisers",
    "ablations",
    "paper",
    "spaces",
    "methods",
    "choices",
]
SettingName = Literal[
    "fashion", "fashion-guided", "faces", "faces-latent", "faces-latent-guided", "faces-flow"
]
"""The keys of :data:`s4s_nb.models.bundled.SETTINGS`, as the command line knows them."""
MOST_NFE = 1000
"""A table has the square of it in numbers."""

Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda or cuda:1; under torchrun every process has its own; cpu, or your model's."
    ),
]
Seed = Annotated[int, typer.Option(help="Which noises: seed s begins at number 10,000 s.", min=0, max=99)]
ModelName = Annotated[
    str, typer.Option("--model", help="A bundled model, or module:function of one that returns yours.")
]
SolverName = Annotated[
    str,
    typer.Option("--solver", help="Classic or bundled (s4s, s4s-alt …), 'teacher', or a file."),
]
MethodOption = Annotated[
    MethodName,
    typer.Option(
        help="s4s: coefficients; ld3: levels; joint: both at once; s4s-alt: both in turns; whole: joint,"
        " then every number of the table; dss, dlms: along the teacher's way; bns, gs, dyweight: their"
        " papers'; s4s-paper, s4s-alt-paper: S4S's own recipes."
    ),
]
ObjectiveOption = Annotated[
    ObjectiveName | None,
    typer.Option("--objective", help="What is compared, end points or the way; the method's if left out."),
]
EmbedOption = Annotated[
    EmbeddingName | None,
    typer.Option("--embed", help="In which space end points are compared; the method's if left out."),
]
SetWeight = Annotated[
    float, typer.Option(help="Of a term that compares a batch's moments with the teacher's.", min=0)
]
Side = Annotated[
    int | None,
    typer.Option(
        help="Pixels to which smaller images are enlarged in the LPIPS to learn by; 128, or your model's.",
        min=64,
        max=1024,
    ),
]
Nfe = Annotated[
    int,
    typer.Option(help="Evaluations of the denoiser, for classic or bundled solvers.", min=1, max=MOST_NFE),
]
NfeOfOne = Annotated[
    int | None,
    typer.Option(
        "--nfe", help="Evaluations of a classic or a bundled solver, 5 if left out.", min=1, max=MOST_NFE
    ),
]
GridOption = Annotated[GridName, typer.Option("--grid", help="Where a classic solver steps.")]
End = Annotated[
    float | None, typer.Option(help="Last level of a classic solver's grid; the model's if left out.")
]
LowerFinal = Annotated[
    bool, typer.Option(help="Lower a classic solver's order at the end, as the tour does.")
]
Free = Annotated[
    bool,
    typer.Option("--free-first", help="One step more, its answer at the first level a stored mean: 5 + 1."),
]
Samples = Annotated[int, typer.Option(help="How many test noises.")]
Transfer = Annotated[
    bool, typer.Option("--transfer", help="Take a solver that was learned for another model.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]


# ---------------------------------------------------------------- models


def find_model(name: str, device: str | None = None, side: int | None = None) -> Model:
    """A bundled model by name, or anybody's: ``module:function`` of a function that returns one.

    The module is looked for in the working directory too. An own model keeps its device and side where none
    is given.

    Raises:
        InputError: an unknown name, a module or function that is not there, that raises, or that returns
            something else; its own traceback comes as a note.
    """
    if ":" not in name:
        return load(name, check_device(device), side=side or 128)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        model = own_function(name)()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise fault_of(name, error) from None
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not isinstance(model, Model):
        raise InputError(f"{name} must return a s4s_nb.Model; it returned {type(model).__name__}.")
    return replace(model, device=check_device(device or model.device), side=side or model.side)


def own_function(name: str) -> Callable[[], Any]:
    """What stands at ``module:function``."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(import_module(module), attribute)
        if not callable(function):
            raise AttributeError(f"{attribute} is no function")
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two of an odd name
        if own_frames(error):
            raise
        raise InputError(f"There is no model at {name} ({error}); give module:function.") from None
    return function


def own_frames(error: BaseException) -> traceback.StackSummary:
    """The part of a traceback that is neither of this package's nor of Python's import."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = (__file__, "<frozen", import_module("importlib").__file__)
    return traceback.StackSummary.from_list(
        [frame for frame in frames if not frame.filename.startswith(ours)]
    )


def fault_of(name: str, error: BaseException) -> InputError:
    """The sentence that somebody's own function raised, with the traceback of their code as a note."""
    said = InputError(f"{name} raised {type(error).__name__} ({error}); mend it there.")
    shown = ["Traceback (most recent call last):\n", *own_frames(error).format()]
    said.add_note("".join([*shown, *traceback.format_exception_only(error)]).rstrip())
    return said


def check_device(device: str | None) -> str:
    """``device``, the CPU if left out, if torch can use it here; under torchrun the process's own GPU."""
    import torch

    device = device or "cpu"
    try:
        device = own_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {device!r} cannot be used here ({reason}); try --device cpu.") from None
    return device


# ---------------------------------------------------------------- solvers, noises, results


def one_solver(
    model: Model,
    name: str,
    nfe: int | None,
    grid: str,
    lower_final: bool,
    end: float | None,
    free_first: bool,
) -> Solver:
    """A solver by name; :class:`InputError` where a file or a teacher has another NFE than asked for."""
    solver = find_solver(model, name, nfe or 5, grid, lower_final, end, free_first)
    if nfe not in (None, solver.nfe):
        raise InputError(f"{name} has {solver.nfe} evaluations, not {nfe}; leave --nfe out.")
    return solver


def check_noises(count: int, seed: int) -> None:
    """:class:`InputError` where the noises of a seed would run beyond a split."""
    if seed * PER_SEED + count > 1_000_000:
        raise InputError(
            f"A split holds a million noises and seed {seed} begins at {seed * PER_SEED:,}; asked for"
            f" {count:,}."
        )


def picture_file(out: Path) -> Path:
    """Where a picture is written; :class:`InputError` for a folder, or for another ending than .png."""
    check_ordinary(out)
    file = out if out.suffix else out.with_name(f"{out.name}.png")
    if file.suffix.lower() != ".png":
        raise InputError(f"A picture is written as .png; {out} has another ending.")
    return file


def tell(text: str, json: Path | None = None, result: Any = None) -> None:
    """Print a result, then write it where it was asked for: neither is lost if the other fails."""
    try:
        typer.echo(text)
        if sys.stdout is not None:
            sys.stdout.flush()
    finally:
        if json is not None:
            write_json(json, result)

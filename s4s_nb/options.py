"""What the commands of :mod:`s4s_nb.cli` share: choices, options, and what is done with them."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from s4s_nb.errors import InputError
from s4s_nb.files import write_json
from s4s_nb.grids import GridName
from s4s_nb.learn.methods import MethodName
from s4s_nb.models import Model
from s4s_nb.models.bundled import load
from s4s_nb.runtime import own_device

StudyName = Literal["uniform", "alt", "seeds", "transfer", "optimisers", "ablations"]

Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1; under torchrun every process has its own.")]
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
    typer.Option(help="s4s: coefficients; ld3: levels; joint: both at once; s4s-alt: both in turns."),
]
Side = Annotated[
    int,
    typer.Option(help="Pixels to which smaller images are enlarged in the LPIPS to learn by.", min=64),
]
Nfe = Annotated[int, typer.Option(help="Evaluations of the denoiser, for a classic or a bundled solver.")]
GridOption = Annotated[GridName, typer.Option("--grid", help="Where a classic solver steps.")]
End = Annotated[
    float | None, typer.Option(help="Last level of a classic solver's grid; the model's if left out.")
]
LowerFinal = Annotated[
    bool, typer.Option(help="Lower a classic solver's order at the end, as the tour does.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]


def find_model(name: str, device: str = "cpu", side: int = 128) -> Model:
    """A bundled model by name, or anybody's: ``module:function`` of a function that returns one.

    The module is looked for in the working directory too.

    Raises:
        InputError: an unknown name, a module or function that is not there, or that returns something else.
    """
    if ":" not in name:
        return load(name, device, side=side)
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(import_module(module), attribute)
        if not callable(function):
            raise AttributeError(f"{attribute} is no function")
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two of an odd name
        raise InputError(f"There is no model at {name} ({error}); give module:function.") from None
    else:
        model = function()
    finally:
        sys.path.remove(here)
    if not isinstance(model, Model):
        raise InputError(f"{name} must return a s4s_nb.Model; it returned {type(model).__name__}.")
    return replace(model, device=device, side=side)


def keep(path: Path | None, result: Any) -> None:
    """Write a result where it was asked for."""
    if path:
        write_json(path, result)


def check_device(device: str) -> str:
    """``device`` if torch can use it here; under torchrun the process's own GPU."""
    import torch

    try:
        device = own_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {device!r} cannot be used here ({reason}); try --device cpu.") from None
    return device

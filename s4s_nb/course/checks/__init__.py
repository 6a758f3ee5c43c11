"""Checks of the exercises: each tries the learner's answer and names the likely mistake."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from s4s_nb.course.checks.diagnosis import WrongKind
from s4s_nb.errors import choose

MODULES = [m.name for m in iter_modules(__path__, f"{__name__}.") if ".notebook_" in m.name]
CHECKS = {name: test for module in MODULES for name, test in import_module(module).CHECKS.items()}


def check(name: str, answer: Any) -> None:
    """Print "✓ …" if the answer is right, else "✗ …" and the likely mistake."""
    test = choose(CHECKS, name, "exercise")
    try:
        problem = test(answer) if callable(answer) or isinstance(answer, tuple) else NOT_A_FUNCTION
    except NotImplementedError:
        problem = "nothing here yet: replace the line that raises NotImplementedError."
    except WrongKind as error:
        problem = str(error)
    except Exception as error:  # whatever the learner's code raises is for the learner to read
        problem = f"your code raised {type(error).__name__}: {error}"
        if "dtype" in problem or "scalar type" in problem:
            problem += " (What you are given is float64: make your own tensors with dtype=torch.float64.)"
    print(f"✓ {name}: right." if problem is None else f"✗ {name}: {problem}")


NOT_A_FUNCTION = "hand in the function itself, by its name and without calling it."

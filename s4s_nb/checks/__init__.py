"""Checks of the exercises: each tries the learner's answer and names the likely mistake."""

from typing import Any

from s4s_nb.checks import (
    notebook_00,
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
)
from s4s_nb.errors import choose

NOTEBOOKS = (
    notebook_00,
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
)
CHECKS = {name: test for notebook in NOTEBOOKS for name, test in notebook.CHECKS.items()}


def check(name: str, answer: Any) -> None:
    """Print "✓ …" if the answer is right, else "✗ …" and the likely mistake."""
    test = choose(CHECKS, name, "exercise")
    try:
        problem = test(answer)
    except NotImplementedError:
        problem = "nothing here yet: replace the line that raises NotImplementedError."
    except Exception as error:  # whatever the learner's code raises is for the learner to read
        problem = f"your code raised {type(error).__name__}: {error}"
    print(f"✓ {name}: right." if problem is None else f"✗ {name}: {problem}")

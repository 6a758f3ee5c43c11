"""The optimisers, as data: by which generator a turn is learned, and how long."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

from s4s_nb.errors import InputError, choose
from s4s_nb.learn.adam import adam
from s4s_nb.learn.bfgs import bfgs
from s4s_nb.learn.gauss_newton import gauss_newton
from s4s_nb.learn.ld3 import ld3
from s4s_nb.learn.problem import Problem
from s4s_nb.student import Student


@dataclass(frozen=True)
class Optimiser:
    """How one turn is learned.

    learn: a generator that yields after each improvement; see :func:`s4s_nb.learn.loop.learn_student`.
    whole, turn: how many iterations it has where there is a single turn, and where there are several:
        steps of Gauss–Newton and BFGS, epochs of Adam, rounds of LD3's recipe.
    relaxed: whether it moves the starts.
    title: its name in records.
    gradients: whether it asks for them.
    """

    learn: Callable[..., Iterator[float | None]]
    whole: int
    turn: int
    title: str
    relaxed: bool = False
    gradients: bool = True

    def check(self, options: Mapping[str, Any], problem: Problem, student: Student) -> None:
        """:class:`InputError` for options that the optimiser does not have, those of the run are known; for
        gradients that stop between the steps, where it needs those of the value, and for a student without
        a table, where it needs that."""
        own = dict.fromkeys(list(signature(self.learn).parameters)[OF_THE_RUN:])
        for name in options:
            choose(own, name, f"option of {self.title}")
        if not student.one_table and not self.relaxed:
            raise InputError(f"{self.title} learns a table, and a {student.family} has none; take adam.")
        if problem.aim.cut and not self.relaxed:
            raise InputError(
                f"The objective {problem.objective} stops gradients between the steps, which is for adam"
                f" alone; {self.title} learns the objective trajectory, the same without."
            )


OF_THE_RUN = 5
"""How many arguments of an optimiser are the run's: problem, student, parts, memory and iterations."""

OPTIMISERS = {
    "gauss-newton": Optimiser(gauss_newton, whole=5, turn=1, title="Gauss-Newton", gradients=False),
    "bfgs": Optimiser(bfgs, whole=25, turn=5, title="BFGS"),
    "adam": Optimiser(adam, whole=10, turn=1, title="Adam", relaxed=True),
    "ld3": Optimiser(ld3, whole=7, turn=7, title="RMSprop, SGD", relaxed=True),
}

OptimiserName = Literal["gauss-newton", "bfgs", "adam", "ld3"]
"""The keys of :data:`OPTIMISERS`, as type checkers and the command line know them."""

"""The methods, as data: what moves, in which turns, by which optimiser, from how many pairs.

    s4s        coefficients                          (Frankel et al. 2025, algorithm 1)
    ld3        levels and offsets                    (Tong et al. 2025)
    joint      all of them at once                   (Frankel et al. 2025, algorithm 3)
    s4s-alt    levels and offsets, then coefficients, in turns    (algorithm 2)
    whole      all of them at once, then every number of the table: history, the first asked level and the
               input scales, with levels and offsets; no publication's
    bns        weights of all outputs and of x_0, with the levels (Shaul et al. 2024)
    gs         all outputs and states, levels and offsets beside a classic solver of those levels
               (2510.17699)
    dyweight   weights with a free sum, and time scales           (2603.11607)

    repeat K times:   Ξ ← argmin_Ξ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     levels and offsets, φ held
                      φ ← argmin_φ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     coefficients, Ξ held

A new method is a new row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Literal

from s4s_nb.errors import InputError, choose
from s4s_nb.learn.adam import adam
from s4s_nb.learn.bfgs import bfgs
from s4s_nb.learn.gauss_newton import gauss_newton
from s4s_nb.learn.ld3 import ld3
from s4s_nb.siblings import STUDENTS, StudentForm
from s4s_nb.student import FURTHER, PARTS, Student

COEFFICIENTS = ("coefficients",)
TIMES = ("levels", "offsets")
ALL = COEFFICIENTS + TIMES
WHOLE = (*FURTHER, *TIMES)


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

    def check(self, options: Mapping[str, Any]) -> None:
        """:class:`InputError` for options that the optimiser does not have; those of the run are known."""
        own = dict.fromkeys(list(signature(self.learn).parameters)[OF_THE_RUN:])
        for name in options:
            choose(own, name, f"option of {self.title}")


OF_THE_RUN = 5
"""How many arguments of an optimiser are the run's: problem, student, parts, memory and iterations."""

OPTIMISERS = {
    "gauss-newton": Optimiser(gauss_newton, whole=5, turn=1, title="Gauss-Newton", gradients=False),
    "bfgs": Optimiser(bfgs, whole=25, turn=5, title="BFGS"),
    "adam": Optimiser(adam, whole=10, turn=1, title="Adam", relaxed=True),
    "ld3": Optimiser(ld3, whole=7, turn=7, title="RMSprop, SGD", relaxed=True),
}


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    turns: what moves, turn by turn, in one round. rounds: how many of them.
    optimiser: the one that is used if none is named. pairs: from how many it learns.
    own: optimisers that mean another one here, by name: LD3 has a recipe of its own by first order.
    batches: pairs an update, where an optimiser of first order has batches.
    form: what its student looks like.
    iterations: of its own optimiser in a turn, where they are not those that the optimiser has.
    """

    turns: tuple[tuple[str, ...], ...]
    optimiser: str
    pairs: int
    rounds: int = 1
    own: dict[str, str] = field(default_factory=dict)
    batches: int = 20
    form: StudentForm = STUDENTS["s4s"]
    iterations: int | None = None

    def tool(self, name: str | None = None, radius: float | None = None) -> Optimiser:
        """The optimiser of a name, or the method's own.

        Raises:
            InputError: an unknown name, LD3's recipe for another method, or a radius for an optimiser that
                has no relaxed starts.
        """
        asked = name or self.optimiser
        tool = choose(OPTIMISERS, self.own.get(asked, asked), "optimiser")
        if tool is OPTIMISERS["ld3"] and self.turns != (TIMES,):
            raise InputError("LD3's own recipe learns levels alone; learn by adam, or take the method ld3.")
        if radius and not tool.relaxed:
            raise InputError(f"{tool.title} has no relaxed starts; leave the radius out, or learn by adam.")
        return tool

    def of(self, turns: Sequence[Sequence[str]] | None) -> "Method":
        """The same with other turns; its own if there are none."""
        return self if turns is None else replace(self, turns=tuple(map(tuple, turns)))

    def length(self, tool: Optimiser, turns: int) -> int:
        """How many iterations a turn has if none are asked for."""
        if self.iterations is not None and tool is OPTIMISERS[self.optimiser]:
            return self.iterations
        return tool.turn if turns > 1 else tool.whole

    def plan(self, student: Student, rounds: int | None = None) -> list[tuple[str, ...]]:
        """The turns of a run, each with those parts that the student has.

        Raises:
            InputError: none of a turn's parts is there, as on a single step, which has no levels to learn;
                or the student is of another form, without the history that the method learns.
        """
        planned = []
        for turn in self.turns:
            there = tuple(part for part in turn if part not in PARTS or getattr(student, part).numel())
            student.sizes(there or turn)  # says what is missing
            planned.append(there)
        return planned * (self.rounds if rounds is None else rounds)


MethodName = Literal["s4s", "ld3", "joint", "s4s-alt", "whole", "bns", "gs", "dyweight"]
OptimiserName = Literal["gauss-newton", "bfgs", "adam", "ld3"]
"""The keys of :data:`METHODS` and :data:`OPTIMISERS`, as type checkers and the command line know them."""

METHODS = {
    "s4s": Method((COEFFICIENTS,), "gauss-newton", pairs=80),
    "ld3": Method((TIMES,), "gauss-newton", pairs=80, own={"adam": "ld3"}, batches=2),
    "joint": Method((ALL,), "bfgs", pairs=160),
    "s4s-alt": Method((TIMES, COEFFICIENTS), "gauss-newton", pairs=80, rounds=8, batches=40),
    "whole": Method((ALL, WHOLE), "bfgs", pairs=160, form=STUDENTS["whole"], iterations=25),
    "bns": Method((("coefficients", "history", "levels"),), "bfgs", pairs=160, form=STUDENTS["bns"]),
    "gs": Method((("history", "first", *TIMES),), "adam", pairs=160, form=STUDENTS["gs"]),
    "dyweight": Method((("coefficients", "offsets"),), "adam", pairs=160, form=STUDENTS["dyweight"]),
}

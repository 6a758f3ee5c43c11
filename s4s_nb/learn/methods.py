"""The methods, as data: what moves, in which turns, by which optimiser, from how many pairs.

    s4s        coefficients                          (Frankel et al. 2025, algorithm 1)
    ld3        levels and offsets                    (Tong et al. 2025)
    joint      all of them at once                   (Frankel et al. 2025, algorithm 3)
    s4s-alt    levels and offsets, then coefficients, in turns    (algorithm 2)

    repeat K times:   Ξ ← argmin_Ξ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     levels and offsets, φ held
                      φ ← argmin_φ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     coefficients, Ξ held

The last two again as they were published (appendix G.2), for which see :data:`METHODS`:

    s4s-paper, s4s-alt-paper      by Adam, with relaxed starts, from the paper's numbers of pairs

A new method is a new row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal

from s4s_nb.errors import InputError, choose
from s4s_nb.learn.adam import adam
from s4s_nb.learn.bfgs import bfgs
from s4s_nb.learn.gauss_newton import gauss_newton
from s4s_nb.learn.ld3 import ld3
from s4s_nb.learn.relaxed import radius_rule
from s4s_nb.student import Student

COEFFICIENTS = ("coefficients",)
TIMES = ("levels", "offsets")
ALL = COEFFICIENTS + TIMES


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
    validation: how many pairs validate; half of the others if left out. latent_pairs: in place of ``pairs``
    for models whose states are not images.
    relaxed: whether starts move by S4S's rule, with one radius for all turns, m being all that they move.
    start, grid: where it begins if nothing is named. begins: the method whose levels it goes on from, by
    its own recipe. held: what a model level means (:func:`s4s_nb.levels.decoupled`).
    """

    turns: tuple[tuple[str, ...], ...]
    optimiser: str
    pairs: int
    rounds: int = 1
    own: dict[str, str] = field(default_factory=dict)
    batches: int = 20
    validation: int | None = None
    latent_pairs: int | None = None
    relaxed: bool = False
    start: str | None = None
    grid: str | None = None
    begins: str | None = None
    held: str = "data"

    def radius(self, tool: Optimiser, dimension: int, student: Student) -> float:
        """How far starts may move if nothing is asked for: as in LD3, 0.001 D/N², for its own recipe; by
        S4S's rule, with all that the method moves for m; or not at all, 0."""
        if tool is OPTIMISERS["ld3"]:
            return 0.001 * dimension / student.nfe**2
        moving = {part for turn in self.turns for part in turn if getattr(student, part).numel()}
        return radius_rule(sum(student.sizes(sorted(moving))), dimension) if self.relaxed else 0.0

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

    def plan(self, student: Student, rounds: int | None = None) -> list[tuple[str, ...]]:
        """The turns of a run, each with those parts that the student has.

        Raises:
            InputError: none of a turn's parts is there, as on a single step, which has no levels to learn.
        """
        planned = []
        for turn in self.turns:
            there = tuple(part for part in turn if getattr(student, part).numel())
            student.sizes(there or turn)  # says what is missing
            planned.append(there)
        return planned * (self.rounds if rounds is None else rounds)


MethodName = Literal["s4s", "ld3", "joint", "s4s-alt", "s4s-paper", "s4s-alt-paper"]
OptimiserName = Literal["gauss-newton", "bfgs", "adam", "ld3"]
"""The keys of :data:`METHODS` and :data:`OPTIMISERS`, as type checkers and the command line know them."""

METHODS = {
    "s4s": Method((COEFFICIENTS,), "gauss-newton", pairs=80),
    "ld3": Method((TIMES,), "gauss-newton", pairs=80, own={"adam": "ld3"}, batches=2),
    "joint": Method((ALL,), "bfgs", pairs=160),
    "s4s-alt": Method((TIMES, COEFFICIENTS), "gauss-newton", pairs=80, rounds=8, batches=40),
    "s4s-paper": Method(
        (COEFFICIENTS,),
        "adam",
        pairs=700,
        validation=200,
        latent_pairs=600,
        relaxed=True,
        start="ipndm-3",
    ),
    "s4s-alt-paper": Method(
        (TIMES, COEFFICIENTS),
        "adam",
        pairs=1400,
        validation=400,
        latent_pairs=1000,
        rounds=8,
        batches=40,
        relaxed=True,
        start="ipndm-3",
        grid="logsnr",
        begins="ld3",
        held="noise",
    ),
}
"""The last two are S4S's appendix G.2 as far as it goes: 10 epochs in batches of 20; and 8 rounds in
batches of 40, from iPNDM of order 3 on the grid that LD3 learns for it. The text leaves open what had to be
chosen: Adam's rate of 0.01, the constant of the radius (:func:`s4s_nb.learn.relaxed.radius_rule`), and that
half of a round is one epoch. The paper's teachers, which a :class:`s4s_nb.models.Model` takes as its
``teacher_solver``, are UniPC with 20 evaluations on the log-SNR grid in pixels, and with 10 or 20 uniform
in time in latents."""

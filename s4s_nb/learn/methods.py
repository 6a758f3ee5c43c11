"""The methods, as data: what moves, in which turns, by which optimiser, from how many pairs.

    s4s        coefficients                          (Frankel et al. 2025, algorithm 1)
    ld3        levels and offsets                    (Tong et al. 2025)
    joint      all of them at once                   (Frankel et al. 2025, algorithm 3)
    s4s-alt    levels and offsets, then coefficients, in turns    (algorithm 2)
    whole      all of them at once, then every number of the table: history, the first asked level and the
               input scales, with levels and offsets; no publication's. What it can do is what BNS can, with
               level and scale of the first evaluation free as well: every input, and the end, is a mixture
               of x_0 and the outputs so far, N(N+5)/2 + 1 numbers with the levels (26 at N = 5). Its 39
               are other coordinates of these.
    bns        weights of all outputs and of x_0, with the levels (Shaul et al. 2024)
    gs         all outputs and states, levels and offsets beside a classic solver of those levels
               (2510.17699)
    dyweight   weights with a free sum, and time scales           (2603.11607)
    dss        coefficients and levels, along the way of 100 steps of Euler's method, by Lion, without
               decay, four pairs an update; of the paper's 50,000 noises 160, ten times  (Wang et al. 2025)
    dlms       all, step by step along the teacher's way, by Adam with a running mean, 320 updates as in
               the paper, of 20 instead of 64 noises; no free first step            (Liang et al. 2025)

    repeat K times:   Ξ ← argmin_Ξ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     levels and offsets, φ held
                      φ ← argmin_φ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     coefficients, Ξ held

The last two again as they were published (appendix G.2), for which see :data:`METHODS`:

    s4s-paper, s4s-alt-paper      by Adam, with relaxed starts, from the paper's numbers of pairs

A new method is a new row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from s4s_nb.classic import ClassicName
from s4s_nb.distilled import distilled_student
from s4s_nb.errors import InputError, choose
from s4s_nb.families import make_student
from s4s_nb.grids import GridName
from s4s_nb.learn.embeddings import EmbeddingName
from s4s_nb.learn.objectives import ObjectiveName
from s4s_nb.learn.optimiser import OPTIMISERS, Optimiser
from s4s_nb.learn.relaxed import radius_rule
from s4s_nb.siblings import dyweight_student
from s4s_nb.solver_search import search_student
from s4s_nb.student import FURTHER, PARTS, Student

COEFFICIENTS = ("coefficients",)
TIMES = ("levels", "offsets")
ALL = COEFFICIENTS + TIMES
WHOLE = (*FURTHER, *TIMES)


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    turns: what moves, turn by turn, in one round. rounds: how many of them.
    optimiser: the one that is used if none is named. pairs: from how many it learns.
    own: optimisers that mean another one here, by name: LD3 has a recipe of its own by first order.
    batches: pairs an update, where an optimiser of first order has batches.
    objective, embed: what is compared, and under which embedding; names of
        :data:`s4s_nb.learn.objectives.OBJECTIVES` and of :mod:`s4s_nb.learn.embeddings`.
    student: (start, nfe, grid, order, …) → its own form; one of S4S's if left out. start, grid: where that
        begins, instead of a race. order: how many outputs a step may mix.
    teacher: its own, as solver, evaluations and grid; the model's if left out.
    iterations, options: of its own optimiser in a turn, where they are not those that the optimiser has.
    validation: how many pairs validate; half of the others if left out. latent_pairs: in place of ``pairs``
        for models whose states are not images.
    relaxed: whether starts move by S4S's rule, with one radius for all turns, m being all that they move.
    begins: the method whose levels it goes on from, by its own recipe.
    held: what a model level means (:func:`s4s_nb.levels.decoupled`); as its student has it if left out.
    """

    turns: tuple[tuple[str, ...], ...]
    optimiser: str
    pairs: int
    rounds: int = 1
    own: dict[str, str] = field(default_factory=dict)
    batches: int = 20
    objective: ObjectiveName = "end"
    embed: EmbeddingName = "own"
    student: Callable[..., Student] = make_student
    start: str | None = None
    grid: GridName | None = None
    order: int | Literal["all"] = 3
    teacher: tuple[ClassicName, int, GridName] | None = None
    iterations: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    validation: int | None = None
    latent_pairs: int | None = None
    relaxed: bool = False
    begins: str | None = None
    held: str | None = None

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

    def of(self, turns: Sequence[Sequence[str]] | None) -> "Method":
        """The same with other turns; its own if there are none."""
        return self if turns is None else replace(self, turns=tuple(map(tuple, turns)))

    def length(self, tool: Optimiser, turns: int) -> int:
        """How many iterations a turn has if none are asked for."""
        if self.iterations is not None and tool is self.tool():
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


MethodName = Literal[
    "s4s",
    "ld3",
    "joint",
    "s4s-alt",
    "whole",
    "bns",
    "gs",
    "dyweight",
    "dss",
    "dlms",
    "s4s-paper",
    "s4s-alt-paper",
]
"""The keys of :data:`METHODS`, as type checkers and the command line know them."""

GS = {"clock": "native", "kind": "sticks", "reach": "free", "held": "noise"}
"""Levels by sticks in the native time, asked ones anywhere, the noise held: where GS puts them (eq. 14)."""

METHODS = {
    "s4s": Method((COEFFICIENTS,), "gauss-newton", pairs=80),
    "ld3": Method((TIMES,), "gauss-newton", pairs=80, own={"adam": "ld3"}, batches=2),
    "joint": Method((ALL,), "bfgs", pairs=160),
    "s4s-alt": Method((TIMES, COEFFICIENTS), "gauss-newton", pairs=80, rounds=8, batches=40),
    "whole": Method(
        (ALL, WHOLE),
        "bfgs",
        pairs=160,
        student=partial(make_student, history="all", first=True, scales=True),
        iterations=25,
    ),
    "bns": Method(
        (("coefficients", "history", "levels"),),
        "bfgs",
        pairs=520,
        student=partial(make_student, history="start", clock="native", width=0.0),
        objective="bns",
        embed="states",
        start="flow-ab1",
        order="all",
    ),
    "gs": Method(
        (("history", "first", *TIMES),),
        "adam",
        pairs=1400,
        batches=24,
        student=partial(make_student, history="all", first=True, **GS),
        start="dpmpp-3m",
        iterations=171,
        options={"learning_rate": 1e-3},
    ),
    "dyweight": Method(
        (("coefficients", "offsets"),),
        "adam",
        pairs=10_000,
        batches=16,
        student=dyweight_student,
        start="ipndm-3",
        iterations=1,
        options={"learning_rate": 3e-2},
    ),
    "dss": Method(
        (("coefficients", "levels"),),
        "adam",
        pairs=160,
        batches=4,
        objective="dss",
        embed="states",
        student=search_student,
        start="euler",
        grid="uniform",
        order="all",
        teacher=("euler", 100, "uniform"),
        options={"rule": "Lion", "learning_rate": 1e-2, "cosine": False},
    ),
    "dlms": Method(
        (ALL,),
        "adam",
        pairs=160,
        batches=20,
        objective="dlms",
        student=distilled_student,
        start="plms",
        grid="uniform",
        order=4,
        iterations=40,
        options={"learning_rate": 5e-3, "cosine": False, "ema": 0.95},
    ),
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
"""The methods, by name. Those of others have their papers' numbers of pairs, updates and rates, for pixels:
GS 10,000 updates of 24 pairs (epochs are rounded up), DyWeight each noise once; hours on a CPU, where
``pairs=160, iterations=25`` and a larger ``learning_rate`` are what can be afforded. What differs: BNS is
learned by BFGS; GS has no average of its parameters, and the first level in place of an offset; DyWeight's
rate has no warm-up, its first evaluation is not free, and its distance is not of Inception features.

The last two are S4S's appendix G.2 as far as it goes: 10 epochs in batches of 20; and 8 rounds in
batches of 40, from iPNDM of order 3 on the grid that LD3 learns for it. The text leaves open what had to be
chosen: Adam's rate of 0.01, the constant of the radius (:func:`s4s_nb.learn.relaxed.radius_rule`), and that
half of a round is one epoch. The paper's teachers, which a :class:`s4s_nb.models.Model` takes as its
``teacher_solver``, are UniPC with 20 evaluations on the log-SNR grid in pixels, and with 10 or 20 uniform
in time in latents."""

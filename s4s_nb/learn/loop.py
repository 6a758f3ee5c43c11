"""The one loop in which every method is learned: identity, resume, bar, best on validation, record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s_nb.errors import InputError, choose
from s4s_nb.learn.gradients import check_gradients
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.optimiser import Optimiser
from s4s_nb.learn.problem import Problem, paired_gain
from s4s_nb.learn.relaxed import RelaxedStarts
from s4s_nb.learn.resume import StateFile
from s4s_nb.runtime import bar
from s4s_nb.solvers import Solver
from s4s_nb.student import FURTHER, PARTS, Student


@dataclass(frozen=True)
class Turn:
    """One turn: which parts moved, and the validation distances before and after."""

    parts: tuple[str, ...]
    before: float
    after: float


@dataclass(frozen=True)
class Result:
    """What was learned.

    solver: the learned table, which knows how it was learned.
    student: the module that it is the table of.
    reached: the table at which the learning has ended, also where its start was kept.
    history: a row (turn, iteration, validation distance) each time the distance was measured, the first at
        the start.
    record: the solver's record, see :attr:`s4s_nb.solvers.Solver.info`.
    """

    solver: Solver
    student: Student
    reached: Solver
    history: list[tuple[int, int, float]]

    def __repr__(self) -> str:
        before, after = self.record["validation_start"], self.record["validation_best"]
        how = f"{self.record['method']} by {self.record['optimiser']}, {self.record['kept']} kept"
        return f"Result({self.solver.name}, {self.solver.nfe} NFE, {how}: {before:.4g} -> {after:.4g})"

    @property
    def record(self) -> dict[str, Any]:
        """How it was learned, and what it reached on the validation pairs."""
        return self.solver.info

    @property
    def turns(self) -> list[Turn]:
        """The turns of the run."""
        return [Turn(tuple(turn["parts"]), turn["before"], turn["after"]) for turn in self.record["turns"]]

    def plot(self):
        """A figure of the validation distance over the iterations, with a line where a turn begins."""
        import matplotlib.pyplot as plt

        from s4s_nb.pictures import in_style

        values = [value for _, _, value in self.history]
        with in_style():
            figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
            axis.plot(range(len(values)), values, "o-")
            axis.set_yscale("log" if min(values) > 0 else "linear")  # distances may be logarithms already
            for index in range(1, len(values)):
                if self.history[index][0] != self.history[index - 1][0]:
                    axis.axvline(index - 0.5, color="grey", linewidth=0.5)
            axis.set(xlabel="validations, in order", ylabel="validation distance")
            axis.set_title(f"{self.record['method']} from {self.record['start']}", fontsize=10)
        return figure


@torch.inference_mode(False)
@torch.enable_grad()  # whatever holds around the call
def learn_student(
    problem: Problem,
    student: Student,
    method: str = "joint",
    optimiser: str | None = None,
    rounds: int | None = None,
    iterations: int | None = None,
    radius: float | None = None,
    state_file: Path | None = None,
    progress: bool = True,
    turns: Sequence[Sequence[str]] | None = None,
    **options: Any,
) -> Result:
    """Learn a student in place, by one of :data:`s4s_nb.learn.METHODS`.

    Every turn goes on from the best that the last one has seen on the validation pairs, its start
    included, so the distance never rises from turn to turn. Optimisers start anew in every turn; the
    moved starts of a relaxed objective belong to the run.

    The learned solver replaces its start only if its gain on the validation pairs, pair by pair, is on
    average larger than the standard error of that average; else the student goes back to its start.

    Args:
        optimiser: one of :data:`s4s_nb.learn.OPTIMISERS`; the method's own if left out.
        rounds: how often the method's turns are gone through.
        iterations: of the optimiser in every turn; its own number if left out.
        radius: r of the relaxed objective, in units of unit noise, for optimisers of first order;
            :func:`s4s_nb.learn.relaxed.radius_rule` gives S4S's. If left out 0, the hard objective; LD3's
            own recipe has LD3's, and methods with relaxed starts the rule's.
        state_file: where progress is kept; a run that finds it goes on from there and ends with the same
            bits as one that was never stopped.
        turns: what moves, turn by turn, in place of the method's turns.
        options: of the optimiser, as ``derivatives`` or ``learning_rate``.

    Raises:
        InputError: an unknown name or option, no rounds, iterations below 0, parts that the student does
            not have, a radius that is negative or for an optimiser that has none, a state of another run,
            or a gradient that differences do not confirm (:mod:`s4s_nb.learn.gradients`).
    """
    recipe = choose(METHODS, method, "method").of(turns)
    tool = recipe.tool(optimiser, radius)
    plan = recipe.plan(student, rounds)
    count = iterations if iterations is not None else recipe.length(tool, len(plan))
    if not plan or count < 0:
        raise InputError(f"Learning takes rounds, one or more, and iterations; got {rounds} and {count}.")
    tool.check(options, problem, student)
    if tool.relaxed:
        given = recipe.options if tool is recipe.tool() else {}
        options = {"size": recipe.batches, **given, **options}
        own = recipe.radius(tool, problem.train.starts[0].numel(), student)
        reach = own if radius is None else radius
        options |= {"starts": RelaxedStarts(problem.train, float(student.sigmas[0]), reach)}
    run = Run(problem, student, method, tool, plan, count, options)
    state = run.start(state_file)
    run.go_on(state, progress)
    return run.result(state)


@dataclass(eq=False)
class Run:
    """A learning under way. Its state is a flat dictionary of tensors and of what JSON can hold:

    ``turn``, ``history``, ``turns`` of the run; the student's parameters and the best vector of this turn;
    the moved starts; and what the optimiser remembers, which begins with ``by`` (the vector over the
    turn's parts, from where the turn began), ``value`` (its validation distance) and ``steps``.
    """

    problem: Problem
    student: Student
    method: str
    tool: Optimiser
    plan: list[tuple[str, ...]]
    count: int
    options: dict[str, Any]

    @property
    def shifts(self) -> RelaxedStarts | None:
        """The moved starts, where the optimiser has some."""
        return self.options.get("starts")

    def identity(self) -> dict[str, Any]:
        """What tells this run from another; students are compared beside zero, where they differ."""
        beside = self.student.zero(self.there) + 0.1
        with torch.no_grad():
            table = self.student.moved(beside, self.there).digest
        plain = {key: value for key, value in self.options.items() if key != "starts"}
        return {
            **self.names(),
            "plan": [list(parts) for parts in self.plan],
            "iterations": self.count,
            "options": plain,
            "radius": self.shifts.radius if self.shifts else 0.0,
            "student": table,
            **self.problem.identity(),
        }

    @property
    def there(self) -> tuple[str, ...]:
        """The parts that the student has."""
        return tuple(part for part in PARTS + FURTHER if getattr(self.student, part).numel())

    def names(self) -> dict[str, str]:
        """What a record calls the run."""
        return {
            "method": self.method,
            "optimiser": self.tool.title,
            "family": self.student.family,
            "start": self.student.start,
        }

    def start(self, state_file: Path | None) -> dict[str, Any]:
        """The state to go on from, the student's parameters set to it."""
        self.known = self.identity()
        self.kept = StateFile(state_file, self.known)
        self.first = {name: p.detach().clone() for name, p in self.student.named_parameters()}
        self.begun = self.problem.distances(self.student.solver())
        state = self.kept.load()
        if not state:
            if self.tool.gradients:
                check_gradients(self.problem, levels=any(turn != ("coefficients",) for turn in self.plan))
            value = float(self.begun.mean())
            return {"turn": 0, "history": [[0, 0, value]], "turns": [], **self.fresh(0, value)}
        self.set({name: state[f"student.{name}"] for name in self.first})
        if self.shifts:
            self.shifts.shifts = state.pop("shifts").to(self.shifts.shifts)
        return state

    def set(self, values: dict[str, Tensor]) -> None:
        """Set the student's parameters."""
        with torch.no_grad():
            for name, value in values.items():
                getattr(self.student, name).copy_(value)

    def fresh(self, turn: int, value: float) -> dict[str, Any]:
        """What a turn begins with."""
        zero = self.student.zero(self.plan[turn]) if turn < len(self.plan) else torch.zeros(0)
        memory = {"by": zero, "value": value, "steps": 0}
        return {"best.by": zero, "best.value": value, **{f"own.{k}": v for k, v in memory.items()}}

    def save(self, state: dict[str, Any]) -> None:
        """Keep the state."""
        shifts = {"shifts": self.shifts.shifts} if self.shifts else {}
        student = {f"student.{name}": p for name, p in self.student.named_parameters()}
        self.kept.save(state | shifts | student)

    def go_on(self, state: dict[str, Any], progress: bool) -> None:
        """Learn from a state to the end."""
        total = len(self.plan) * self.count
        title = f"{self.method} from {self.student.start}"
        learning = bar(total=total, desc=title, disable=not progress, mininterval=1)
        while state["turn"] < len(self.plan):
            parts = self.plan[state["turn"]]
            for _ in self.steps(state, parts):
                learning.update(min(1, total - learning.n))
                learning.set_postfix(
                    validation=f"{state['best.value']:.4f}", start=f"{state['history'][0][2]:.4f}"
                )
            self.end_turn(state, parts)
            self.save(state)
        learning.close()

    def steps(self, state: dict[str, Any], parts: Sequence[str]) -> Iterator[float | None]:
        """The optimiser's steps; after each the best is noted, and the state kept."""
        memory = {key.removeprefix("own."): value for key, value in state.items() if key.startswith("own.")}
        options = dict(self.options)
        for value in self.tool.learn(self.problem, self.student, parts, memory, self.count, **options):
            state |= {f"own.{key}": value_of for key, value_of in memory.items()}
            if value is not None:
                state["history"].append([state["turn"], memory["steps"], value])
                if value < state["best.value"]:
                    state |= {"best.by": memory["by"], "best.value": value}
            self.save(state)
            yield value

    def end_turn(self, state: dict[str, Any], parts: Sequence[str]) -> None:
        """Move the student to the best of this turn, and make ready for the next."""
        self.student.move(state["best.by"], parts)
        before = state["turns"][-1]["after"] if state["turns"] else state["history"][0][2]
        known = [key for key in ("steps", "gradients", "ended") if f"own.{key}" in state]
        spent = {key: state[f"own.{key}"] for key in known}
        distances = {"before": before, "after": state["best.value"]}
        state["turns"].append({"parts": list(parts), **spent, **distances})
        state["turn"] += 1
        for key in [key for key in state if key.startswith("own.")]:
            del state[key]
        state |= self.fresh(state["turn"], state["best.value"])

    def result(self, state: dict[str, Any]) -> Result:
        """The solver with its record, or its start where the gain is not above its own error."""
        reached = self.student.solver()
        gain, error = paired_gain(self.begun, self.problem.distances(reached))
        kept = gain > error
        if not kept:
            self.set(self.first)
        names = "method optimiser family start pairs validation_pairs iterations radius"
        record = {name: self.known[name] for name in names.split()} | self.known["options"]
        record |= {
            "optimiser": self.options.get("rule", self.tool.title),
            **self.problem.compared(),
            "turns": state["turns"],
            "validation_start": state["history"][0][2],
            "validation_best": state["best.value"] if kept else state["history"][0][2],
            "gain": gain,
            "gain_error": error,
            "kept": "learned" if kept else "start",
            "model_levels": self.student.held,
        }
        if self.shifts:
            record["boundary_share"] = self.shifts.boundary_share
        solver, history = self.student.solver(), [tuple(row) for row in state["history"]]
        return Result(replace(solver, info={**solver.info, **record}), self.student, reached, history)

"""S4S-Alt: learn coefficients and levels in turns.

    repeat K times:   Ξ ← argmin_Ξ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     levels and offsets, φ held
                      φ ← argmin_φ E d( Ψ_{φ,Ξ}(x_T), Ψ_*(x_T) )     coefficients, Ξ held

(Frankel et al. 2025, algorithm 2). How far one turn goes, and by which optimiser, is the learner's
business. A single phase over all parts is their algorithm 3, over the levels and offsets alone LD3's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from s4s_nb.errors import InputError, choose
from s4s_nb.families import Family
from s4s_nb.learn import Learned
from s4s_nb.solvers import Solver
from s4s_nb.times import Joint


@runtime_checkable
class Learner(Protocol):
    """What a phase is learned by."""

    def __call__(self, family: Family, *, state_file: Path | None) -> Learned: ...


TIMES = ("levels", "offsets")
COEFFICIENTS = ("coefficients",)


@dataclass(frozen=True)
class Phase:
    """One turn: which parts it learned, and the validation distances before and after."""

    parts: tuple[str, ...]
    before: float
    after: float


METHODS = ("s4s", "ld3", "joint", "s4s-alt")


def plan(method: str, joint: Joint, alternations: int = 8) -> list[tuple[str, ...]]:
    """The phases of a method: s4s, ld3 and joint in one; s4s-alt in 2K, that end with the coefficients.

    Raises:
        InputError: an unknown method, or a single step, which has no levels to learn.
    """
    times = tuple(name for name in TIMES if joint.sizes.get(name))
    turns = {
        "s4s": [COEFFICIENTS],
        "ld3": [times],
        "joint": [COEFFICIENTS + times],
        "s4s-alt": [times, COEFFICIENTS] * alternations,
    }
    phases = choose(turns, method, "method")
    if not all(phases):
        raise InputError("A single step has no levels to learn; take a solver of two steps or more.")
    return phases


def learn_in_phases(
    joint: Joint,
    phases: Sequence[tuple[str, ...]],
    learner: Learner,
    folder: Path | None = None,
    at: dict[str, Tensor] | None = None,
) -> tuple[Solver, dict[str, Tensor], list[Phase]]:
    """Learn some parts after others, each from where the last one ended.

    A learner returns the best it has seen on the validation pairs, its start included, so the distance
    never rises from phase to phase, as long as all of them validate on the same pairs. Optimisers
    start anew in every phase.

    Args:
        learner: learns a family, as :func:`learn_s4s` or :func:`learn_gauss_newton` with all but the
            family and its state file given.
        folder: where every phase keeps its progress; a run that finds some goes on from there.
        at: parameters of every part to start from; the classic solver if left out.

    Returns:
        The solver, the parameters of every part, and the phases.

    Raises:
        InputError: states of another run.
    """
    at, done, info = at or joint.zero, [], {}
    for index, parts in enumerate(phases):
        learned = learner(joint.part(parts, at), state_file=folder and folder / f"{index}.safetensors")
        at = joint.moved(at, parts, learned.parameters)
        distances = [value for _, value in learned.history]
        done.append(Phase(parts, distances[0], min(distances)))
        info = learned.solver.info
    solver = joint.table(at)
    record = {"phases": [asdict(phase) for phase in done], "family": joint.family.name}
    return replace(solver, info={**info, **solver.info, **record}), at, done

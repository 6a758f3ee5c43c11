"""The teacher of a run: which it is, and its pairs, with its way where that is compared."""

from dataclasses import replace
from pathlib import Path

from s4s_nb.classic import make_solver
from s4s_nb.denoisers import examined
from s4s_nb.learn.objectives import ways_of
from s4s_nb.pairs import PER_SEED, Pairs
from s4s_nb.solvers import Solver
from s4s_nb.store import PairStore


def own_teacher(model, teacher: tuple[str, int, str] | None) -> Solver:
    """The teacher of a method, or of the model."""
    if teacher is None:
        return model.teacher()
    name, nfe, grid = teacher
    return make_solver(name, nfe, model.grid(grid), schedule=model.schedule)


def teacher_pairs(
    model, teacher: Solver, seed: int, work: Path | None, progress: bool, split: str, count: int
) -> Pairs:
    """The teacher's pairs of a split; kept in a folder, made where they are missing."""
    title, first = f"teacher, {split}" if progress else None, seed * PER_SEED
    if work is None:
        return replace(model, teacher_solver=teacher).pairs(split, count, first, progress)
    store = PairStore(work / split, model, teacher, count, split, shard=20, first=first)
    store.make(title)
    return store.load()


def teacher_ways(
    model, teacher: Solver, seed: int, work: Path | None, progress: bool, split: str, count: int
) -> Pairs:
    """The same with the teacher's way, which is too large for a file: a run that goes on makes it anew."""
    title, first = f"teacher, {split}" if progress else None, seed * PER_SEED
    starts, cond = model.starts(split, count, first), model.condition(split, count, first)
    denoise = examined(model.denoise, starts, teacher.model_sigmas[0], cond)
    return ways_of(denoise, starts, teacher, cond, title)

"""Learning a solver: :func:`learn` does all of it, for any model; the modules below it are its parts.

objectives, embeddings    what is compared: end points or ways, and in which space
problem     every mean over pairs
methods     what moves, in which turns, by which optimiser: a table
gauss_newton, bfgs, adam, ld3      the optimisers, a generator each
loop        the one loop in which they run: resume, best on validation, record
starts, teachers      where to start from, and whom to learn from
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from s4s_nb.distances import check_range
from s4s_nb.errors import InputError, choose
from s4s_nb.files import digest, read_json, same_run, write_json
from s4s_nb.first import FreeFirst
from s4s_nb.grids import GRID_NAMES, GRIDS, last_levels
from s4s_nb.learn.embeddings import EmbeddingName, embedding_of
from s4s_nb.learn.loop import Result, learn_student
from s4s_nb.learn.methods import METHODS, Method
from s4s_nb.learn.objectives import OBJECTIVES, ObjectiveName
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.starts import STARTS, Start, best_start
from s4s_nb.learn.teachers import own_teacher, teacher_pairs, teacher_ways
from s4s_nb.pairs import PER_SEED
from s4s_nb.student import Student

__all__ = ["Problem", "Result", "learn", "learn_student"]

BEGUN_FROM = 50
"""Pairs from which LD3 learns and by as many of which it chooses, where another method goes on from it."""
RACE_PAIRS = 40
"""Of the training pairs, at most, in the race that picks start and grid."""


@torch.inference_mode(False)
def learn(
    model,
    nfe: int = 5,
    method: str = "joint",
    *,
    start: str | None = None,
    grid: str | None = None,
    end: float | Literal["race", "learn"] | None = None,
    order: int | Literal["all"] | None = None,
    consistent: bool = False,
    lower_final: bool | None = None,
    objective: ObjectiveName | None = None,
    embed: EmbeddingName | None = None,
    set_weight: float = 0.0,
    student: Callable[..., Student] | None = None,
    free_first: bool = False,
    held: Literal["data", "noise"] | None = None,
    pairs: int | None = None,
    validation_pairs: int | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    batch: int = 20,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Learn a solver with ``nfe`` evaluations for a model.

    By default everything that may move, coefficients, levels and the levels at which the model is asked,
    is learned at once by BFGS from 160 pairs of the teacher, starting from that classic solver and grid
    which are best on the validation pairs.

    Args:
        model: a :class:`s4s_nb.models.Model`, bundled or your own.
        method: s4s moves the coefficients, ld3 the levels, joint all at once, s4s-alt the two in turns,
            whole every number of the table; dss and dlms learn along the teacher's way; see
            :mod:`s4s_nb.learn.methods`.
        start, grid: the classic solver and the grid to start from; a short race picks what is left out.
        end: the last level of the grid; the model's sigma_min if left out. "race" has it picked with start
            and grid from :func:`s4s_nb.grids.last_levels`, "learn" lets it move on from there, as the other
            levels do.
        order: how many past outputs a step may mix, or "all"; the method's number if left out.
        consistent: keep the weights of a step at a sum of 1.
        lower_final: start from the classic solver with its order lowered at the end; as it is used, if
            left out.
        objective: what is compared: end points, or the teacher's way too; the method's own if left out.
            See :mod:`s4s_nb.learn.objectives`.
        embed: in which space end points are; the method's own if left out, which mostly is the model's:
            LPIPS of images. See :mod:`s4s_nb.learn.embeddings`.
        set_weight: of a term that brings the moments of a batch's classifier features to the teacher's;
            see :mod:`s4s_nb.learn.problem`.
        student: (start, nfe, grid, order, …) → a form of your own instead of the method's, or that with
            other options, as ``partial(distilled_student, scale=False)`` or
            :func:`s4s_nb.learn.designer.designer`.
        free_first: one step more for the same evaluations, its answer at the first level replaced by the
            stored mean of the model's own (:meth:`s4s_nb.models.Model.first_answer`); counted as "5 + 1".
        held: what a model level of its own means (:func:`s4s_nb.levels.decoupled`); LD3 and GS hold the
            noise, the methods here the data unless they are LD3's or the paper's.
        pairs, validation_pairs: how many pairs of the teacher to learn from and to choose by; the method's
            numbers, or half as many.
        out: the file to write, .safetensors; pairs and progress are kept in a folder beside it, from which
            a run that was stopped goes on.
        seed: which noises are learned from (:data:`s4s_nb.pairs.PER_SEED`), and the order of batches.
        batch: samples at a time.
        progress: whether bars are shown.
        options: of :func:`s4s_nb.learn.loop.learn_student`: optimiser, turns, rounds, iterations, radius,
            and those of the optimiser itself.

    Returns:
        A :class:`s4s_nb.learn.loop.Result`: ``solver``, the table; ``student``, the module that it is of;
        ``history`` and ``record`` of the learning; ``plot()``.

    Raises:
        InputError: an unknown name, too few or too many pairs, a single step where levels are to be
            learned, a file name that is no .safetensors, a folder that belongs to another run, or images
            of the teacher out of the range that LPIPS takes.

    Example:
        >>> result = learn(load("fashion"), nfe=5, out="five.safetensors")
        >>> sample(load("fashion"), result.solver, count=16)
    """
    recipe = choose(METHODS, method, "method").of(options.get("turns"))
    order = recipe.order if order is None else order
    objective, embed = objective or recipe.objective, embed or recipe.embed
    aim, space = choose(OBJECTIVES, objective, "objective"), embedding_of(model, embed)
    features = embedding_of(model, "classifier") if set_weight else None
    if not isinstance(free_first, bool):
        raise InputError(f"free_first is True or False; got {free_first!r}.")
    check_whole(nfe=nfe, order=1 if order == "all" else order, pairs=pairs, seed=seed, batch=batch)
    count, others = how_many(recipe, model.in_pixels, pairs, validation_pairs)
    if grid is not None:
        choose(dict.fromkeys(GRID_NAMES), grid, "grid")
    file = solver_file(out)
    start, grid = start or recipe.start, grid or recipe.grid
    starts, grids = [start] if start else list(STARTS), [grid] if grid else list(GRIDS)
    ends = (end,)
    if isinstance(end, str):
        choose({"race": 0, "learn": 0}, end, "way to choose a last level")
        ends = last_levels(model.sigma_max, model.sigma_min)
    first = model.first_answer() if free_first else None
    built = partial(
        student_for,
        student or recipe.student,
        model,
        nfe=nfe + free_first,
        order=order,
        consistent=consistent,
        lower_final=lower_final,
        free_end=end == "learn",
        first=first,
        held=held or recipe.held,
    )
    tool = recipe.tool(options.get("optimiser"), options.get("radius"))  # before minutes of the teacher
    for each in starts:
        recipe.plan(built(start=each, grid=grids[0], end=ends[0]))
    work = file.with_suffix(".work") if file else None
    kind = teacher_ways if aim.way else teacher_pairs
    made = partial(kind, model, own_teacher(model, recipe.teacher), seed, work, progress)
    train, validation = made("train", count), made("validation", others)
    if embed == "lpips" or (embed == "own" and model.embedding is None and model.has_images):
        check_range(model.pictures(model.images(validation.targets)))
    what = {"objective": objective, "schedule": model.schedule}
    what |= {"features": features, "set_weight": set_weight}
    problem = Problem(model.denoise, train, validation, space, batch, **what)
    start, grid, end = picked(model, problem, nfe + free_first, starts, grids, ends, work, first)
    here = built(start=start, grid=grid, end=end)
    begun = begin(problem, here, recipe.begins, work, progress) if recipe.begins else {}
    if tool.relaxed:  # of first order, by batches in a random order
        options = {"seed": seed, **options}
    state = work / f"{method}.safetensors" if work else None
    result = learn_student(problem, here, method, state_file=state, progress=progress, **options)
    moved = bool(begun) or any(getattr(here, part).any() for part in ("levels", "offsets"))
    ends = [float(result.solver.sigmas[0]), float(result.solver.sigmas[-1])]
    record = {
        "model": model.name,
        "made_for": model.conventions,
        "ends": ends,
        "order": order,
        "seed": seed,
    }
    record |= {"grid": f"{grid}, moved" if moved else grid, **begun}
    record |= {"embed": embed} if embed != "own" else {}
    record |= {"teacher": list(recipe.teacher)} if recipe.teacher else {}
    solver = replace(result.solver, info={**result.solver.info, **record})
    if file:
        solver.save(file)
    return replace(result, solver=solver)


def check_whole(**numbers: Any) -> None:
    """:class:`InputError` unless those that are given are whole numbers above 0, a seed at least 0."""
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or value < (name != "seed")):
            raise InputError(f"{name} is a whole number above 0 (a seed may be 0); got {value!r}.")


def how_many(
    recipe: Method, in_pixels: bool, pairs: int | None, validation_pairs: int | None
) -> tuple[int, int]:
    """Pairs to learn from and to choose by: those asked for, or the method's."""
    own = recipe.pairs if in_pixels else recipe.latent_pairs or recipe.pairs
    count = own if pairs is None else pairs
    own = recipe.validation if pairs is None and recipe.validation else count // 2
    others = own if validation_pairs is None else validation_pairs
    if not (2 <= count <= PER_SEED and 1 <= others <= PER_SEED):
        raise InputError(
            f"Learning takes 2 to {PER_SEED:,} pairs, half as many more validate; got {count} and {others}."
        )
    return count, others


def begin(
    problem: Problem, student: Student, method: str, work: Path | None, progress: bool
) -> dict[str, Any]:
    """Move a student to the levels of another method, by its own recipe and on as many pairs as its paper
    has; returns what the record says of it."""
    few = replace(problem, train=problem.train[:BEGUN_FROM], validation=problem.validation[:BEGUN_FROM])
    state = work / f"{method}.safetensors" if work else None
    record = learn_student(few, student, method, method, state_file=state, progress=progress).record
    kept = ("optimiser", "pairs", "validation_pairs", "radius", "validation_start", "validation_best")
    return {"begun_by": {"method": method, **{key: record[key] for key in kept}}}


def picked(
    model,
    problem: Problem,
    nfe: int,
    starts: list[str],
    grids: list[str],
    ends: Sequence[float | None],
    work: Path | None,
    first: FreeFirst | None,
) -> Start:
    """The only start, grid and last level, or those that a race picks; its pick is kept for a run that goes
    on."""
    if len(starts) == len(grids) == len(ends) == 1:
        return starts[0], grids[0], ends[0]
    asked = {"nfe": nfe, "starts": starts, "grids": grids, "ends": list(ends), **problem.identity()}
    asked |= {} if first is None else {"free_first": digest(first.means)}
    kept = work / "race.json" if work else None
    known = read_json(kept) if kept and kept.exists() else {}
    if isinstance(known, dict) and same_run(known.get("asked"), asked):
        choice = known.get("picked", {})
        for one in product(starts, grids, ends):
            if choice == dict(zip(("start", "grid", "end"), one, strict=True)):
                return one
    objective = "trajectory" if problem.aim.cut else problem.objective  # a race is by Gauss–Newton
    few = replace(problem, train=problem.train[:RACE_PAIRS], objective=objective)
    start, grid, end = best_start(few, model.grid, nfe, model.schedule, grids, starts, ends, first)
    if kept:
        write_json(kept, {"asked": asked, "picked": {"start": start, "grid": grid, "end": end}})
    return start, grid, end


def student_for(
    form: Callable[..., Student],
    model,
    start: str,
    grid: str,
    end: float | None,
    nfe: int,
    order: int | Literal["all"],
    consistent: bool,
    lower_final: bool | None,
    free_end: bool,
    first: FreeFirst | None,
    held: str | None,
) -> Student:
    """The student of a model around a classic solver on a named grid with its last level."""
    lower = STARTS.get(start, False) if lower_final is None else lower_final
    places = {"schedule": model.schedule, "free_end": free_end, "free_first": first}
    places |= {"held": held} if held else {}
    options = {"order": order, "consistent": consistent, "lower_final": lower}
    return form(start=start, nfe=nfe, grid=model.grid(grid, end), **options, **places)


def solver_file(out: Path | str | None) -> Path | None:
    """Where the solver is written; :class:`InputError` for a folder or another ending than .safetensors."""
    if out is None:
        return None
    file = Path(out)
    if not file.name or file.is_dir():
        raise InputError(f"{out} is a folder; give the name of a .safetensors file.")
    file = file if file.suffix else file.with_suffix(".safetensors")
    if file.suffix != ".safetensors":
        raise InputError(f"A solver is written as .safetensors; {out} has another ending.")
    return file

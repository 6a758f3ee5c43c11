"""The classical opponents, each at its best: every solver on every grid, with the last level that suits it.

A last level is chosen as a start of learning is, on validation noises, and judged as all solvers are, on
test noises. :func:`compare` has them beside the learned solvers and the teacher.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import torch

from s4s_nb.classic import AS_USED, make_solver
from s4s_nb.comparison import Comparison
from s4s_nb.denoisers import Denoiser, examined
from s4s_nb.distances import lpips_distance, rmse
from s4s_nb.errors import DivergedError, choose
from s4s_nb.evaluate import Judged, Target, checked, evaluate_teacher, judged, pairwise, target_of
from s4s_nb.grids import GRID_NAMES, GRIDS, TRIED, last_levels
from s4s_nb.pairs import Pairs, run
from s4s_nb.runtime import bar
from s4s_nb.solvers import Solver

SHOWN = 10
"""Images a row of the picture."""


@lru_cache(maxsize=2)
def trial_of(model: Judged) -> tuple[Denoiser, Pairs, Target]:
    """The denoiser, looked at once; pairs of the teacher to try solvers on, and their images."""
    pairs = model.pairs("validation", TRIED, progress=False)
    images = model.images(pairs.targets)
    denoise = examined(model.denoise, pairs.starts, model.teacher().model_sigmas[0], pairs.cond)
    return denoise, pairs, Target(images, model.pictures(images))


def trial_distance(model: Judged, solver: Solver) -> float:
    """Mean LPIPS to the teacher on the validation noises, or RMSE where there are no images; infinity where
    the solver blows up."""
    denoise, pairs, target = trial_of(model)
    try:
        images = model.images(run(denoise, pairs.starts, solver, pairs.cond))
        if not model.has_images:
            return float(torch.nan_to_num(rmse(images, target.images).mean(), nan=torch.inf))
        pictures, distance = model.pictures(images), lpips_distance(str(images.device))
        return float(pairwise(distance, pictures, target.pictures).mean())
    except DivergedError:
        return float("inf")


def at_its_best(
    model: Judged, name: str, nfe: int, grid: str, lower_final: bool = False, ends: Sequence[float] = ()
) -> Solver:
    """A classic solver on a grid with that last level which brings it nearest to the teacher.

    Each level is tried on :data:`TRIED` validation noises; with four of them that is as much as 80 more
    test noises, and once 20 noises of the teacher for all solvers.

    Args:
        ends: the last levels to choose from; :func:`s4s_nb.grids.last_levels` of the model if none is
            given.
    """
    levels = ends or last_levels(model.sigma_max, model.sigma_min)
    solvers = [make_solver(name, nfe, model.grid(grid, end), lower_final, model.schedule) for end in levels]
    return (
        min(solvers, key=lambda solver: trial_distance(model, solver)) if len(solvers) > 1 else solvers[0]
    )


def classical(
    model: Judged, nfe: int, grids: Iterable[str], ends: Sequence[float] = ()
) -> Iterator[tuple[dict[str, str], Solver]]:
    """The solvers of papers and libraries, as they are used, on every grid, with what rows call them."""
    for grid in grids:
        for label, (name, lower_final) in AS_USED.items():
            solver = at_its_best(model, name, nfe, grid, lower_final, ends)
            yield {"solver": label, "kind": "classical", "grid": grid}, solver


def compare(
    model: Judged,
    nfe: int = 5,
    solvers: Sequence[Solver] = (),
    grids: Sequence[str] = tuple(GRIDS),
    samples: int = 500,
    seed: int = 0,
    ends: Sequence[float] = (),
    transfer: bool = False,
) -> Comparison:
    """Classical solvers as they are used, on every grid, beside ``solvers`` and the teacher.

    Args:
        nfe: evaluations of the classical solvers; ``solvers`` keep their own.
        solvers: learned ones, or any others.
        grids: where the classical ones step.
        samples, seed, transfer: as in :func:`s4s_nb.evaluate.evaluate`.
        ends: last levels from which each classical one has that which suits it (:func:`at_its_best`); a
            single one, as ``(model.sigma_min,)``, is that of all.

    Returns:
        A :class:`s4s_nb.comparison.Comparison`: ``rows`` as :func:`s4s_nb.evaluate.evaluate` gives them,
        with the last level as ``end``, printed as a table, and ``picture()``, a figure of the first images
        where there are any.

    Raises:
        InputError: an unknown grid, too few or too many samples, or a solver that is not for this model.

    Example:
        >>> print(compare(model, nfe=5, solvers=[result.solver]))
    """
    for grid in grids:  # before a bar of progress
        choose(dict.fromkeys(GRID_NAMES), grid, "grid")
    learned = [
        ({"solver": s.name, "kind": "learned", "grid": s.info.get("grid", "own")}, s)
        for s in (checked(model, solver, transfer) for solver in solvers)
    ]
    total = len(grids) * len(AS_USED)
    chosen = bar(
        classical(model, nfe, grids, ends), total=total, desc="choosing last levels", mininterval=1
    )
    return side_by_side(model, [*chosen, *learned], samples, seed)


def side_by_side(
    model: Judged, solvers: Sequence[tuple[dict[str, str], Solver]], samples: int = 500, seed: int = 0
) -> Comparison:
    """Solvers with their names, and the teacher, judged on the same noises."""
    rows, images = [], []
    known = target_of(model, samples, seed)  # the teacher, with a bar of its own
    for names, solver in bar(solvers, desc="comparing", mininterval=1):
        row, data = judged(model, solver, samples, seed)
        rows.append({"model": model.name, **names, "end": float(solver.sigmas[-1]), **row})
        images.append(model.pictures(data[:SHOWN]))
    names = {"model": model.name, "solver": "teacher", "kind": "teacher", "grid": "own"}
    end = float(model.teacher().sigmas[-1])
    rows.append({**names, "end": end, **evaluate_teacher(model, samples, seed)})
    images.append(known.pictures[:SHOWN])
    return Comparison(rows, images)

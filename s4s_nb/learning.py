"""Learning a solver for a bundled model from beginning to end: pairs, learning, judging, one file."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from s4s_nb.alternate import learn_in_phases, plan
from s4s_nb.errors import InputError, choose
from s4s_nb.families import make_family
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.judge import check_count, judge
from s4s_nb.ld3 import learn_ld3
from s4s_nb.learn import Learned, learn_s4s
from s4s_nb.pair_store import PairStore
from s4s_nb.quasi_newton import learn_bfgs
from s4s_nb.teachers import PER_SEED, Pairs
from s4s_nb.times import Joint
from s4s_nb.zoo import ImageModel

OPTIMISERS = ("gauss-newton", "bfgs", "adam")
BFGS_STEPS = 5
"""For each iteration of Gauss–Newton."""


def learn_to_file(
    model: ImageModel,
    out: Path,
    start: str,
    nfe: int,
    grid: str,
    order: int = 3,
    lower_final: bool = False,
    method: str = "s4s",
    optimiser: str = "gauss-newton",
    alternations: int = 8,
    pairs: int = 80,
    samples: int = 500,
    seed: int = 0,
) -> dict:
    """Make the teacher's pairs, learn around a classic solver, judge on test noises, write the solver.

    Pairs and progress are kept in a folder beside ``out``, from which a killed run goes on. Returns the
    row that ``evaluate`` would give; the file's ``info`` has it too.

    Args:
        method: s4s learns the coefficients, ld3 the levels and the model's levels, joint all at once,
            s4s-alt the two in turns, ``alternations`` times: one iteration of Gauss–Newton, five of
            BFGS, or one epoch of Adam, a turn.
        optimiser: gauss-newton; bfgs, for many pairs; or adam, for ld3 that is its own recipe
            (:mod:`s4s_nb.ld3`).
        seed: which noises are learned from (:data:`s4s_nb.teachers.PER_SEED`), and Adam's order of them.

    Raises:
        InputError: an unknown name, too few or too many pairs, a single step where levels are to be
            learned, a file name that is no .safetensors, or a folder that belongs to another run.
    """
    choose(dict.fromkeys(OPTIMISERS), optimiser, "optimiser")
    if out.suffix != ".safetensors":
        raise InputError(f"A solver is written as .safetensors; {out} has another ending.")
    if not 2 <= pairs <= PER_SEED:
        raise InputError(
            f"Learning takes 2 to {PER_SEED:,} pairs, half as many more validate; got {pairs}."
        )
    check_count(model, samples)
    family = make_family(start, nfe, model.grid(grid), order, lower_final=lower_final)
    joint = Joint(family, schedule=model.setting.schedule)
    phases = plan(method, joint, alternations)
    work = out.with_suffix(".work")
    train, validation = (
        stored_pairs(model, work, split, count, seed)
        for split, count in (("train", pairs), ("validation", pairs // 2))
    )
    learner = learner_of(model, joint, method, optimiser, seed)
    learner = partial(learner, train=train, validation=validation)
    solver, _, _ = learn_in_phases(joint, phases, learner, work / f"{method}-{optimiser}-{model.side}")
    row, _ = judge(model, solver, samples, title="test")
    names = {"model": model.name, "solver": solver.name, "kind": "learned"}
    row = {**names, "grid": grid if method == "s4s" else f"{grid}, moved", **row}
    record = {
        "method": method if optimiser == "gauss-newton" else f"{method}-{optimiser}",
        "model": model.name,
        "grid": row["grid"],
        "order": order,
        "side": model.side,
    }
    info = {**solver.info, **record, "quality": row}
    replace(solver, info=info).save(out)
    return row


def learner_of(
    model: ImageModel,
    joint: Joint,
    method: str,
    optimiser: str,
    seed: int = 0,
    iterations: int = 5,
    epochs: int = 10,
) -> Callable[..., Learned]:
    """What learns one phase of a method: one iteration or epoch of it where phases alternate, or
    :data:`BFGS_STEPS`."""
    in_turns = method == "s4s-alt"
    count = 1 if in_turns else iterations
    if optimiser == "gauss-newton":
        return partial(learn_gauss_newton, model.denoise, embed=model.embed, iterations=count)
    if optimiser == "bfgs":
        return partial(learn_bfgs, model.denoise, embed=model.embed, iterations=BFGS_STEPS * count)
    first_order = {"distance": model.distance, "seed": seed}
    if method == "ld3":  # its one phase is all that the joint family can move but the coefficients
        return lambda _, **given: learn_ld3(model.denoise, joint, **first_order, **given)
    recipe = {"epochs": 1, "batch": 40} if in_turns else {"epochs": epochs, "batch": 20}  # the paper's
    return partial(learn_s4s, model.denoise, **recipe, **first_order)


def stored_pairs(model: ImageModel, work: Path, split: str, count: int, seed: int) -> Pairs:
    """The teacher's pairs of a split, made where they are missing."""
    store = PairStore(work / split, model, model.teacher(), count, split, shard=20, first=seed * PER_SEED)
    store.make(f"teacher, {split}")
    return store.load()

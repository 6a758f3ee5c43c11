"""Learning a solver for a bundled model from beginning to end: pairs, learning, judging, one file."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from s4s_nb.alternate import METHODS, Learner, learn_in_phases, plan
from s4s_nb.errors import InputError, choose
from s4s_nb.families import make_family
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.judge import check_count, judge
from s4s_nb.learn import learn_s4s
from s4s_nb.pair_store import PairStore
from s4s_nb.teachers import Pairs
from s4s_nb.times import Joint
from s4s_nb.zoo import ImageModel

OPTIMISERS = ("gauss-newton", "adam")


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
            s4s-alt the two in turns, ``alternations`` times: one iteration of Gauss–Newton, or one
            epoch of Adam, a turn.

    Raises:
        InputError: an unknown name, fewer than two pairs, a file name that is no .safetensors, or a
            folder that belongs to another run.
    """
    choose(dict.fromkeys(OPTIMISERS), optimiser, "optimiser")
    choose(dict.fromkeys(METHODS), method, "method")
    if out.suffix != ".safetensors":
        raise InputError(f"A solver is written as .safetensors; {out} has another ending.")
    if pairs < 2:
        raise InputError(f"Learning needs at least two pairs, one more to validate on; got {pairs}.")
    check_count(model, samples)
    family = make_family(start, nfe, model.grid(grid), order, lower_final=lower_final)
    joint = Joint(family, schedule=model.setting.schedule)
    work = out.with_suffix(".work")
    train, validation = (
        stored_pairs(model, work, split, count)
        for split, count in (("train", pairs), ("validation", pairs // 2))
    )
    in_turns = method == "s4s-alt"
    learner: Learner
    if optimiser == "adam":
        epochs = 1 if in_turns else 10
        learner = partial(learn_s4s, model.denoise, distance=model.distance, epochs=epochs, seed=seed)
    else:
        iterations = 1 if in_turns else 5
        learner = partial(learn_gauss_newton, model.denoise, embed=model.embed, iterations=iterations)
    solver, _, _ = learn_in_phases(
        joint,
        plan(method, joint, alternations),
        partial(learner, train=train, validation=validation),
        work / f"{method}-{optimiser}",
    )
    row, _ = judge(model, solver, samples, title="test")
    names = {"model": model.name, "solver": solver.name, "kind": "learned"}
    row = {**names, "grid": grid if method == "s4s" else f"{grid}, moved", **row}
    record = {"method": method, "model": model.name, "grid": row["grid"], "order": order}
    info = {**solver.info, **record, "quality": row}
    replace(solver, info=info).save(out)
    return row


def stored_pairs(model: ImageModel, work: Path, split: str, count: int) -> Pairs:
    """The teacher's pairs of a split, made where they are missing."""
    store = PairStore(work / split, model, model.teacher(), count, split, shard=20)
    store.make(f"teacher, {split}")
    return store.load()

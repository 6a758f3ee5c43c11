"""Learning a solver for a bundled model from beginning to end: pairs, learning, judging, one file."""

from dataclasses import replace
from pathlib import Path

from s4s_nb.errors import InputError, choose
from s4s_nb.families import make_family
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.judge import check_count, judge
from s4s_nb.learn import learn_s4s
from s4s_nb.pair_store import PairStore
from s4s_nb.teachers import Pairs
from s4s_nb.zoo import ImageModel

METHODS = ("s4s",)
OPTIMISERS = ("gauss-newton", "adam")


def learn_to_file(
    model: ImageModel,
    out: Path,
    start: str,
    nfe: int,
    grid: str,
    order: int = 3,
    lower_final: bool = False,
    optimiser: str = "gauss-newton",
    pairs: int = 80,
    samples: int = 500,
    seed: int = 0,
) -> dict:
    """Make the teacher's pairs, learn around ``start``, judge on test noises, and write the solver.

    Pairs and progress are kept in a folder beside ``out``, from which a killed run goes on. Returns the
    row that ``evaluate`` would give; the file's ``info`` has it too.

    Raises:
        InputError: an unknown name, fewer than two pairs, a file name that is no .safetensors, or a
            folder that belongs to another run.
    """
    choose(dict.fromkeys(OPTIMISERS), optimiser, "optimiser")
    if out.suffix != ".safetensors":
        raise InputError(f"A solver is written as .safetensors; {out} has another ending.")
    if pairs < 2:
        raise InputError(f"Learning needs at least two pairs, one more to validate on; got {pairs}.")
    check_count(model, samples)
    family = make_family(start, nfe, model.grid(grid), order, lower_final=lower_final)
    work = out.with_suffix(".work")
    train, validation = (
        stored_pairs(model, work, split, count)
        for split, count in (("train", pairs), ("validation", pairs // 2))
    )
    state_file = work / f"{optimiser}.safetensors"
    if optimiser == "adam":
        learned = learn_s4s(
            model.denoise, family, train, validation, model.distance, seed=seed, state_file=state_file
        )
    else:
        learned = learn_gauss_newton(
            model.denoise, family, train, validation, model.embed, state_file=state_file
        )
    row, _ = judge(model, learned.solver, samples, title="test")
    row = {"model": model.name, "solver": learned.solver.name, "kind": "learned", "grid": grid, **row}
    info = {**learned.solver.info, "model": model.name, "grid": grid, "order": order, "quality": row}
    replace(learned.solver, info=info).save(out)
    return row


def stored_pairs(model: ImageModel, work: Path, split: str, count: int) -> Pairs:
    """The teacher's pairs of a split, made where they are missing."""
    store = PairStore(work / split, model, model.teacher(), count, split, shard=20)
    store.make(f"teacher, {split}")
    return store.load()

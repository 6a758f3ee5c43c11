"""The command line, ``s4s-nb``: exit status 0 on success, 2 on bad usage or input, 1 on failure."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from s4s_nb.classic import NAMES, ClassicName
from s4s_nb.comparison import as_table
from s4s_nb.errors import InputError
from s4s_nb.evaluate import check_count, evaluate, evaluate_teacher, sample
from s4s_nb.grids import GRIDS, GridName
from s4s_nb.learn import learn
from s4s_nb.learn.methods import OptimiserName
from s4s_nb.models.bundled import NetworkName, find_solver
from s4s_nb.models.cards import cards, listing
from s4s_nb.opponents import compare
from s4s_nb.options import (
    Device,
    End,
    GridOption,
    Json,
    LowerFinal,
    MethodOption,
    ModelName,
    Nfe,
    Seed,
    Side,
    SolverName,
    StudyName,
    check_device,
    find_model,
    keep,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command("tour")
def tour_command(
    out: Annotated[Path, typer.Option(help="Folder for picture, table and solvers.")] = Path("runs/tour"),
    model: Annotated[str, typer.Option(help="A bundled model.")] = "fashion",
    grid: GridOption = "logsnr",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """The main job: learn two 5-evaluation solvers for a bundled model; one picture, one table."""
    from s4s_nb.studies.tour import TOLD, summary, tour

    result = tour(out, model, grid=grid, device=check_device(device))
    keep(json, result)
    typer.echo("\n" + as_table(result["rows"], TOLD) + "\n\n" + summary(result))
    learning = max(result["learning_seconds"].values())
    typer.echo(
        f"{result['total_seconds']:.0f} s, of which learning {learning:.0f} s."
        f" Picture, table and solvers are in {out}/."
    )


@app.command("models")
def models_command(
    time: Annotated[
        bool, typer.Option("--time", help="Also measure milliseconds on this machine.")
    ] = False,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """What is bundled, and how good it is."""
    rows = cards(check_device(device) if time else None)
    keep(json, rows)
    typer.echo(listing(rows))


@app.command("train")
def train_command(
    model: Annotated[NetworkName, typer.Option(help="A bundled network.")],
    dataset: Annotated[Path | None, typer.Option(help="Local .npz; fetched when left out.")] = None,
    state: Annotated[Path | None, typer.Option(help="Where progress is kept, to resume from.")] = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Of batches and noise.", min=0)] = 0,
) -> None:
    """Train a bundled network from its image set and write its files of data/.

    Resumable; several GPUs by torchrun --nproc-per-node N -m s4s_nb.cli train --model …
    """
    from s4s_nb.training.bundle import train_network

    state = state or Path("runs/train") / f"{model}.safetensors"
    train_network(model, dataset, state, check_device(device), seed)


@app.command("teacher")
def teacher_command(
    out: Annotated[Path, typer.Option(help="Folder of the pairs; goes on where it was left.")],
    model: ModelName = "fashion",
    pairs: Annotated[int, typer.Option(help="How many.", min=1)] = 700,
    split: Annotated[Literal["train", "validation"], typer.Option(help="Noises of which split.")] = "train",
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Store pairs of noise seeds and the teacher's end points in shards; resumable.

    Several GPUs by torchrun --nproc-per-node N -m s4s_nb.cli teacher …
    """
    from s4s_nb.pairs import PER_SEED, PairStore

    loaded = find_model(model, check_device(device))
    store = PairStore(out, loaded, loaded.teacher(), pairs, split, first=seed * PER_SEED)
    store.make()
    keep(json, store.manifest() | {"pairs": pairs})
    typer.echo(f"{pairs} pairs of {model}, {store.teacher.nfe} evaluations each, are in {out}/.")


@app.command("learn")
def learn_command(
    out: Annotated[Path, typer.Option(help="The solver file to write (.safetensors).")],
    model: ModelName = "fashion",
    method: MethodOption = "joint",
    start: Annotated[
        ClassicName | None,
        typer.Option("--start", "--family", help="Classic solver to start from; a race picks one."),
    ] = None,
    grid: Annotated[GridName | None, typer.Option(help="Grid to start from; a race picks one.")] = None,
    order: Annotated[int, typer.Option(help="How many past outputs a step may mix.", min=1)] = 3,
    nfe: Nfe = 5,
    lower_final: Annotated[
        bool | None, typer.Option(help="Start with the order lowered at the end; as the solver is used.")
    ] = None,
    optimiser: Annotated[
        OptimiserName | None, typer.Option(help="The method's own if left out; adam for ld3 is LD3's.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", "--alternations", help="Of the turns of s4s-alt.", min=1)
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Of the optimiser in a turn.", min=1)] = None,
    radius: Annotated[
        float | None, typer.Option(help="Of relaxed starts, in units of unit noise; for adam.", min=0)
    ] = None,
    side: Side = 128,
    pairs: Annotated[int | None, typer.Option(help="Teacher pairs; half as many more validate.")] = None,
    samples: Annotated[int, typer.Option(help="Test noises that the result is judged on.")] = 500,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Learn a solver, judge it and write it to a file; resumable. The defaults are the best recipe.

    Pairs and progress are kept beside the file, in a folder that ends in .work.
    """
    check_count(samples)
    loaded = find_model(model, check_device(device), side)
    how = {"start": start, "grid": grid, "order": order, "lower_final": lower_final, "pairs": pairs}
    how |= {"optimiser": optimiser, "rounds": rounds, "iterations": iterations, "radius": radius}
    result = learn(loaded, nfe, method, out=out, seed=seed, **how)
    solver = result.solver
    names = {"model": model, "solver": solver.name, "kind": "learned", "grid": solver.info["grid"]}
    row = {**names, **evaluate(loaded, solver, samples, title="test")}
    replace(solver, info={**solver.info, "side": side, "quality": row}).save(out)
    keep(json, row)
    typer.echo(as_table([row]) + f"\n\n{learned(result.record)} The solver is in {out}.")


def learned(record: dict[str, Any]) -> str:
    """What a learning did, in a sentence."""
    before, after = record["validation_start"], record["validation_best"]
    if record["kept"] == "start":
        return f"No gain above its own error on the validation pairs: {record['start']} stays as it is."
    return f"From {record['start']} the validation distance went from {before:.4g} to {after:.4g}."


@app.command("study")
def study_command(
    name: Annotated[
        StudyName,
        typer.Argument(
            help="uniform: S4S against its start, everywhere; alt: S4S-Alt and all other methods;"
            " seeds: other draws of the pairs; transfer: solvers used where they were not learned;"
            " optimisers: what Gauss-Newton and Adam cost;"
            " ablations: what each choice does."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Default: runs/NAME.json; goes on from it.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this setting; may be repeated.")] = None,
    nfe: Annotated[list[int] | None, typer.Option(help="Only this NFE; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Settings at a time, sharing the cores.")] = 1,
    device: Device = "cpu",
) -> None:
    """Make a table of results over all settings, cell by cell; resumable; hours."""
    from s4s_nb.studies.settings import study

    only = {key: value for key, value in {"settings": model, "nfes": nfe}.items() if value}
    typer.echo(study(name, out, jobs, device=check_device(device), **only))


@app.command("sample")
def sample_command(
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    model: ModelName = "fashion",
    solver: SolverName = "teacher",
    nfe: Nfe = 5,
    grid: GridOption = "logsnr",
    lower_final: LowerFinal = False,
    end: End = None,
    count: Annotated[int, typer.Option(help="How many images.", min=1)] = 100,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Write a picture of samples from the test noises, ten a row."""
    from s4s_nb.pictures import save_samples

    loaded = find_model(model, check_device(device))
    table = find_solver(loaded, solver, nfe, grid, lower_final, end)
    save_samples(out, loaded.pictures(sample(loaded, table, count, seed)))
    typer.echo(f"{count} samples of {table.name} at {table.nfe} NFE are in {out}.")


@app.command("evaluate")
def evaluate_command(
    model: ModelName = "fashion",
    solver: SolverName = "teacher",
    nfe: Nfe = 5,
    grid: GridOption = "logsnr",
    lower_final: LowerFinal = False,
    end: End = None,
    samples: Annotated[int, typer.Option(help="How many test noises.")] = 500,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Judge a solver on held-out noise: distances to the teacher and to the real images."""
    check_count(samples)
    loaded = find_model(model, check_device(device))
    if solver == "teacher":
        names = {"solver": solver, "kind": "teacher", "grid": "own"}
        row = evaluate_teacher(loaded, samples, seed)
    else:
        table = find_solver(loaded, solver, nfe, grid, lower_final, end)
        kind = "learned" if "method" in table.info else "classical"
        where = grid if solver in NAMES else table.info.get("grid", "own")
        names = {"solver": table.name, "kind": kind, "grid": where}
        row = evaluate(loaded, table, samples, seed, title=table.name)
    row = {"model": model, **names, **row}
    keep(json, row)
    typer.echo(as_table([row]))


@app.command("compare")
def compare_command(
    model: ModelName = "fashion",
    solver: Annotated[
        list[str] | None, typer.Option(help="A bundled solver or a file; may be repeated.")
    ] = None,
    nfe: Nfe = 5,
    grid: Annotated[list[str] | None, typer.Option(help="Only this grid; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(help="How many test noises.")] = 500,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the picture to this PNG.")] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Solvers beside the classical ones on every grid, and the teacher: table and picture."""
    from s4s_nb.pictures import save_figure

    check_count(samples)
    loaded = find_model(model, check_device(device))
    own = [find_solver(loaded, name, nfe, "karras") for name in solver or []]
    comparison = compare(loaded, nfe, own, grid or tuple(GRIDS), samples, seed)
    keep(json, comparison.rows)
    typer.echo(str(comparison))
    if out:
        save_figure(out, comparison.picture())


@app.command("bench")
def bench_command(json: Json = None) -> None:
    """The benchmarks, as ratios."""
    from s4s_nb.studies.bench import benchmarks

    rows = benchmarks()
    keep(json, rows)
    for row in rows:
        typer.echo(f"{row['name']}: {row['ratio']:.3f} (at most {row['limit']})")


def main() -> None:
    """Entry point: an :class:`InputError` becomes one sentence on standard error and status 2."""
    try:
        app()
    except InputError as error:
        print(f"s4s-nb: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

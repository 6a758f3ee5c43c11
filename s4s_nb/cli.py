"""The command line, ``s4s-nb``: exit status 0 on success, 2 on bad usage or input, 1 on failure, 130 on an
interrupt. Whatever can be checked is checked before the work; a result is printed, then written."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from s4s_nb import __version__
from s4s_nb.atomic import check_ordinary, check_writable
from s4s_nb.boundary import Commands, prepare
from s4s_nb.classic import NAMES, ClassicName
from s4s_nb.comparison import as_table
from s4s_nb.errors import InputError
from s4s_nb.evaluate import check_count, evaluate, evaluate_teacher, sample
from s4s_nb.grids import GRIDS, GridName
from s4s_nb.learn import learn, solver_file
from s4s_nb.learn.designer import designer
from s4s_nb.learn.optimiser import OptimiserName
from s4s_nb.making import making
from s4s_nb.models.cards import cards, listing
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.opponents import compare
from s4s_nb.options import (
    Device,
    EmbedOption,
    End,
    Free,
    GridOption,
    Json,
    LowerFinal,
    MethodOption,
    ModelName,
    Nfe,
    NfeOfOne,
    ObjectiveOption,
    Samples,
    Seed,
    SettingName,
    SetWeight,
    Side,
    SolverName,
    Transfer,
    check_device,
    find_model,
    one_solver,
    picture_file,
    tell,
)
from s4s_nb.pairs import PER_SEED

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def print_version(asked: bool) -> bool:
    """Print the version and exit, if asked."""
    if asked:
        typer.echo(__version__)
        raise typer.Exit
    return asked


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Learn the solver of a diffusion model, judge it, and compare it with the classic ones."""


@app.command("tour")
def tour_command(
    out: Annotated[Path, typer.Option(help="Folder for picture, table and solvers.")] = Path("runs/tour"),
    model: Annotated[SettingName, typer.Option(help="A bundled model.")] = "fashion",
    grid: GridOption = "logsnr",
    device: Device = None,
    json: Json = None,
) -> None:
    """The main job: learn two 5-evaluation solvers for a bundled model; one picture, one table."""
    from s4s_nb.studies.tour import TOLD, summary, tour, written

    check_writable(*written(out), json)
    result = tour(out, model, grid=grid, device=check_device(device))
    learning = max(result["learning_seconds"].values())
    text = (
        f"\n{as_table(result['rows'], TOLD)}\n\n{summary(result)}"
        f"\n{result['total_seconds']:.0f} s, of which learning {learning:.0f} s."
        f" Picture, table and solvers are in {out}/."
    )
    tell(text, json, result)


@app.command("models")
def models_command(
    time: Annotated[
        bool, typer.Option("--time", help="Also measure milliseconds on this machine.")
    ] = False,
    device: Device = None,
    json: Json = None,
) -> None:
    """What is bundled, and how good it is."""
    check_writable(json)
    rows = cards(check_device(device) if time else None)
    tell(listing(rows), json, rows)


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
    order: Annotated[
        int | None, typer.Option(help="Past outputs that a step may mix; the method's own.", min=1)
    ] = None,
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
    designed: Annotated[
        bool,
        typer.Option("--designer", help="For dlms: every sample gets its own coefficients and levels."),
    ] = False,
    objective: ObjectiveOption = None,
    embed: EmbedOption = None,
    set_weight: SetWeight = 0.0,
    free_first: Free = False,
    side: Side = None,
    pairs: Annotated[int | None, typer.Option(help="Teacher pairs; half as many more validate.")] = None,
    samples: Samples = 500,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Learn a solver, judge it and write it to a file; resumable. The defaults are the best recipe.

    Pairs and progress are kept beside the file, in a folder that ends in .work.
    """
    check_count(samples)
    check_ordinary(out)
    file = solver_file(out) or out
    check_writable(file, file.with_suffix(".work") / "race.json", json)
    if radius is not None and not math.isfinite(radius):
        raise InputError(f"A radius is a finite number; got {radius}.")
    loaded = find_model(model, device, side)
    how = {"start": start, "grid": grid, "order": order, "lower_final": lower_final, "pairs": pairs}
    if designed and (method != "dlms" or start):
        raise InputError("A designer is of method dlms, and has its own start: --method dlms, no --start.")
    how |= {"student": designer(loaded) if designed else None}
    how |= {"objective": objective, "embed": embed, "set_weight": set_weight}
    how |= {"optimiser": optimiser, "rounds": rounds, "iterations": iterations, "radius": radius}
    how |= {"free_first": free_first}
    result = learn(loaded, nfe, method, out=file, seed=seed, **how)
    solver = result.solver
    names = {"model": model, "solver": solver.name, "kind": "learned", "grid": solver.info["grid"]}
    row = {**names, **evaluate(loaded, solver, samples, title="test")}
    replace(solver, info={**solver.info, "side": loaded.side, "quality": row}).save(file)
    tell(f"{as_table([row])}\n\n{learned(result.record)} The solver is in {file}.", json, row)


def learned(record: dict[str, Any]) -> str:
    """What a learning did, in a sentence."""
    before, after = record["validation_start"], record["validation_best"]
    if record["kept"] == "start":
        return f"No gain above its own error on the validation pairs: {record['start']} stays as it is."
    return f"From {record['start']} the validation distance went from {before:.4g} to {after:.4g}."


@app.command("sample")
def sample_command(
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    model: ModelName = "fashion",
    solver: SolverName = "teacher",
    nfe: NfeOfOne = None,
    grid: GridOption = "logsnr",
    lower_final: LowerFinal = False,
    end: End = None,
    free_first: Free = False,
    count: Annotated[int, typer.Option(help="How many images.", min=1, max=PER_SEED)] = 100,
    seed: Seed = 0,
    transfer: Transfer = False,
    device: Device = None,
) -> None:
    """Write a picture of samples from the test noises, ten a row."""
    from s4s_nb.pictures import save_samples

    file = picture_file(out)
    check_writable(file)
    loaded = find_model(model, device)
    table = one_solver(loaded, solver, nfe, grid, lower_final, end, free_first)
    if not loaded.has_images:
        raise InputError("There is no picture: the end states of this model are no images.")
    save_samples(file, loaded.pictures(sample(loaded, table, count, seed, transfer)))
    tell(f"{count} samples of {table.name} at {table.nfe} NFE are in {file}.")


@app.command("evaluate")
def evaluate_command(
    model: ModelName = "fashion",
    solver: SolverName = "teacher",
    nfe: NfeOfOne = None,
    grid: GridOption = "logsnr",
    lower_final: LowerFinal = False,
    end: End = None,
    free_first: Free = False,
    samples: Samples = 500,
    seed: Seed = 0,
    transfer: Transfer = False,
    device: Device = None,
    json: Json = None,
) -> None:
    """Judge a solver on held-out noise: distances to the teacher and to the real images."""
    check_count(samples)
    check_writable(json)
    loaded = find_model(model, device)
    table = one_solver(loaded, solver, nfe, grid, lower_final, end, free_first)
    if solver == "teacher":
        names = {"solver": solver, "kind": "teacher", "grid": "own"}
        row = evaluate_teacher(loaded, samples, seed)
    else:
        kind = "learned" if "method" in table.info else "classical"
        where = grid if solver in NAMES else table.info.get("grid", "own")
        names = {"solver": table.name, "kind": kind, "grid": where}
        row = evaluate(loaded, table, samples, seed, table.name, transfer)
    row = {"model": model, **names, **row}
    tell(as_table([row]), json, row)


@app.command("compare")
def compare_command(
    model: ModelName = "fashion",
    solver: Annotated[
        list[str] | None, typer.Option(help="A bundled solver or a file; may be repeated.")
    ] = None,
    nfe: Nfe = 5,
    grid: Annotated[list[str] | None, typer.Option(help="Only this grid; may be repeated.")] = None,
    samples: Samples = 500,
    seed: Seed = 0,
    transfer: Transfer = False,
    out: Annotated[Path | None, typer.Option(help="Also write the picture to this PNG.")] = None,
    device: Device = None,
    json: Json = None,
) -> None:
    """Solvers beside the classical ones on every grid, and the teacher: table and picture."""
    from s4s_nb.pictures import save_figure

    check_count(samples)
    file = picture_file(out) if out else None
    check_writable(file, json)
    loaded = find_model(model, device)
    own = [find_solver(loaded, name, nfe, "karras") for name in solver or []]
    if file and not loaded.has_images:
        raise InputError("There is no picture: the end states of this model are no images.")
    comparison = compare(loaded, nfe, own, grid or tuple(GRIDS), samples, seed, transfer=transfer)
    tell(str(comparison), json, comparison.rows)
    if file:
        save_figure(file, comparison.picture())


app.add_typer(making)


def main() -> None:
    """Entry point."""
    prepare()
    app()


if __name__ == "__main__":
    main()

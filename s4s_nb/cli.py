"""The command line, ``s4s-nb``: exit status 0 on success, 2 on bad usage or input, 1 on failure."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from s4s_nb.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")]
Seed = Annotated[int, typer.Option(help="Seed of everything random in the command.")]
Model = Annotated[str, typer.Option(help="Name of a bundled setting.")]
Name = Annotated[
    str,
    typer.Option("--solver", help="Classic or bundled (s4s, s4s-alt …), 'teacher', or a file."),
]
Nfe = Annotated[int, typer.Option(help="Evaluations of the denoiser, for a classic or a bundled solver.")]
GridName = Annotated[str, typer.Option("--grid", help="karras, logsnr, uniform, quadratic.")]
LowerFinal = Annotated[
    bool, typer.Option(help="Lower a classic solver's order at the end, as the tour does.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]


@app.command()
def tour(
    out: Annotated[Path, typer.Option(help="Folder for picture, table and solvers.")] = Path("runs/tour"),
    model: Model = "fashion",
    grid: GridName = "logsnr",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """The main job: learn two 5-evaluation solvers for a bundled model; one picture, one table."""
    from s4s_nb.files import write_json
    from s4s_nb.tour import as_table, summary
    from s4s_nb.tour import tour as run_tour

    result = run_tour(out, model, grid=grid, device=check_device(device))
    if json:
        write_json(json, result)
    typer.echo("\n" + as_table(result["rows"]) + "\n\n" + summary(result))
    learning = max(result["learning_seconds"].values())
    typer.echo(
        f"{result['total_seconds']:.0f} s, of which learning {learning:.0f} s."
        f" Picture, table and solvers are in {out}/."
    )


@app.command()
def models(json: Json = None) -> None:
    """What is bundled, and how good it is; milliseconds are measured on this machine."""
    from s4s_nb.files import write_json
    from s4s_nb.listing import as_text, listing

    rows = listing()
    if json:
        write_json(json, rows)
    typer.echo(as_text(rows))


@app.command()
def train(
    model: Annotated[str, typer.Option(help="Name of a bundled network.")],
    dataset: Annotated[Path | None, typer.Option(help="Local .npz; fetched when left out.")] = None,
    state: Annotated[Path | None, typer.Option(help="Where progress is kept, to resume from.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Train a bundled network from its image set and write its files of data/.

    Resumable; several GPUs by torchrun --nproc-per-node N -m s4s_nb.cli train --model …
    """
    from s4s_nb.bundling import train_network

    state = state or Path("runs/train") / f"{model}.safetensors"
    train_network(model, dataset, state, check_device(device), seed)


@app.command()
def teacher(
    out: Annotated[Path, typer.Option(help="Folder of the pairs; goes on where it was left.")],
    model: Model = "fashion",
    pairs: Annotated[int, typer.Option(help="How many.")] = 700,
    split: Annotated[str, typer.Option(help="Noises of which split: train or validation.")] = "train",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Store pairs of noise seeds and the teacher's end points in shards; resumable.

    Several GPUs by torchrun --nproc-per-node N -m s4s_nb.cli teacher …
    """
    from s4s_nb.files import write_json
    from s4s_nb.pair_store import PairStore
    from s4s_nb.zoo import load_model

    loaded = load_model(model, check_device(device))
    store = PairStore(out, loaded, loaded.teacher(), pairs, split)
    store.make()
    if json:
        write_json(json, store.manifest() | {"pairs": pairs})
    typer.echo(f"{pairs} pairs of {model}, {store.teacher.nfe} evaluations each, are in {out}/.")


@app.command()
def learn(
    out: Annotated[Path, typer.Option(help="The solver file to write (.safetensors).")],
    model: Model = "fashion",
    method: Annotated[
        str,
        typer.Option(help="s4s: coefficients; ld3: levels; joint: both at once; s4s-alt: both in turns."),
    ] = "s4s",
    family: Annotated[str, typer.Option(help="Classic solver that it starts from.")] = "dpmpp-2m",
    order: Annotated[int, typer.Option(help="How many past outputs a step may mix.")] = 3,
    nfe: Nfe = 5,
    grid: GridName = "logsnr",
    lower_final: LowerFinal = False,
    optimiser: Annotated[
        str, typer.Option(help="gauss-newton; bfgs, for many pairs; or adam, for ld3 its own.")
    ] = "gauss-newton",
    alternations: Annotated[int, typer.Option(help="Turns of s4s-alt.")] = 8,
    side: Annotated[
        int,
        typer.Option(help="Pixels to which smaller images are enlarged in the LPIPS to learn by.", min=64),
    ] = 128,
    pairs: Annotated[int, typer.Option(help="Teacher pairs; half as many more validate.")] = 80,
    samples: Annotated[int, typer.Option(help="Test noises that the result is judged on.")] = 500,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Learn a solver for a bundled model, judge it and write it to a file; resumable.

    Pairs and progress are kept beside the file, in a folder that ends in .work.
    """
    from s4s_nb.files import write_json
    from s4s_nb.learning import learn_to_file
    from s4s_nb.tour import as_table
    from s4s_nb.zoo import load_model

    loaded = replace(load_model(model, check_device(device)), side=side)
    start = {"start": family, "nfe": nfe, "grid": grid, "order": order, "lower_final": lower_final}
    how = {"method": method, "optimiser": optimiser, "alternations": alternations, "seed": seed}
    row = learn_to_file(loaded, out, **start, **how, pairs=pairs, samples=samples)
    if json:
        write_json(json, row)
    typer.echo(as_table([row]) + f"\n\nThe solver is in {out}.")


@app.command()
def study(
    name: Annotated[
        str,
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
    from s4s_nb.study import study as run_study

    only = {key: value for key, value in {"settings": model, "nfes": nfe}.items() if value}
    typer.echo(run_study(name, out, jobs, device=check_device(device), **only))


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    model: Model = "fashion",
    solver: Name = "teacher",
    nfe: Nfe = 5,
    grid: GridName = "logsnr",
    lower_final: LowerFinal = False,
    count: Annotated[int, typer.Option(help="How many images.")] = 100,
    device: Device = "cpu",
) -> None:
    """Write a picture of samples from the test noises, ten a row."""
    from s4s_nb.plots import save_samples
    from s4s_nb.teachers import run
    from s4s_nb.zoo import load_model

    loaded = load_model(model, check_device(device))
    table = loaded.solver(solver, nfe, grid, lower_final)
    starts, labels = loaded.starts("test", count), loaded.labels(count)
    save_samples(out, loaded.images(run(loaded.denoise, starts, table, labels, title=table.name)))
    typer.echo(f"{count} samples of {table.name} at {table.nfe} NFE are in {out}.")


@app.command()
def evaluate(
    model: Model = "fashion",
    solver: Name = "teacher",
    nfe: Nfe = 5,
    grid: GridName = "logsnr",
    lower_final: LowerFinal = False,
    samples: Annotated[int, typer.Option(help="How many test noises.")] = 500,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Judge a solver on held-out noise: distances to the teacher and to the real images."""
    from s4s_nb.files import write_json
    from s4s_nb.judge import judge, judge_teacher
    from s4s_nb.tour import as_table
    from s4s_nb.zoo import load_model

    loaded = load_model(model, check_device(device))
    if solver == "teacher":
        names = {"solver": solver, "kind": "teacher", "grid": loaded.setting.teacher_grid}
        row = judge_teacher(loaded, samples)
    else:
        table = loaded.solver(solver, nfe, grid, lower_final)
        kind = "learned" if "method" in table.info else "classical"
        names = {"solver": table.name, "kind": kind, "grid": table.info.get("grid", grid)}
        row, _ = judge(loaded, table, samples, title=table.name)
    row = {"model": model, **names, **row}
    if json:
        write_json(json, row)
    typer.echo(as_table([row]))


@app.command()
def bench(json: Json = None) -> None:
    """The benchmarks, as ratios."""
    from s4s_nb.bench import benchmarks
    from s4s_nb.files import write_json

    rows = benchmarks()
    if json:
        write_json(json, rows)
    for row in rows:
        typer.echo(f"{row['name']}: {row['ratio']:.3f} (at most {row['limit']})")


def check_device(device: str) -> str:
    """``device`` if torch can use it here."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {device!r} cannot be used here ({reason}); try --device cpu.") from None
    return device


def main() -> None:
    """Entry point: an :class:`InputError` becomes one sentence on standard error and status 2."""
    try:
        app()
    except InputError as error:
        print(f"s4s-nb: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Commands that make what others stand on: networks, pairs of a teacher, tables of results, benchmarks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from s4s_nb.atomic import check_writable
from s4s_nb.files import DATA, check_writable_data
from s4s_nb.models.bundled import NetworkName
from s4s_nb.options import (
    MOST_NFE,
    Device,
    Json,
    ModelName,
    Seed,
    StudyName,
    check_device,
    check_noises,
    find_model,
    tell,
)
from s4s_nb.pairs import PER_SEED
from s4s_nb.store import PairStore

making = typer.Typer()


@making.command("teacher")
def teacher_command(
    out: Annotated[Path, typer.Option(help="Folder of the pairs; goes on where it was left.")],
    model: ModelName = "fashion",
    pairs: Annotated[int, typer.Option(help="How many.", min=1)] = 700,
    split: Annotated[Literal["train", "validation"], typer.Option(help="Noises of which split.")] = "train",
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Store pairs of noise seeds and the teacher's end points in shards; resumable.

    Several GPUs by torchrun --nproc-per-node N -m s4s_nb.cli teacher …
    """
    check_noises(pairs, seed)
    check_writable(out / "manifest.json", json)
    loaded = find_model(model, device)
    store = PairStore(out, loaded, loaded.teacher(), pairs, split, first=seed * PER_SEED)
    store.make()
    text = f"{pairs} pairs of {model}, {store.teacher.nfe} evaluations each, are in {out}/."
    tell(text, json, store.manifest() | {"pairs": pairs})


@making.command("train")
def train_command(
    model: Annotated[NetworkName, typer.Option(help="A bundled network.")],
    dataset: Annotated[Path | None, typer.Option(help="Local .npz; fetched when left out.")] = None,
    state: Annotated[Path | None, typer.Option(help="Where progress is kept, to resume from.")] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(help="Of batches and noise.", min=0, max=999_999)] = 0,
) -> None:
    """Train a bundled network from its image set and write its files of data/.

    Resumable; several GPUs by torchrun --nproc-per-node N -m s4s_nb.cli train --model …
    """
    from s4s_nb.training.bundle import train_network

    state = state or Path("runs/train") / f"{model}.safetensors"
    check_writable_data()
    check_writable(state, *(DATA / name for name in (f"{model}.safetensors", "MANIFEST.json")))
    train_network(model, dataset, state, check_device(device), seed)


@making.command("study")
def study_command(
    name: Annotated[
        StudyName,
        typer.Argument(
            help="uniform: S4S against its start, everywhere; alt: S4S-Alt and all other methods;"
            " seeds: other draws of the pairs; transfer: solvers used where they were not learned;"
            " optimisers: what Gauss-Newton and Adam cost;"
            " ablations: what each choice does; paper: those of S4S's appendix;"
            " spaces: S4S's space and the whole table;"
            " methods: all of them, by their recipes and on equal terms;"
            " choices: one choice of S4S-Alt changed at a time."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Default: runs/NAME.json; goes on from it.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this setting; may be repeated.")] = None,
    nfe: Annotated[
        list[int] | None, typer.Option(help="Only this NFE; may be repeated.", min=1, max=MOST_NFE)
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Settings at a time, sharing the cores.")] = 1,
    device: Device = None,
) -> None:
    """Make a table of results over all settings, cell by cell; resumable; hours."""
    from s4s_nb.studies.settings import study

    only = {key: value for key, value in {"settings": model, "nfes": nfe}.items() if value}
    typer.echo(study(name, out, jobs, device=check_device(device), **only))


@making.command("bench")
def bench_command(json: Json = None) -> None:
    """The benchmarks, as ratios."""
    from s4s_nb.studies.bench import benchmarks

    check_writable(json)
    rows = benchmarks()
    lines = [f"{row['name']}: {row['ratio']:.3f} (at most {row['limit']})" for row in rows]
    tell("\n".join(lines), json, rows)

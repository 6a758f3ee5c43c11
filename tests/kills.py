"""Every command that writes, killed at random moments: a second run ends as one that nobody disturbed.

python tests/kills.py --kills 20 [--only learn-joint]
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from s4s_nb import cli, files
from s4s_nb.classic import make_solver
from s4s_nb.evaluate import Reference, evaluate
from s4s_nb.files import read_safetensors
from s4s_nb.frechet import moments
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.models import Model
from s4s_nb.models.classifier import classifier_loss
from s4s_nb.studies import settings
from s4s_nb.studies.settings import study
from s4s_nb.studies.sweep import Budget
from s4s_nb.studies.tour import tour
from s4s_nb.training import bundle, train
from s4s_nb.training.datasets import ImageSet
from s4s_nb.training.recipes import Recipe
from tests.forking import forked

SLOW_WRITES = 0.02
"""Seconds before a written file gets its name, so that some of the kills fall there."""


# ---------------------------------------------------------------- what is killed


def first_numbers(images: Tensor) -> Tensor:
    """Features that cost nothing: what is killed here are writers, not judges."""
    return images.flatten(1)[:, :8].double()


def gaussian() -> Model:
    """Images of a Gaussian, whose denoiser is known exactly; 12 evaluations are enough of a teacher."""
    centre, sizes = torch.linspace(-1, 1, 64).double(), torch.linspace(0.1, 1.0, 64).double()
    mixture = GaussianMixture(centre[None], sizes[None])

    def denoise(x, sigma):
        return mixture(x.flatten(1).double(), sigma).reshape(x.shape).to(x.dtype)

    size = {"shape": (1, 8, 8), "sigma_max": 80.0, "sigma_min": 0.01}
    model = Model(denoise, name="fashion", embedding=lambda images: images.flatten(1), **size)
    model.picture = torch.tanh
    model.teacher_solver = make_solver("unipc-3-bh2", 12, model.grid("karras"))
    model.load_reference = real_images
    return model


def real_images(*_) -> Reference:
    """Stand-ins for the real images, without a stored teacher."""
    floor = first_numbers(torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    return Reference(moments(floor), floor, torch.zeros(0), torch.zeros(0))


def command(line: str) -> None:
    """The command line, for that model; files are written to the working directory."""
    name, *options = line.split()
    sys.argv = ["s4s-nb", name, "--model", "tests.kills:gaussian", *options]
    cli.main()


def tiny_study(name: str, **options) -> None:
    """A study of one setting; the command line has no smaller budget than hours."""
    budget = Budget(pairs=2, validation_pairs=2, iterations=1, samples=4, side=64)
    with patch.object(settings, "load", lambda *_, **__: gaussian()):
        study(name, Path("table.json"), settings=["fashion"], budget=budget, **options)


def tiny_tour() -> None:
    load = patch("s4s_nb.studies.tour.load", lambda *_, **__: gaussian())
    with load, patch("s4s_nb.studies.tour.reference", real_images):
        tour(Path("tour"), nfe=3, pairs=2, samples=4)


def tiny_training() -> None:
    """The classifier from a few images, into a ``data/`` of its own."""
    labels = torch.arange(32) % 10
    pixels = (25 * labels[:, None, None, None]).to(torch.uint8).expand(-1, 1, 28, 28).contiguous()
    images = ImageSet(pixels, labels, pixels[:4], labels[:4])
    recipe = Recipe(lambda _: images, classifier_loss, 6 * 64)
    data = Path("data").resolve()
    with (
        patch.object(files, "DATA", data),
        patch.object(bundle, "DATA", data),
        patch.dict(bundle.RECIPES, {"fashion-classifier": recipe}),
        patch.object(train, "SAVE_EVERY_SECONDS", 0),
    ):
        bundle.train_network("fashion-classifier", None, Path("state.safetensors"))


LEARN = "learn --out own.safetensors --nfe 3 --pairs 4 --samples 4 --side 64 --json row.json"
AT = "--start ipndm-3 --grid karras"
COMMANDS: dict[str, Callable[[], None]] = {
    "teacher": partial(command, "teacher --out pairs --pairs 120 --json manifest.json"),
    "learn-s4s": partial(command, f"{LEARN} --method s4s --optimiser gauss-newton"),
    "learn-joint": partial(command, f"{LEARN} {AT} --method joint --optimiser bfgs --iterations 4"),
    "learn-s4s-alt": partial(command, f"{LEARN} {AT} --method s4s-alt --optimiser adam --rounds 2"),
    "learn-ld3": partial(command, f"{LEARN} {AT} --method ld3 --optimiser adam --iterations 2"),
    "study-uniform": partial(tiny_study, "uniform", nfes=[2], grids=["logsnr"]),
    "study-alt": partial(
        tiny_study, "alt", nfes=[5], methods=["classical", "s4s", "joint-adam"], grids=["logsnr"]
    ),
    "tour": tiny_tour,
    "sample": partial(command, "sample --solver euler --nfe 3 --count 20 --out samples.png"),
    "compare": partial(command, "compare --nfe 3 --samples 4 --grid karras --out c.png --json c.json"),
    "evaluate": partial(command, "evaluate --solver euler --nfe 3 --samples 8 --json row.json"),
    "train": tiny_training,
}


# ---------------------------------------------------------------- processes


def begin(work: Callable[[], None], folder: Path, pause: float = 0.0) -> int:
    """Start a command in a folder, in a process group of its own; its pid."""

    def in_its_folder() -> None:
        os.setpgid(0, 0)
        os.chdir(folder)
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        rename = os.replace

        def slow(*paths) -> None:
            time.sleep(pause)
            rename(*paths)

        with patch.object(os, "replace", slow):
            try:
                work()
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                traceback.print_exc()
                os._exit(1)

    folder.mkdir(exist_ok=True)
    child = forked(in_its_folder)
    with suppress(ProcessLookupError, PermissionError):  # the child is ahead of us, or has ended
        os.setpgid(child, child)
    return child


def status(child: int) -> int:
    """How a process ended, once it has."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def without_seconds(value):
    """JSON without what was timed."""
    if isinstance(value, dict):
        timed = ("seconds", "hours", "sha256")  # the last of a table seals its seconds too
        return {k: without_seconds(v) for k, v in value.items() if not any(word in k for word in timed)}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def result(path: Path) -> object:
    """What must be the same of a file."""
    if path.suffix == ".json":
        return without_seconds(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".safetensors":
        tensors, records = read_safetensors(path)
        numbers = {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in tensors.items()}
        return numbers, {
            k: without_seconds(json.loads(v)) if v[0] in "{[" else v for k, v in records.items()
        }
    return path.read_bytes()


def results(folder: Path) -> dict[str, object]:
    """All that a command has written, but for hidden files."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): result(path) for path in found}


def hidden(folder: Path) -> list[str]:
    """Temporary files and locks."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*"))


def main(names: list[str], kills: int) -> None:
    print(f"{'command':16s} seconds kills  moments      differing leftovers")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, kills, Path(folder)), flush=True)


def row(name: str, kills: int, folder: Path) -> str:
    """A command undisturbed, twice; then killed and run again so many times."""
    work, moments, differing, left, randomness = COMMANDS[name], [], [], Counter(), random.Random(name)
    began = time.monotonic()
    assert status(begin(work, folder / "whole", SLOW_WRITES)) == 0, (folder / "whole.log").read_text()
    seconds = time.monotonic() - began
    assert status(begin(work, folder / "again")) == 0
    whole, always = results(folder / "whole"), hidden(folder / "whole")
    assert results(folder / "again") == whole, "two runs that nobody disturbed differ"
    while len(moments) < kills:
        there, moment = folder / "killed", randomness.uniform(0, seconds)
        child = begin(work, there, SLOW_WRITES)
        time.sleep(moment)
        os.killpg(child, signal.SIGKILL)
        if status(child) == -signal.SIGKILL:
            moments.append(moment)
            ended = status(begin(work, there))
            found = results(there)
            if ended or found != whole:
                keys = [key for key in {**whole, **found} if whole.get(key) != found.get(key)]
                differing.append(f"{moment:.2f} s: status {ended}, {keys}")
            left.update(
                re.sub(r"[0-9a-f]+(\.tmp)?$", "", path) for path in hidden(there) if path not in always
            )
        shutil.rmtree(there)
    told = f"{min(moments):.2f} to {max(moments):.2f}" if moments else ""
    lines = [*differing[:3], *(f"{path}… left {times} times" for path, times in left.items())]
    lines += [f"{path} is left by a run that nobody disturbs, too" for path in always]
    line = f"{name:16s} {seconds:7.1f} {len(moments):5d}  {told} {len(differing):9d} {left.total():9d}"
    return "\n    ".join([line, *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with patch("s4s_nb.evaluate.features", first_numbers):
        evaluate(gaussian(), gaussian().teacher(), 4)  # loads what judges, once for all commands
        main(given.only, given.kills)

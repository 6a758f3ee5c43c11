"""What is fuzzed: every kind of file that the package reads, as it writes them, and how it reads them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nbformat
import numpy as np
import torch
from torch import Tensor

from s4s_nb import files
from s4s_nb.course import nbval_rules, refresh
from s4s_nb.learn import learn
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.resume import StateFile
from s4s_nb.models import Model
from s4s_nb.models.named_solvers import learned_solvers
from s4s_nb.solvers import Solver, solve
from s4s_nb.store import PairStore
from s4s_nb.studies.settings import STUDIES
from s4s_nb.studies.sweep import Sweep
from s4s_nb.training import datasets, train
from tests.forked_learning import everything
from tests.forked_pairs import TEACHER, Mixture
from tests.mutated_files import Files
from tests.problems import MIXTURE, noise, problem, student


@dataclass
class Target:
    """Files of one kind, as the package writes them, and how it reads them.

    read: folder → what was read, to be compared bit for bit; what a user may write freely is left out.
    names: the files that are mutated; all if left out. foreign: the same files of another run.
    """

    folder: Path
    read: Callable[[Path], object]
    names: list[str] = field(default_factory=list)
    foreign: Files = field(default_factory=dict)

    def __post_init__(self):
        self.files = contents(self.folder)
        self.names = self.names or sorted(self.files)


def contents(folder: Path) -> Files:
    """The files below a folder."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def place(folder: Path, files: Files) -> Path:
    """Write files below a folder that has nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if data is None else path.write_bytes(data)
    folder.mkdir(exist_ok=True)
    return folder


def bits(value):
    """A value as what can be compared: tensors by dtype, shape and bytes, floats by all their digits."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    return [bits(inner) for inner in value] if isinstance(value, list | tuple) else repr(value)


# ---------------------------------------------------------------- solvers and pairs


def read_solver(folder: Path) -> object:
    """The table, run and written again, and asked for what the command line asks of its record."""
    table = Solver.load(folder / "own.safetensors")
    print("learned" if "method" in table.info else "classical", table.info.get("grid", "own"), table.name)
    table.save(folder / "again.safetensors")
    end = solve(MIXTURE, 10 * noise(2), table)
    return table.sigmas, table.A, table.B, table.model_sigmas, table.kappa, end


def solver(folder: Path) -> Target:
    table = student("dpmpp-2m", 3).solver()
    info = {**table.info, "method": "s4s", "grid": "karras", "quality": {"lpips": 0.1, "nfe": 3}}
    Solver(table.name, table.sigmas, table.A, table.B, info=info).save(folder / "own.safetensors")
    return Target(folder, read_solver)


def store_in(folder: Path, split: str = "train") -> PairStore:
    return PairStore(folder, Mixture(), TEACHER, count=5, shard=2, split=split)


def pairs(folder: Path, make: bool) -> Target:
    """Loaded as they are, or after they were made again where that is needed."""

    def read(there: Path) -> object:
        store = store_in(there)
        if make:
            store.make(title=None)
        given = store.load()
        return given.starts, given.targets

    store_in(folder).make(title=None)
    other = store_in(folder.with_name(f"other-{make}"), "validation")
    other.make(title=None)
    return Target(folder, read, foreign=contents(other.folder))


# ---------------------------------------------------------------- runs that go on


@contextmanager
def halfway(owner: object, name: str, path: Path):
    """Once all is through, ``path`` is as it was after half of its saves by ``owner.name``."""
    save, saves = getattr(owner, name), []

    def kept(*arguments):
        save(*arguments)
        saves.append(path.read_bytes())

    with patch.object(owner, name, kept):
        yield
    path.write_bytes(saves[(len(saves) - 1) // 2])


def learning(folder: Path, method: str, optimiser: str, **options) -> Target:
    def read(there: Path) -> object:
        state, given = there / "state.safetensors", problem(8, 4, batch=4)
        how = {"iterations": 2, "state_file": state, "progress": False, **options}
        return everything(learn_student(given, student("dpmpp-2m", 3), method, optimiser, **how))

    with halfway(StateFile, "save", folder / "state.safetensors"):
        read(folder)
    return Target(folder, read)


def race(folder: Path) -> Target:
    """The grid that a race has picked, of a run that was killed before its first save."""
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, teacher_solver=TEACHER)

    def read(there: Path) -> object:
        out = there / "own.safetensors"
        how = {"start": "ipndm-3", "pairs": 4, "iterations": 1, "progress": False}
        return learn(model, 2, "s4s", out=out, **how).solver.B

    read(folder)
    (folder / "own.work" / "s4s.safetensors").unlink()
    (folder / "own.safetensors").unlink()
    return Target(folder, read, names=["own.work/race.json"])


def training(folder: Path) -> Target:
    def read(there: Path) -> object:
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 1, 3, padding=1)
        images = torch.arange(48, dtype=torch.uint8).reshape(12, 1, 2, 2)

        def loss(net, x, labels, generator):
            return (net(x + torch.randn(x.shape, generator=generator)) - x).square().mean()

        state, labels = there / "state.safetensors", torch.zeros(12)
        ema, record = train.train(network, images, labels, loss, state, 24, batch=4)
        return ema, record["final_loss"], record["images_seen"]

    with (
        patch.object(train, "SAVE_EVERY_SECONDS", 0),
        halfway(StateFile, "save", folder / "state.safetensors"),
    ):
        read(folder)
    return Target(folder, read)


# ---------------------------------------------------------------- tables of results

KEYS = {
    "uniform": ("setting", "grid", "family", "nfe"),
    "alt": ("setting", "nfe", "method"),
    "seeds": ("setting", "nfe", "seed", "method"),
    "transfer": ("setting", "guidance", "learned_on", "method", "nfe"),
    "optimisers": ("setting", "nfe", "recipe"),
}


def table(folder: Path, name: str) -> Target:
    """A few cells of a study; those that are missing are made again, without learning."""
    known = json.loads(files.data_file(f"results/{name}.json").read_text())
    known["cells"], keys = known["cells"][:3], KEYS[name]
    cells = {tuple(cell[key] for key in keys): cell for cell in known["cells"]}
    made = partial(Sweep, command=known["command"], keys=keys, budget=known["budget"])
    made(folder / "table.json").add(*known["cells"])

    def read(there: Path) -> object:
        sweep = made(there / "table.json")
        for key in sweep.missing(cells, name):
            sweep.add(cells[key])
        found = sweep.read()
        print(STUDIES[name][1](found))
        return json.dumps(found | {"cells": sorted(found["cells"], key=json.dumps)})

    return Target(folder, read)


# ---------------------------------------------------------------- bundled files, image sets, notebooks


@contextmanager
def data_in(folder: Path):
    """Another folder as ``data/``, of which nothing is remembered before and after."""
    try:
        for cached in (files.manifest, files.data_file):
            cached.cache_clear()
        with patch.object(files, "DATA", folder):
            yield
    finally:
        for cached in (files.manifest, files.data_file):
            cached.cache_clear()


def bundled(folder: Path) -> Target:
    """The manifest of ``data/`` and what is read and written by it."""
    names = ["card.json", "solvers/own_s4s_5.safetensors"]
    place(folder, {name: b'{"a": 1}' for name in names})

    def read(there: Path) -> object:
        with data_in(there):
            read = [files.data_file(name).read_bytes() for name in names]
            known = learned_solvers("own")
            (there / "new.json").write_text("{}")
            files.enter_in_manifest("new.json", "made here", "MIT")
            return read, known, sorted(files.manifest())

    with data_in(folder):
        for name in names:
            files.enter_in_manifest(name, "made here", "MIT")
    return Target(folder, read, names=["MANIFEST.json", "MANIFEST.json", names[0]])


def image_set(folder: Path, name: str) -> Target:
    """An image set whose pixels are few, and known as those of the true ones are."""
    pixels = np.arange(9 * 4 * 4 * 3, dtype=np.uint8).reshape(9, 4, 4, 3)
    arrays = {"images": pixels}
    if name == "fashion.npz":
        arrays = {"train_images": pixels[:, :, :, 0], "train_labels": np.arange(9, dtype=np.uint8)}
        arrays |= {key.replace("train", "test"): array[:5] for key, array in arrays.items()}
    file = folder / name
    np.save(file, pixels) if file.suffix == ".npy" else np.savez(file, **arrays)
    parts = {key.replace("_images", "").replace("_", " "): array for key, array in arrays.items()}
    parts = {"faces": pixels} | parts
    known = {
        part: datasets.Known(a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for part, a in parts.items()
    }

    def read(there: Path) -> object:
        with patch.object(datasets, "KNOWN", known), patch.object(datasets, "TEST_FACES", 1):
            made = (datasets.fashion_mnist if name == "fashion.npz" else datasets.faces)(there / name)
        return made.train, made.train_labels, made.test, made.test_labels

    return Target(folder, read)


class IPyNbCell(SimpleNamespace):
    """What nbval makes of a cell."""


def notebook(folder: Path) -> Target:
    """A notebook run (but for its kernel), derived from, and compared; its text is its author's."""
    v4 = nbformat.v4
    printed = v4.new_output("stream", name="stdout", text="1.0\n")
    cell = v4.new_code_cell("# BEGIN SOLUTION\nprint(1.0)\n# END SOLUTION", outputs=[printed])
    cell.metadata["tags"] = ["tol-1e-1", "exercise"]
    made = v4.new_notebook(cells=[v4.new_markdown_cell("Text."), cell])
    nbformat.write(made, folder / "own.ipynb")

    def read(there: Path) -> object:
        path = there / "own.ipynb"
        with patch.object(refresh, "NotebookClient"):
            refresh.execute(path)
        refresh.student_edition(refresh.read_notebook(path))
        for cell in refresh.read_notebook(path).cells:
            made = IPyNbCell(parent=SimpleNamespace(skip_compare=()), cell=cell, compare_outputs=dict)
            nbval_rules.pytest_itemcollected(made)

    return Target(folder, read)


RELAXED = {"optimiser": "adam", "radius": 0.1}
TARGETS: dict[str, tuple[int, Callable[[Path], Target]]] = {
    "solver": (6, solver),
    "pairs loaded": (3, partial(pairs, make=False)),
    "pairs made": (3, partial(pairs, make=True)),
    "learn s4s": (1, partial(learning, method="s4s", optimiser="gauss-newton")),
    "learn joint": (1, partial(learning, method="joint", optimiser="bfgs")),
    "learn s4s-alt": (1, partial(learning, method="s4s-alt", rounds=2, **RELAXED)),
    "learn ld3": (1, partial(learning, method="ld3", **RELAXED)),
    "race": (1, race),
    "training": (2, training),
    **{f"table {name}": (1, partial(table, name=name)) for name in KEYS},
    "bundled": (2, bundled),
    **{name: (1, partial(image_set, name=name)) for name in ("fashion.npz", "faces.npz", "faces.npy")},
    "notebook": (2, notebook),
}
"""Each with its share of the files."""

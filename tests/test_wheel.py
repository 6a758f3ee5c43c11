"""The wheel: what is in it, and that it works in another place, where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from s4s_nb import __version__, files
from s4s_nb.errors import InputError
from s4s_nb.training.bundle import train_network

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "pyproject.toml README.md LICENSE s4s_nb data notebooks tests".split()
LEARN = "learn --method s4s --start dpmpp-2m --grid karras --nfe 3 --iterations 1 --pairs 2 --samples 4"
TOUR = """
import sys
from importlib import import_module
from pathlib import Path

import s4s_nb as s4s
from s4s_nb.studies.tour import summary, tour

installed = Path(sys.argv[1])
for name in s4s.manifest():
    assert s4s.data_file(name).is_relative_to(installed)
for path in (installed / "s4s_nb").rglob("*.py"):
    name = ".".join(path.relative_to(installed).with_suffix("").parts).removesuffix(".__init__")
    assert Path(import_module(name).__file__) == path
print(summary(tour(Path("tour"), pairs=2, samples=4)))
"""


def run(*command: str, path: list[Path], cwd: Path) -> subprocess.CompletedProcess:
    """Run Python with these folders first on its path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONUTF8": "1"}
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: what an earlier build left is not in it, and this one leaves nothing.

    It is built where importing torch fails, as in the isolated environment of a user's pip.
    """
    missing = [name for name in ("pip", "setuptools") if not find_spec(name)]
    if missing:
        pytest.skip(f"a wheel cannot be built here: {' and '.join(missing)} is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    (out / "torch.py").write_text("raise ImportError('the build imports torch')\n", encoding="utf-8")
    options = "--no-deps --no-build-isolation --no-index --disable-pip-version-check --wheel-dir".split()
    done = run("-m", "pip", "wheel", *options, str(out), str(source), path=[out], cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder that the wheel is installed to."""
    folder = tmp_path_factory.mktemp("installed")
    options = "--no-deps --no-index --disable-pip-version-check --target".split()
    done = run("-m", "pip", "install", *options, str(folder), str(wheel), path=[], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def away(installed, tmp_path):
    """Run Python in an empty folder, with the installed wheel and the other packages.

    Without what ``.pth`` files add (-S): the finder of an editable install would take from the checkout
    whatever the wheel has not.
    """
    packages = [Path(p) for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]

    def python(*command: str) -> str:
        done = run("-S", *command, path=[installed, *packages], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = {name for name in names if name.startswith(f"s4s_nb-{__version__}.dist-info/")}
        (entries,) = (archive.read(name) for name in about if name.endswith("entry_points.txt"))
    found = [p for p in (ROOT / "s4s_nb").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    package = {p.relative_to(ROOT).as_posix() for p in found}
    beside = ("MANIFEST.json", "README.md", "results/README.md")
    data = {f"s4s_nb/data/{name}" for name in (*files.manifest(), *beside)}
    assert names - about == package | data
    assert {"s4s_nb/py.typed", "s4s_nb/learn/__init__.py", "s4s_nb/course/checks/notebook_02.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in about)
    assert b"s4s-nb = s4s_nb.cli:main" in entries
    assert wheel.stat().st_size < 60e6


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("models", "faces-latent-guided"),
        (
            "sample --solver euler --nfe 2 --count 2 --out two.png",
            "2 samples of euler at 2 NFE are in two.png",
        ),
        (f"{LEARN} --out three.safetensors", "The solver is in three.safetensors"),
    ],
)
def test_commands_of_an_installed_wheel(away, tmp_path, command, printed):
    assert printed in away("-m", "s4s_nb.cli", *command.split())
    assert all(
        (tmp_path / name).exists() for name in command.split() if name.endswith((".png", ".safetensors"))
    )


def test_a_small_tour_of_an_installed_wheel(away, installed, tmp_path):
    """All its modules and data are those of the wheel."""
    assert "times that of the best classic solver" in away("-c", TOUR, str(installed))
    assert (tmp_path / "tour/tour.png").read_bytes().startswith(b"\x89PNG")


def test_an_installed_package_keeps_its_data_and_says_how_to_mend_it(tmp_path, monkeypatch):
    files.manifest()
    files.data_file.cache_clear()
    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(files, "INSTALLED", True)
    with pytest.raises(InputError, match="missing; install s4s_nb again"):
        files.data_file("fashion.safetensors")
    with pytest.raises(InputError, match="work in a checkout"):
        files.enter_in_manifest("fashion.safetensors", "here", "MIT")
    with pytest.raises(InputError, match="work in a checkout"):
        train_network("fashion", None, tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())

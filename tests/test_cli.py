"""The command line: what it prints and writes, and one sentence with status 2 for bad input."""

import json
import os
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from s4s_nb import __version__, cli
from s4s_nb.classic import AS_USED, NAMES, ClassicName, make_solver
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate
from s4s_nb.grids import GRID_NAMES, GRIDS, GridName, karras
from s4s_nb.learn.embeddings import EmbeddingName
from s4s_nb.learn.methods import METHODS, MethodName
from s4s_nb.learn.objectives import OBJECTIVES, ObjectiveName
from s4s_nb.learn.optimiser import OPTIMISERS, OptimiserName
from s4s_nb.learn.starts import STARTS
from s4s_nb.models import Model
from s4s_nb.models.bundled import NETWORKS, SETTINGS, NetworkName, load
from s4s_nb.options import SettingName, StudyName, check_device, find_model
from s4s_nb.solvers import Solver
from s4s_nb.studies.settings import STUDIES
from s4s_nb.studies.tour import tour

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line: status, and what was printed on standard output and error."""
    monkeypatch.setenv("COLUMNS", "2000")  # else help and errors are cut into lines of 80

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["s4s-nb", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run


OWN = '''
import torch
import s4s_nb as s4s

SIZES = torch.linspace(0.1, 1.0, 256, dtype=torch.float64)
CENTRE = torch.linspace(-1, 1, 256, dtype=torch.float64)
WORDS = "no function"


def gaussian():
    """Images of a Gaussian, whose denoiser is known exactly; 12 evaluations are enough of a teacher."""
    mixture = s4s.GaussianMixture(CENTRE[None], SIZES[None])

    def denoise(x, sigma):
        return mixture(x.flatten(1).double(), sigma).reshape(x.shape).to(x.dtype)

    levels = {"sigma_max": 20.0, "sigma_min": 0.01}
    model = s4s.Model(denoise, shape=(1, 16, 16), name="gaussian", picture=torch.tanh, **levels)
    model.teacher_solver = s4s.make_solver("unipc-3-bh2", 12, model.grid("karras"))
    return model


def vector():
    """The same numbers, as no images."""
    mixture = s4s.GaussianMixture(CENTRE[None, :2], SIZES[None, :2])
    return s4s.Model(mixture, shape=(2,), sigma_max=20.0, sigma_min=0.01, name="vector")


def number():
    return 42


def broken():
    raise RuntimeError("a fault of its own")
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module in the working directory that has models of its own."""
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    yield "own_models"
    sys.modules.pop("own_models", None)


def read(path) -> dict:
    return json.loads(path.read_text())


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["evaluate", "--model", "mnist"], "Unknown model 'mnist'; choose one of: fashion,"),
        (["evaluate", "--solver", "dpm++"], "Unknown solver 'dpm++'; choose one of: teacher,"),
        (["evaluate", "--solver", "teacher", "--nfe", "5"], "teacher has 60 evaluations, not 5"),
        (["sample", "--out", "a.png", "--solver", "nope"], ", s4s-alt, "),
        (["sample", "--out", "a.jpg"], "written as .png"),
        (["sample", "--out", "."], "is a folder; name a file"),
        (["compare", "--out", "a.pdf"], "written as .png"),
        (["compare", "--out", "a.png", "--json", "a.png"], "written twice"),
        (["compare", "--solver", "nope", "--json", "a.json"], "Unknown solver 'nope'"),
        (["bench", "--json", "/dev/null"], "name an ordinary file"),
        (["models", "--json", "."], "is a folder; name a file"),
        (["tour", "--out", "/dev/null"], "cannot be written"),
        (["tour", "--json", "."], "is a folder; name a file"),
        (["teacher", "--out", "p", "--pairs", "10001", "--seed", "99"], "A split holds a million noises"),
        (["teacher", "--out", "/dev/null", "--pairs", "1"], "cannot be written"),
        (["teacher", "--out", "p", "--pairs", "1", "--json", "p/manifest.json"], "written twice"),
        (["study", "uniform", "--out", "."], "is a folder; name a file"),
        (["study", "alt", "--nfe", "5", "--nfe", "1"], "takes two steps or more"),
        (["train", "--model", "fashion", "--state", "."], "is a folder; name a file"),
        (["learn", "--out", ".", "--samples", "4"], "is a folder; name a file"),
        (["learn", "--out", "s.safetensors", "--json", "s.safetensors"], "written twice"),
        (["learn", "--out", "s.safetensors", "--radius", "inf"], "A radius is a finite number"),
        (["evaluate", "--solver", "euler", "--samples", "100000"], "can be judged on 4 to 10,000"),
        (["evaluate", "--solver", "euler", "--samples", "3"], "can be judged on 4 to 10,000"),
        (["evaluate", "--solver", "gone.safetensors"], "There is no file gone.safetensors"),
        (["evaluate", "--device", "cuda:9"], "cannot be used here"),
        (["compare", "--samples", "3"], "can be judged on 4 to 10,000"),
        (["compare", "--solver", "gone.safetensors"], "There is no file gone.safetensors"),
        (["compare", "--grid", "linear"], "Unknown grid 'linear'; choose one of: karras, logsnr"),
        (["train", "--model", "fashion", "--dataset", "gone.npz"], "no file gone.npz"),
        (["train", "--model", "faces", "--dataset", "gone.npy"], "data/faces.mjs draws it"),
        (["learn", "--out", "s.pt"], "has another ending"),
        (["learn", "--out", "s.safetensors", "--pairs", "1"], "2 to 10,000 pairs"),
        (["learn", "--out", "s.safetensors", "--samples", "3"], "can be judged on 4 to 10,000"),
        (["learn", "--out", "s.safetensors", "--method", "ld3", "--nfe", "1"], "two steps or more"),
        (
            ["learn", "--out", "s.safetensors", "--optimiser", "bfgs", "--radius", "0.1"],
            "BFGS has no relaxed starts; leave the radius out, or learn by adam.",
        ),
        (
            ["learn", "--out", "s.safetensors", "--method", "s4s", "--radius", "0.1"],
            "Gauss-Newton has no relaxed starts",
        ),
        (
            ["learn", "--out", "s.safetensors", "--method", "s4s", "--optimiser", "ld3"],
            "LD3's own recipe learns levels alone",
        ),
        (["learn", "--out", "s.safetensors", "--order", "2"], "mixes more than 2 outputs"),
        (["study", "alt", "--model", "fashion", "--model", "mnist"], "Unknown model 'mnist'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(call, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(*arguments)
    assert status == 2
    assert not list(tmp_path.iterdir())  # nothing half-written
    assert error.startswith("s4s-nb: ") and sentence in error
    assert error.count("\n") == 1 and "Traceback" not in error


LEARN = ("learn", "--out", "s.safetensors")


@pytest.mark.parametrize(
    "arguments, option, choices",
    [
        (["evaluate", "--solver", "euler", "--grid", "linear"], "--grid", GRID_NAMES),
        (["sample", "--out", "a.png", "--grid", "linear"], "--grid", GRID_NAMES),
        (["tour", "--grid", "linear"], "--grid", GRID_NAMES),
        (["tour", "--model", "mnist"], "--model", SETTINGS),
        (["train", "--model", "mnist"], "--model", NETWORKS),
        (["teacher", "--out", "a", "--split", "test"], "--split", ["train", "validation"]),
        ([*LEARN, "--method", "s5"], "--method", METHODS),
        ([*LEARN, "--optimiser", "lion"], "--optimiser", OPTIMISERS),
        ([*LEARN, "--family", "dpm4"], "--family", NAMES),
        ([*LEARN, "--start", "dpm4"], "--start", NAMES),
        ([*LEARN, "--grid", "linear"], "--grid", GRID_NAMES),
        (["study", "everything"], "name", STUDIES),
    ],
)
def test_an_unknown_name_is_bad_usage_that_lists_the_choices(
    call, monkeypatch, tmp_path, arguments, option, choices
):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(*arguments)
    assert status == 2
    assert not list(tmp_path.iterdir())
    assert repr(arguments[-1]) in error and option in error.lower()  # older releases of typer say NAME
    assert re.findall(r"'([\w-]+)'", error.partition("not one of")[2]) == list(choices)
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["evaluate", "--nfe", "many"],
        ["evaluate", "--nfe", "0"],
        ["evaluate", "--seed", "100"],
        ["sample", "--out", "a.png", "--count", "0"],
        ["sample", "--out", "a.png", "--count", "10001"],
        ["compare", "--nfe", "-1"],
        ["teacher", "--out", "p", "--pairs", "-5"],
        ["study", "uniform", "--nfe", "0"],
        ["study", "uniform", "--jobs", "0"],
        ["train", "--model", "fashion", "--seed", "-1"],
        ["learn", "--out", "s.safetensors", "--seed", "-1"],
        ["learn", "--out", "s.safetensors", "--nfe", "1001"],
        ["learn", "--out", "s.safetensors", "--alternations", "0"],
        ["learn", "--out", "s.safetensors", "--iterations", "0"],
        ["learn", "--out", "s.safetensors", "--order", "0"],
        ["learn", "--out", "s.safetensors", "--side", "4"],
        ["learn", "--out", "s.safetensors", "--radius", "-0.1"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_status_2_and_leaves_nothing(call, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(*arguments)
    assert status == 2 and "Traceback" not in error and not list(tmp_path.iterdir())


def test_version_and_completion(call, monkeypatch):
    assert call("--version")[:2] == (0, f"{__version__}\n")
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "bash"))
    status, out, _ = call("--show-completion")
    assert status == 0 and "complete" in out


@pytest.mark.parametrize(
    "name, known",
    [
        (ClassicName, NAMES),
        (GridName, [*GRIDS, "dmn", "gits"]),
        (MethodName, METHODS),
        (NetworkName, NETWORKS),
        (ObjectiveName, OBJECTIVES),
        (OptimiserName, OPTIMISERS),
        (SettingName, SETTINGS),
        (StudyName, STUDIES),
    ],
    ids="classic grid method network objective optimiser setting study".split(),
)
def test_the_names_that_may_be_chosen_are_those_that_there_are(name, known):
    assert get_args(name) == tuple(known)


@pytest.mark.parametrize(
    "choices",
    [METHODS, OPTIMISERS, NAMES, GRID_NAMES, OBJECTIVES, get_args(EmbeddingName)],
    ids="method optimiser classic grid objective embedding".split(),
)
def test_the_help_of_learn_lists_what_may_be_chosen(call, choices):
    status, out, _ = call("learn", "--help")
    assert status == 0 and "|".join(choices) in out


def test_a_table_that_is_no_solver(call, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    status, _, error = call("evaluate", "--solver", tmp_path / "bad.safetensors")
    assert status == 2 and "damaged" in error


# ---------------------------------------------------------------- learn, and what reads its file


@pytest.mark.parametrize(
    ("method", "optimiser", "title"),
    [
        ("s4s", "gauss-newton", "Gauss-Newton"),
        ("s4s", "adam", "Adam"),
        ("ld3", "gauss-newton", "Gauss-Newton"),
        ("ld3", "adam", "RMSprop, SGD"),
        ("joint", "adam", "Adam"),
        ("joint", "bfgs", "BFGS"),
        ("s4s-alt", "adam", "Adam"),
    ],
)
def test_learn_writes_a_solver_that_evaluate_reads(call, method, optimiser, title, tmp_path):
    out, row = tmp_path / "own.safetensors", tmp_path / "row.json"
    options = ["--nfe", "3", "--pairs", "4", "--samples", "6", "--out", out, "--json", row]
    options += ["--method", method, "--optimiser", optimiser, "--alternations", "1"]
    options += ["--family", "dpmpp-2m", "--grid", "logsnr", "--iterations", "2", "--side", "64"]
    status, printed, error = call("learn", *options)
    assert status == 0, error
    assert f"The solver is in {out}." in printed
    info = Solver.load(out).info
    assert (info["method"], info["optimiser"], info["start"]) == (method, title, "dpmpp-2m")
    learned = read(row)
    assert info["quality"] == learned and info["model"] == "fashion"
    assert call("evaluate", "--solver", out, "--samples", "6", "--json", row)[0] == 0
    again = read(row)
    assert (again["lpips"], again["grid"]) == (learned["lpips"], learned["grid"])
    status, _, error = call("learn", *options, "--grid", "karras")
    assert status == 2 and "another run" in error


@pytest.mark.parametrize("method, more", [("dss", []), ("dlms", []), ("dlms", ["--designer"])])
def test_the_ways_of_a_teacher_are_learned_along_and_their_files_are_read(call, method, more, tmp_path):
    out, row = tmp_path / "own.safetensors", tmp_path / "row.json"
    options = ["--nfe", "2", "--pairs", "4", "--samples", "4", "--out", out, "--json", row]
    options += ["--model", "faces-latent", "--method", method, "--iterations", "1", "--side", "64", *more]
    status, printed, error = call("learn", *options)
    assert status == 0, error
    learned = read(row)
    judged = ["--model", "faces-latent", "--solver", out, "--samples", "4", "--json", row]
    assert call("evaluate", *judged)[0] == 0
    assert read(row)["rmse"] == learned["rmse"] and read(row)["nfe"] == 2


def test_learn_says_what_it_did():
    record = {"validation_start": 0.5, "validation_best": 0.25, "start": "euler", "kept": "learned"}
    assert cli.learned(record) == "From euler the validation distance went from 0.5 to 0.25."
    assert "euler stays as it is" in cli.learned(record | {"validation_best": 0.5, "kept": "start"})


def test_a_model_of_ones_own_is_learned_for_and_judged(call, own, tmp_path):
    """By module:function. Without --start and --grid a race picks both, and the record has them."""
    out, row = tmp_path / "five.safetensors", tmp_path / "row.json"
    options = ["--model", f"{own}:gaussian", "--pairs", "8", "--side", "64", "--json", row]
    status, printed, error = call("learn", "--out", out, *options, "--iterations", "4", "--samples", "8")
    assert status == 0, error
    solver, learned = Solver.load(out), read(row)
    assert (solver.nfe, solver.info["method"], solver.info["optimiser"]) == (5, "joint", "BFGS")
    picked = read(tmp_path / "five.work" / "race.json")["picked"]
    assert picked["start"] in STARTS and picked["grid"] in GRIDS
    assert solver.info["start"] == picked["start"]
    assert solver.info["kept"] == "learned" and solver.info["grid"] == f"{picked['grid']}, moved"
    assert solver.info["model"] == "gaussian" and solver.info["side"] == 64
    assert f"From {picked['start']} the validation distance went from" in printed
    options = ["--model", f"{own}:gaussian", "--samples", "8", "--json", row]
    status, _, error = call("evaluate", "--solver", out, *options)
    assert status == 0, error
    judged = read(row)
    for key in ("lpips", "rmse", "fd_teacher"):
        assert judged[key] == pytest.approx(learned[key], rel=1e-4)
    assert (judged["kind"], judged["grid"], judged["nfe"]) == ("learned", solver.info["grid"], 5)
    assert "fd_real" not in judged  # it has no real images
    classical = ["--solver", picked["start"], "--grid", picked["grid"]]
    lower = ["--lower-final"] if STARTS[picked["start"]] else []
    call("evaluate", *classical, *lower, *options)
    assert judged["lpips"] < read(row)["lpips"]


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("gone_models:gaussian", "There is no model at gone_models:gaussian"),
        ("own_models:gone", "There is no model at own_models:gone"),
        ("own_models:", "There is no model at own_models:"),
        (":gaussian", "There is no model at :gaussian"),
        ("./own_models.py:gaussian", "give module:function"),
        ("own_models:WORDS", "There is no model at own_models:WORDS"),
        ("own_models:number", "must return a s4s_nb.Model; it returned int"),
    ],
)
def test_a_model_that_is_none_is_one_sentence(call, own, tmp_path, name, sentence):
    for command in (["learn", "--out", "s.safetensors"], ["evaluate"]):
        status, _, error = call(*command, "--model", name)
        assert status == 2 and error.startswith("s4s-nb: ") and sentence in error
        assert error.count("\n") == 1 and "Traceback" not in error
    assert not list(tmp_path.glob("s.*"))
    assert str(tmp_path) not in sys.path  # looked into for the while only


@pytest.mark.parametrize(
    "source, sentence, line",
    [
        ("def model():\n    return 1 / 0", "own_fault:model raised ZeroDivisionError", "return 1 / 0"),
        ("import gone_package", "own_fault:model raised ModuleNotFoundError", "import gone_package"),
        ("1 / 0", "own_fault:model raised ZeroDivisionError", "1 / 0"),
        ("def model(:", "own_fault:model raised SyntaxError", "def model(:"),
        ("import sys\nsys.exit('no')", "own_fault:model raised SystemExit (no)", "sys.exit('no')"),
        ("import sys\nsys.path.clear()\n1 / 0", "own_fault:model raised ZeroDivisionError", "1 / 0"),
    ],
)
def test_a_fault_of_somebodys_own_code_is_a_sentence_below_its_traceback(
    call, tmp_path, monkeypatch, source, sentence, line
):
    (tmp_path / "own_fault.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_fault", raising=False)
    status, _, error = call("evaluate", "--model", "own_fault:model")
    *trace, last = error.splitlines()
    assert status == 2 and last.startswith(f"s4s-nb: {sentence}")
    assert trace[0] == "Traceback (most recent call last):" and any(line in one for one in trace)
    assert str(ROOT / "s4s_nb") not in error, "no frame of the package"


def test_an_own_model_keeps_its_device_and_side_unless_they_are_given(own, tmp_path):
    with open(tmp_path / "own_models.py", "a") as file:
        file.write("\n\ndef small():\n    return dataclasses.replace(vector(), side=64, device='cpu:0')")
        file.write("\n\nimport dataclasses\n")
    name = f"{own}:small"
    assert (find_model(name).device, find_model(name).side) == ("cpu:0", 64)
    assert (find_model(name, "cpu", 96).device, find_model(name, "cpu", 96).side) == ("cpu", 96)
    assert (find_model("fashion").device, find_model("fashion").side) == ("cpu", 128)


# ---------------------------------------------------------------- evaluate, sample, compare


def test_evaluate_and_sample(call, tmp_path):
    """A solver file and the classic solver that it holds are judged alike."""
    model = load("fashion")
    make_solver("ipndm-3", 3, model.grid("karras")).save(tmp_path / "own.safetensors")
    rows = []
    for solver in ("ipndm-3", tmp_path / "own.safetensors"):
        options = ["--solver", solver, "--nfe", "3", "--grid", "karras", "--samples", "8"]
        status, out, _ = call("evaluate", *options, "--json", tmp_path / "row.json")
        assert status == 0 and "LPIPS to teacher" in out
        rows.append(read(tmp_path / "row.json"))
    assert rows[0]["nfe"] == rows[1]["nfe"] == 3
    assert rows[0]["lpips"] == rows[1]["lpips"] > 0
    keys = "model solver kind nfe grid samples rmse lpips fd_real fd_teacher seconds_per_100"
    assert set(keys.split()) <= set(rows[0])
    picture = tmp_path / "samples.png"
    options = ["--solver", "euler", "--nfe", "2", "--count", "3", "--out", picture]
    assert call("sample", *options)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_solver_file_is_judged_on_its_own_grid_with_its_own_evaluations(call, tmp_path):
    """Whatever --grid says, which is for solvers by name; another --nfe is refused."""
    file, row = tmp_path / "own.safetensors", tmp_path / "row.json"
    table = make_solver("dpmpp-2m", 3, load("fashion").grid("karras"))
    info = {"grid": "karras, moved", "method": "joint"}
    Solver("mine", table.sigmas, table.A, table.B, info=info).save(file)
    rows = []
    for options in ([], ["--grid", "uniform", "--nfe", "3", "--lower-final"]):
        assert call("evaluate", "--solver", file, "--samples", "4", "--json", row, *options)[0] == 0
        rows.append(read(row))
        assert (rows[-1]["solver"], rows[-1]["kind"]) == ("mine", "learned")
        assert (rows[-1]["grid"], rows[-1]["nfe"]) == ("karras, moved", 3)
    assert rows[0]["lpips"] == rows[1]["lpips"]
    for command in (["evaluate"], ["sample", "--out", tmp_path / "a.png"]):
        status, _, error = call(*command, "--solver", file, "--nfe", "7")
        assert status == 2 and "has 3 evaluations, not 7; leave --nfe out." in error
    assert not (tmp_path / "a.png").exists()
    table.save(file)  # one without a record
    assert call("evaluate", "--solver", file, "--samples", "4", "--json", row, "--grid", "uniform")[0] == 0
    assert (read(row)["grid"], read(row)["kind"], read(row)["nfe"]) == ("own", "classical", 3)


def test_evaluate_lowers_the_order_on_request(call, tmp_path):
    values = []
    for option in ("--no-lower-final", "--lower-final"):
        options = ["--solver", "unipc-3-bh2", "--nfe", "5", "--grid", "karras", "--samples", "8", option]
        call("evaluate", *options, "--json", tmp_path / "row.json")
        values.append(read(tmp_path / "row.json")["lpips"])
    assert values[1] < values[0]


@pytest.mark.parametrize("samples, seed", [("4", "1"), ("501", "0")])
def test_evaluate_makes_the_teacher_of_noises_that_are_not_stored(
    call, samples, seed, tmp_path, monkeypatch
):
    """A teacher of two evaluations, which is its own student: the distance is 0 on the same noises only."""
    few = make_solver("euler", 2, load("fashion").grid("karras"))
    monkeypatch.setattr(Model, "teacher", lambda self: few)
    options = ["--solver", "euler", "--grid", "karras", "--nfe", "2", "--samples", samples, "--seed", seed]
    status, _, error = call("evaluate", *options, "--json", tmp_path / "row.json")
    assert status == 0, error
    row = read(tmp_path / "row.json")
    assert (row["samples"], row["nfe"]) == (int(samples), 2)
    assert row["rmse"] < 1e-4 and row["fd_real"] > 0


def test_evaluate_has_the_stored_teacher_of_the_first_noises(call, tmp_path, monkeypatch):
    def none(self):
        raise AssertionError("no teacher needs to run")

    monkeypatch.setattr(Model, "teacher", none)
    options = ["--solver", "dpmpp-2m", "--nfe", "10", "--samples", "6", "--seed", "0"]
    status, _, error = call("evaluate", *options, "--json", tmp_path / "row.json")
    assert status == 0, error
    assert 0 < read(tmp_path / "row.json")["rmse"] < 0.2  # near to its images
    with pytest.raises(AssertionError, match="no teacher needs to run"):
        call("evaluate", *options, "--seed", "1")


def test_compare_has_the_classical_solvers_of_every_grid_the_given_ones_and_the_teacher(
    call, own, tmp_path, monkeypatch
):
    for slow in ("bootstrap_error", "extrapolated"):  # of which a comparison of 26 takes a minute
        monkeypatch.setattr(sys.modules["s4s_nb.evaluate"], slow, lambda *_: 1.0)
    table, picture = tmp_path / "rows.json", tmp_path / "compared.png"
    grid = {"sigma_max": 20.0, "sigma_min": 0.01}
    solver = make_solver("dpmpp-2m", 4, lambda n: karras(n, **grid))
    Solver("given", solver.sigmas, solver.A, solver.B, info={"grid": "its own"}).save("given.safetensors")
    options = ["--model", f"{own}:gaussian", "--nfe", "3", "--samples", "4", "--json", table]
    options += ["--solver", "given.safetensors", "--out", picture]
    status, out, error = call("compare", *options)
    assert status == 0, error
    *classical, given, teacher = read(table)
    names = [(row["grid"], row["solver"]) for row in classical]
    assert names == [(name, label) for name in GRIDS for label in AS_USED] and len(AS_USED) == 6
    assert {row["nfe"] for row in classical} == {3} and {row["kind"] for row in classical} == {"classical"}
    given_names = tuple(given[key] for key in ("solver", "kind", "grid", "nfe"))
    assert given_names == ("given", "learned", "its own", 4)
    assert (teacher["solver"], teacher["nfe"], teacher["rmse"]) == ("teacher", 12, 0.0)
    assert all(row["lpips"] > 0 and row["model"] == "gaussian" for row in [*classical, given])
    assert all(label in out for label in [*AS_USED, "given", "teacher", *GRIDS])
    assert picture.read_bytes().startswith(b"\x89PNG")
    options = ["--model", f"{own}:vector", "--nfe", "3", "--samples", "4", "--json", table]
    assert call("compare", *options, "--grid", "logsnr", "--grid", "uniform")[0] == 0
    assert [row["grid"] for row in read(table)] == ["logsnr"] * 6 + ["uniform"] * 6 + ["own"]


def test_a_comparison_without_images_has_a_table_and_no_picture(call, own, tmp_path):
    options = ["--model", f"{own}:vector", "--nfe", "3", "--samples", "4", "--grid", "karras"]
    status, out, error = call("compare", *options)
    assert status == 0 and "RMSE to teacher" in out and "LPIPS" not in out, error
    status, out, error = call("compare", *options, "--out", tmp_path / "compared.png")
    assert status == 2 and out == "", "it is known before the work"
    assert error.splitlines()[-1].startswith("s4s-nb: There is no picture: the end states")
    assert not (tmp_path / "compared.png").exists()


# ---------------------------------------------------------------- teacher, models, tour


def test_teacher_goes_on_where_it_was_left(call, tmp_path):
    folder = tmp_path / "pairs"
    for count in ("1", "2"):
        status, out, _ = call("teacher", "--pairs", count, "--out", folder)
        assert status == 0 and f"{count} pairs of fashion, 60 evaluations each" in out
    assert read(folder / "00000.json")["pairs"] == 2
    status, _, error = call("teacher", "--pairs", "1", "--out", folder, "--split", "validation")
    assert status == 2 and "holds other pairs" in error
    status, _, error = call("teacher", "--pairs", "1", "--out", folder, "--seed", "1")
    assert status == 2 and "holds other pairs" in error


def test_models(call, tmp_path):
    """Every setting has its card, a converged teacher, and a floor below the teacher's distance."""
    status, out, _ = call("models", "--time", "--json", tmp_path / "models.json")
    cards = read(tmp_path / "models.json")
    assert status == 0 and [card["name"] for card in cards] == list(SETTINGS)
    for card in cards:
        assert card["name"] in out and card["ms_per_image_and_nfe"] > 0
        assert 0.5e6 <= card["parameters"] <= 4e6
        assert card["teacher_rmse_to_twice_the_steps"] < 0.02
        assert card["half_precision_rmse"] < 0.01
        assert card["copies_share"] < 0.05
        assert 0 < card["fd_real_floor"] < card["fd_real_teacher"]
        if card["guidance_scale"] is not None:
            assert card["class_accuracy"] >= 0.95
            assert card["class_accuracy"] >= card["class_accuracy_without_guidance"]


def test_a_result_that_cannot_be_written_is_printed_all_the_same(call, tmp_path, monkeypatch):
    """The disk is full by then."""

    def full(*_):
        raise InputError("models.json cannot be written (No space left on device).")

    monkeypatch.setattr("s4s_nb.options.write_json", full)
    status, out, error = call("models", "--json", tmp_path / "models.json")
    assert status == 2 and all(name in out for name in SETTINGS)
    assert error == "s4s-nb: models.json cannot be written (No space left on device).\n"


def test_models_loads_no_network_unless_it_is_timed(call, tmp_path, monkeypatch):
    def loads(*_):
        raise AssertionError("a network was loaded")

    for place in ("cards.load", "bundled.load", "bundled.load_network"):
        monkeypatch.setattr(f"s4s_nb.models.{place}", loads)
    status, out, error = call("models", "--json", tmp_path / "models.json")
    assert status == 0, error
    assert all(name in out for name in SETTINGS) and "ms / image" not in out
    assert [card["name"] for card in read(tmp_path / "models.json")] == list(SETTINGS)
    with pytest.raises(AssertionError, match="a network was loaded"):
        call("models", "--time")


def test_a_small_tour(tmp_path):
    """Few pairs and samples: what is written, and that the learned row belongs to the saved solver."""
    result = tour(tmp_path, pairs=4, samples=12)
    assert read(tmp_path / "tour.json")["rows"] == result["rows"]
    assert [row["solver"] for row in result["rows"]] == [*AS_USED, "S4S", "S4S-Alt", "teacher"]
    assert [row["nfe"] for row in result["rows"]] == [5] * 8 + [60]
    assert (tmp_path / "tour.png").read_bytes().startswith(b"\x89PNG")
    for name, row in zip(("s4s", "s4s-alt"), result["rows"][-3:-1], strict=True):
        again = evaluate(load("fashion"), Solver.load(tmp_path / f"{name}.safetensors"), 12)
        assert again["lpips"] == pytest.approx(row["lpips"], rel=1e-4)


def test_evaluation_starts_from_the_test_noise_itself():
    model = load("fashion")
    expected = 80.0 * torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(2_000_000))
    assert torch.equal(model.starts("test", 1)[0], expected)


# ---------------------------------------------------------------- devices


def test_a_device_is_checked_once_it_is_the_process_s_own(monkeypatch):
    """Under torchrun: cuda becomes cuda:RANK before a tensor is put on it."""
    seen = []
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(("set", device)))
    monkeypatch.setattr(torch, "empty", lambda *_, device: seen.append(("put", device)))
    assert check_device("cuda") == "cuda:1"
    assert seen == [("set", "cuda:1"), ("put", "cuda:1")]
    assert check_device("cpu") == "cpu" and seen[2:] == [("put", "cpu")]

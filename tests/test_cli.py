"""The command line: what it prints and writes, and one sentence with status 2 for bad input."""

import json

import pytest
import torch

from s4s_nb import cli, tour
from s4s_nb.classic import make_solver
from s4s_nb.solvers import Solver
from s4s_nb.tour import CLASSIC
from s4s_nb.zoo import SETTINGS, load_model


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["s4s-nb", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["evaluate", "--model", "mnist"], "Unknown model 'mnist'; choose one of: fashion,"),
        (["evaluate", "--solver", "dpm++"], "Unknown solver 'dpm++'; choose one of: euler"),
        (["evaluate", "--solver", "euler", "--grid", "linear"], "Unknown grid 'linear'"),
        (["evaluate", "--solver", "euler", "--nfe", "0"], "at least one evaluation"),
        (["evaluate", "--solver", "euler", "--samples", "100000"], "can be judged on 4 to 500"),
        (["evaluate", "--solver", "gone.safetensors"], "There is no file gone.safetensors"),
        (["evaluate", "--device", "cuda:9"], "cannot be used here"),
        (["train", "--model", "fashion", "--dataset", "gone.npz"], "gone.npz is no .npz"),
        (["train", "--model", "faces", "--dataset", "gone.npy"], "data/faces.mjs draws it"),
        (["train", "--model", "mnist"], "Unknown network 'mnist'"),
        (["learn", "--out", "s.pt"], "has another ending"),
        (["learn", "--out", "s.safetensors", "--method", "s5"], "Unknown method 's5'"),
        (["learn", "--out", "s.safetensors", "--family", "dpm4"], "Unknown start of a family 'dpm4'"),
        (["learn", "--out", "s.safetensors", "--pairs", "1"], "2 to 10,000 pairs"),
        (["learn", "--out", "s.safetensors", "--method", "ld3", "--nfe", "1"], "two steps or more"),
        (["study", "everything"], "Unknown study 'everything'"),
        (["study", "alt", "--model", "fashion", "--model", "mnist"], "Unknown model 'mnist'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(monkeypatch, capsys, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert not list(tmp_path.iterdir())  # nothing half-written
    assert error.startswith("s4s-nb: ") and sentence in error
    assert "Traceback" not in error


def test_bad_usage_is_status_2(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "evaluate", "--nfe", "many")[0] == 2
    assert call(monkeypatch, capsys, "fly")[0] == 2


def test_a_table_that_is_no_solver(monkeypatch, capsys, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    status, _, error = call(monkeypatch, capsys, "evaluate", "--solver", str(tmp_path / "bad.safetensors"))
    assert status == 2 and "damaged" in error


@pytest.mark.parametrize(
    ("method", "optimiser"),
    [
        ("s4s", "gauss-newton"),
        ("s4s", "adam"),
        ("ld3", "gauss-newton"),
        ("ld3", "adam"),
        ("joint", "adam"),
        ("joint", "bfgs"),
        ("s4s-alt", "adam"),
    ],
)
def test_learn_writes_a_solver_that_evaluate_reads(method, optimiser, monkeypatch, capsys, tmp_path):
    out, row = tmp_path / "own.safetensors", tmp_path / "row.json"
    options = ["--nfe", "3", "--pairs", "4", "--samples", "6", "--out", str(out), "--json", str(row)]
    options += ["--method", method, "--optimiser", optimiser, "--alternations", "1"]
    status, printed, error = call(monkeypatch, capsys, "learn", *options)
    assert status == 0, error
    assert "The solver is in" in printed
    by = "" if optimiser == "gauss-newton" else f"-{optimiser}"
    assert Solver.load(out).info["method"] == method + by
    learned = json.loads(row.read_text())
    read = ["--solver", str(out), "--samples", "6", "--json", str(row)]
    assert call(monkeypatch, capsys, "evaluate", *read)[0] == 0
    again = json.loads(row.read_text())
    assert (again["lpips"], again["grid"]) == (learned["lpips"], learned["grid"])
    known = call(monkeypatch, capsys, "learn", *options, "--grid", "karras")
    assert known[0] == 2 and "another run" in known[2]


def test_evaluate_and_sample(monkeypatch, capsys, tmp_path):
    """A solver file and the classic solver that it holds are judged alike."""
    model = load_model("fashion")
    make_solver("ipndm-3", 3, model.grid("karras")).save(tmp_path / "own.safetensors")
    rows = []
    for solver in ("ipndm-3", str(tmp_path / "own.safetensors")):
        options = ["--solver", solver, "--nfe", "3", "--grid", "karras", "--samples", "8"]
        status, out, _ = call(
            monkeypatch, capsys, "evaluate", *options, "--json", str(tmp_path / "row.json")
        )
        assert status == 0 and "LPIPS to teacher" in out
        rows.append(json.loads((tmp_path / "row.json").read_text()))
    assert rows[0]["nfe"] == rows[1]["nfe"] == 3
    assert rows[0]["lpips"] == rows[1]["lpips"] > 0
    keys = "model solver kind nfe grid samples rmse lpips fd_real fd_teacher seconds_per_100"
    assert set(keys.split()) <= set(rows[0])
    picture = tmp_path / "samples.png"
    options = ["--solver", "euler", "--nfe", "2", "--count", "3", "--out", str(picture)]
    assert call(monkeypatch, capsys, "sample", *options)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_evaluate_lowers_the_order_on_request(monkeypatch, capsys, tmp_path):
    values = []
    for option in ("--no-lower-final", "--lower-final"):
        options = ["--solver", "unipc-3-bh2", "--nfe", "5", "--grid", "karras", "--samples", "8", option]
        call(monkeypatch, capsys, "evaluate", *options, "--json", str(tmp_path / "row.json"))
        values.append(json.loads((tmp_path / "row.json").read_text())["lpips"])
    assert values[1] < values[0]


def test_teacher_goes_on_where_it_was_left(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "pairs"
    for count in ("1", "2"):
        status, out, _ = call(monkeypatch, capsys, "teacher", "--pairs", count, "--out", str(folder))
        assert status == 0 and f"{count} pairs of fashion, 60 evaluations each" in out
    assert json.loads((folder / "00000.json").read_text())["pairs"] == 2
    options = ["--pairs", "1", "--out", str(folder), "--split", "validation"]
    status, _, error = call(monkeypatch, capsys, "teacher", *options)
    assert status == 2 and "holds other pairs" in error


def test_models(monkeypatch, capsys, tmp_path):
    """Every setting has its card, a converged teacher, and a floor below the teacher's distance."""
    status, out, _ = call(monkeypatch, capsys, "models", "--json", str(tmp_path / "models.json"))
    cards = json.loads((tmp_path / "models.json").read_text())
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


def test_a_small_tour(tmp_path):
    """Few pairs and samples: what is written, and that the learned row belongs to the saved solver."""
    result = tour.tour(tmp_path, pairs=4, samples=12)
    assert json.loads((tmp_path / "tour.json").read_text())["rows"] == result["rows"]
    assert [row["solver"] for row in result["rows"]] == [*CLASSIC, "S4S", "S4S-Alt", "teacher"]
    assert [row["nfe"] for row in result["rows"]] == [5] * 8 + [60]
    assert (tmp_path / "tour.png").read_bytes().startswith(b"\x89PNG")
    from s4s_nb.judge import judge
    from s4s_nb.solvers import Solver

    for name, row in zip(("s4s", "s4s-alt"), result["rows"][-3:-1], strict=True):
        again, _ = judge(load_model("fashion"), Solver.load(tmp_path / f"{name}.safetensors"), 12)
        assert again["lpips"] == pytest.approx(row["lpips"], rel=1e-4)


def test_evaluation_starts_from_the_test_noise_itself():
    model = load_model("fashion")
    expected = 80.0 * torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(2_000_000))
    assert torch.equal(model.starts("test", 1)[0], expected)

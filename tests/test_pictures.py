"""The package's pictures are the same under any settings of matplotlib."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.rcsetup import cycler

from s4s_nb.classic import make_solver
from s4s_nb.course import plots
from s4s_nb.learn.loop import Result
from s4s_nb.pictures import image_grid, save_figure
from tests.problems import GRID, student

ODD = {
    "figure.facecolor": "black",
    "axes.facecolor": "black",
    "axes.edgecolor": "white",
    "text.color": "white",
    "text.usetex": True,  # needs LaTeX
    "font.family": ["no such font"],
    "font.size": 30,
    "savefig.dpi": 20,
    "savefig.transparent": True,
    "savefig.pad_inches": 2,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=["red"]),
    "lines.linewidth": 9,
    "image.interpolation": "bicubic",
}


def course() -> Result:
    solver = make_solver("euler", 5, GRID)
    solver.info.update(method="s4s", start="euler")
    return Result(solver, student(), solver, [(0, 0, 1.0), (0, 1, 0.5), (1, 1, 0.4)])


FIGURES = {
    "images": lambda: image_grid({"one": torch.zeros(2, 1, 4, 4), "two": torch.rand(2, 3, 4, 4)}),
    "plot": lambda: course().plot(),
    "table": lambda: plots.table_picture(make_solver("ipndm-2", 3, GRID)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_the_same_under_odd_settings(tmp_path, name):
    written = []
    for settings in ({}, ODD):
        path = Path(tmp_path / "a.png")
        torch.manual_seed(0)
        with plt.rc_context(settings):
            before = dict(plt.rcParams)
            save_figure(path, FIGURES[name]())
            assert dict(plt.rcParams) == before, "the reader's own settings stay"
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_a_shown_picture_is_the_same_under_odd_settings(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, **_: shown.append(data["image/png"]))
    for settings in ({}, ODD):
        with plt.rc_context(settings):
            plots.show(
                FIGURES["plot"](), "A line that falls from 1.0 to 0.4 over three validations, for a test"
            )
    assert shown[0] == shown[1]

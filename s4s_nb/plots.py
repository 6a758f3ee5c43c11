"""One figure style, pictures with alt text, and the pictures that several notebooks share."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from s4s_nb.errors import InputError
from s4s_nb.files import replace_file
from s4s_nb.solvers import Solver

# Okabe and Ito's colours, told apart by colour-blind readers; markers and dashes survive grey print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3))]


def use_style() -> None:
    """Opaque white figures of one size and resolution, in the colours above."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.figsize": (7.0, 4.0),
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "font.size": 10,
            "legend.frameon": False,
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alt text, which nbval compares, and close it.

    It is stored with 256 colours: that cannot be seen, and notebooks are a third of the size.

    Raises:
        InputError: an alt text shorter than 40 characters or without a number in it.
    """
    if len(alt) < 40 or not any(c.isdigit() for c in alt):
        raise InputError("An alt text says what the figure shows, with its key numbers, in a sentence.")
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    plt.close(figure)
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    bundle = {"image/png": buffer.getvalue(), "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def table_picture(*solvers: Solver) -> Figure:
    """A above B for each solver, as heat maps around 0; rows are steps, columns the levels behind."""
    side = max(2.5, *(0.36 * solver.nfe for solver in solvers))
    size = (0.6 + (side + 0.1) * len(solvers), 2 * side)
    figure, axes = plt.subplots(2, len(solvers), figsize=size, squeeze=False)
    for column, solver in zip(axes.T, solvers, strict=True):
        for axis, key in zip(column, "AB", strict=True):
            heat_map(axis, getattr(solver, key).detach().numpy(), numbers=solver.nfe <= 8)
            axis.set_title(f"{solver.name}: {key}", fontsize=10)
        levels = [f"{sigma:.2g}" for sigma in solver.sigmas[:-1].tolist()]
        column[1].set_xticks(range(solver.nfe), levels, rotation=90, fontsize=8)
        column[1].set_xlabel("level σ of the history")
    for axis in axes[:, 0]:
        axis.set_ylabel("step $i$")
    return figure


def heat_map(axis, matrix: np.ndarray, numbers: bool = True) -> None:
    """A lower-triangular matrix; colour saturates at ±2, the upper triangle stays white."""
    n = len(matrix)
    shown = np.where(np.tril(np.ones((n, n))) > 0, matrix, np.nan)
    axis.imshow(shown, cmap="PuOr", vmin=-2, vmax=2)
    axis.set_xticks(range(n))
    axis.set_yticks(range(n))
    axis.grid(False)
    style = {"ha": "center", "va": "center", "fontsize": 7 if n <= 6 else 5.5}
    for i, j in zip(*np.nonzero(np.tril(matrix)), strict=True):
        size = abs(matrix[i, j])
        if numbers and size >= 0.005:
            digits = sum(size < bound for bound in (9.995, 99.95))  # three in all fit the cell
            ink = "white" if size > 1.2 else "black"
            axis.text(j, i, f"{matrix[i, j]:.{digits}f}", color=ink, **style)


def image_grid(images: dict[str, Tensor], side: float = 0.75) -> Figure:
    """Images in [−1, 1], (n, c, h, w) a row: solvers along the rows, same noises down the columns."""
    columns = max(len(row) for row in images.values())
    figure, axes = plt.subplots(
        len(images),
        columns,
        figsize=(1.6 + side * columns, side * len(images)),
        squeeze=False,
        layout="constrained",
        facecolor="white",
    )
    for (label, row), line in zip(images.items(), axes, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, row, strict=False):
            axis.imshow(as_pixels(image), cmap="gray", vmin=0, vmax=1)
        line[0].text(-0.12, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    return figure


def as_pixels(image: Tensor) -> np.ndarray:
    """(c, h, w) in [−1, 1] → (h, w) or (h, w, 3) in [0, 1]."""
    pixels = (image.detach().float().cpu().clamp(-1, 1) + 1) / 2
    return pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()


def save_samples(path: Path, images: Tensor, columns: int = 10) -> None:
    """Write images in [−1, 1] as one PNG of 256 colours, ``columns`` a row."""
    sheet = make_grid(images.cpu().clamp(-1, 1) / 2 + 0.5, nrow=columns, padding=2, pad_value=1.0)
    picture = Image.fromarray((255 * as_pixels(2 * sheet - 1)).round().astype(np.uint8))
    picture = picture.quantize(256, dither=Image.Dither.NONE)
    replace_file(path, lambda p: picture.save(p, "PNG", optimize=True))

"""One figure style, pictures with alt text, and the pictures that several notebooks share."""

import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from s4s_nb.errors import InputError
from s4s_nb.pictures import STYLE, in_style
from s4s_nb.solvers import Solver

# Told apart in grey print, beside colours and dashes.
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


def use_style() -> None:
    """Draw everything from here on in the style of the package's own pictures."""
    plt.style.use(STYLE)


@in_style()
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


@in_style()
def table_picture(*solvers: Solver) -> Figure:
    """A above B for each solver, as heat maps around 0; rows are steps, columns the levels behind."""
    side = max(2.5, *(0.36 * solver.steps for solver in solvers))
    size = (0.6 + (side + 0.1) * len(solvers), 2 * side)
    figure, axes = plt.subplots(2, len(solvers), figsize=size, squeeze=False)
    for column, solver in zip(axes.T, solvers, strict=True):
        for axis, key in zip(column, "AB", strict=True):
            heat_map(axis, getattr(solver, key).detach().numpy(), numbers=solver.steps <= 8)
            axis.set_title(f"{solver.name}: {key}", fontsize=10)
        levels = [f"{sigma:.2g}" for sigma in solver.sigmas[:-1].tolist()]
        column[1].set_xticks(column[1].get_xticks(), levels, rotation=90, fontsize=8)
        column[1].set_xlabel("level σ of the history")
    for axis in axes[:, 0]:
        axis.set_ylabel("step $i$")
    return figure


def heat_map(axis, matrix: np.ndarray, numbers: bool = True) -> None:
    """A lower-triangular matrix; colour saturates at ±2, the upper triangle stays white."""
    n = len(matrix)
    seaborn.heatmap(
        matrix,
        ax=axis,
        mask=np.triu(np.ones((n, n)), 1) > 0,
        cmap="PuOr",
        vmin=-2,
        vmax=2,
        cbar=False,
        square=True,
        annot=np.vectorize(three_digits)(matrix) if numbers else None,
        fmt="",
        annot_kws={"fontsize": min(8, 42 / n)},  # a sign and three digits fit a cell
        xticklabels=list(map(str, range(n))),
        yticklabels=list(map(str, range(n))),
    )
    axis.grid(False)
    axis.tick_params(axis="y", rotation=0)


def three_digits(value: float) -> str:
    """A number in three digits, which fit a cell; nothing for what rounds to 0."""
    digits = sum(abs(value) < bound for bound in (9.995, 99.95))
    return f"{value:.{digits}f}" if abs(value) >= 0.005 else ""

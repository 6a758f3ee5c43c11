"""Pictures of images: rows of samples beside their solvers, and sheets of them."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from PIL import Image
from torch import Tensor

from s4s_nb.files import replace_file

# Okabe and Ito's colours, told apart by colour-blind readers; dashes survive grey print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3))]
STYLE = [
    "default",
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
    },
]
"""The style of every picture of the package, whatever a reader's own settings of matplotlib are: opaque
white figures of one size and resolution. As ``@in_style()`` for functions that draw or save."""


def in_style():
    """A context, or a decorator, in which figures are drawn and saved in :data:`STYLE`."""
    return plt.style.context(STYLE)


@in_style()
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


@in_style()
def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, and close it."""
    replace_file(path, lambda p: figure.savefig(p, format="png", dpi=150, bbox_inches="tight"))
    plt.close(figure)


SMALLEST_SIDE = 64
"""Of an image on a sheet of samples."""


def save_samples(path: Path, images: Tensor, columns: int = 10) -> None:
    """Write images in [−1, 1] as one PNG of 256 colours, ``columns`` a row.

    Small ones are enlarged, pixel by pixel, to 64 or more a side.
    """
    from torchvision.utils import make_grid

    times = -(-SMALLEST_SIDE // min(images.shape[-2:]))
    images = images.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1)
    sheet = make_grid(images.cpu().clamp(-1, 1) / 2 + 0.5, nrow=columns, padding=2, pad_value=1.0)
    picture = Image.fromarray((255 * as_pixels(2 * sheet - 1)).round().astype(np.uint8))
    picture = picture.quantize(256, dither=Image.Dither.NONE)
    replace_file(path, lambda p: picture.save(p, "PNG", optimize=True))

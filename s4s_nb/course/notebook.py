"""What every notebook is set up with: ``from s4s_nb import nb``."""

import warnings

from s4s_nb.course.checks import check
from s4s_nb.course.plots import MARKERS, heat_map, show, table_picture, use_style
from s4s_nb.course.widgets import explore
from s4s_nb.pictures import COLOURS, DASHES, image_grid

__all__ = [
    "COLOURS",
    "DASHES",
    "MARKERS",
    "check",
    "explore",
    "heat_map",
    "image_grid",
    "show",
    "table_picture",
]

use_style()
# tqdm asks for a newer ipywidgets whenever no live front end answers; its plain bar is fine then.
warnings.filterwarnings("ignore", message="IProgress not found")

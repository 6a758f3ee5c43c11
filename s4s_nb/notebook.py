"""The one set-up line of every notebook: ``from s4s_nb import notebook as nb``."""

import warnings

from s4s_nb.checks import check
from s4s_nb.plots import heat_map, image_grid, show, table_picture, use_style
from s4s_nb.widgets import explore

__all__ = ["check", "explore", "heat_map", "image_grid", "show", "table_picture"]

use_style()
# tqdm asks for a newer ipywidgets whenever no live front end answers; its plain bar is fine then.
warnings.filterwarnings("ignore", message="IProgress not found")

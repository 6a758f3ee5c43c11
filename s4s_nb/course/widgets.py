"""``explore``: sliders in a live notebook, one plain call where nothing can slide."""

import os
from collections.abc import Callable
from typing import Any

import ipywidgets

from s4s_nb.errors import InputError


def is_static() -> bool:
    """Whether stored outputs are being made or compared: ``refresh`` and the tests say so."""
    return os.environ.get("S4S_NB_STATIC") == "1"


def explore(function: Callable[..., None], **controls: Any) -> None:
    """Let the reader move the arguments of ``function``, which shows something and returns None.

    A control is (low, high, step, start) for a slider or a list of choices, the first of them the
    start. In a static run ``function`` is called once, at the starts, so that the stored output is
    an ordinary picture.

    Raises:
        InputError: a control is neither of the two.
    """
    for name, control in controls.items():
        if not (isinstance(control, list) and control or isinstance(control, tuple) and len(control) == 4):
            raise InputError(f"Give {name} as (low, high, step, start) or as a list of choices.")
    if is_static():
        function(**{name: start_of(control) for name, control in controls.items()})
        return
    ipywidgets.interact(function, **{name: widget_of(name, c) for name, c in controls.items()})


def start_of(control: Any) -> Any:
    """The value that a control starts at."""
    return control[0] if isinstance(control, list) else control[3]


def widget_of(name: str, control: Any) -> ipywidgets.Widget:
    """The ipywidget of a control; pictures follow when the slider is let go."""
    look = {"description": name.replace("_", " "), "style": {"description_width": "6em"}}
    if isinstance(control, list):
        return ipywidgets.Dropdown(options=control, value=control[0], **look)
    low, high, step, start = control
    whole = all(isinstance(v, int) for v in control)
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(value=start, min=low, max=high, step=step, continuous_update=False, **look)

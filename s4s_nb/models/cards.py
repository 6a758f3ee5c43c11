"""Model cards: what is bundled, how it was trained, how good its teacher is, and how fast it is here."""

import json
import time
from statistics import median

import torch

from s4s_nb.files import data_file
from s4s_nb.models import Model
from s4s_nb.models.bundled import SETTINGS, load
from s4s_nb.runtime import synchronize


def cards(device: str | None = None) -> list[dict]:
    """One record a bundled setting: what it is, how it was trained, how good its teacher is; with a device
    also the milliseconds that an image and evaluation take there."""
    known = [json.loads(data_file(f"{name}.json").read_text(encoding="utf-8")) for name in SETTINGS]
    if device is None:
        return known
    return [card | {"ms_per_image_and_nfe": milliseconds(load(card["name"], device))} for card in known]


@torch.inference_mode()
def milliseconds(model: Model, batch: int = 50, repeats: int = 5) -> float:
    """Median time of an evaluation of the setting's denoiser, over the images in it."""
    x, cond = model.starts("test", batch), model.condition("test", batch)
    sigma, seconds = torch.tensor(model.sigma_max, dtype=torch.float64), []
    for _ in range(repeats + 1):
        synchronize(model.device)
        started = time.perf_counter()
        model.denoise(x, sigma, **cond)
        synchronize(model.device)
        seconds.append(time.perf_counter() - started)
    return round(1000 * median(seconds[1:]) / batch, 3)


CARD_COLUMNS = {
    "name": "setting",
    "parameters": "parameters",
    "images_seen": "images seen",
    "fd_real_teacher": "teacher FD to real",
    "fd_real_floor": "floor",
    "copies_share": "copies",
    "class_accuracy": "class accuracy",
    "ms_per_image_and_nfe": "ms / image / NFE",
}


def listing(rows: list[dict]) -> str:
    """Cards as text, one line a setting."""
    import pandas as pd

    there = [key for key in CARD_COLUMNS if any(key in row for row in rows)]
    frame = pd.DataFrame(rows).reindex(columns=there).rename(columns=CARD_COLUMNS)
    titles = "\n".join(f"{name}: {setting.title}" for name, setting in SETTINGS.items())
    return frame.to_string(index=False, na_rep="–") + "\n\n" + titles

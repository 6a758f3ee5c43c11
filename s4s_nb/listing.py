"""What ``s4s-nb models`` prints: the bundled settings, how good their teachers are, what they cost here."""

import time
from statistics import median

import pandas as pd
import torch

from s4s_nb.teachers import bound
from s4s_nb.zoo import SETTINGS, ImageModel, cards, load_model

COLUMNS = {
    "name": "setting",
    "parameters": "parameters",
    "images_seen": "images seen",
    "fd_real_teacher": "teacher FD to real",
    "fd_real_floor": "floor",
    "copies_share": "copies",
    "class_accuracy": "class accuracy",
    "ms_per_image_and_nfe": "ms / image / NFE",
}


def listing() -> list[dict]:
    """The model cards, each with the milliseconds that an image and evaluation take on this machine."""
    return [card | {"ms_per_image_and_nfe": milliseconds(load_model(card["name"]))} for card in cards()]


@torch.inference_mode()
def milliseconds(model: ImageModel, batch: int = 50, repeats: int = 5) -> float:
    """Median time of an evaluation of the setting's denoiser, over the images in it."""
    x, labels = model.starts("test", batch), model.labels(batch)
    denoise = bound(model.denoise, labels)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        denoise(x, torch.tensor(model.setting.sigma_max, dtype=torch.float64))
        seconds.append(time.perf_counter() - started)
    return round(1000 * median(seconds[1:]) / batch, 3)


def as_text(rows: list[dict]) -> str:
    """One line a setting."""
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
    titles = "\n".join(f"{name}: {setting.title}" for name, setting in SETTINGS.items())
    return frame.to_string(index=False, na_rep="–") + "\n\n" + titles

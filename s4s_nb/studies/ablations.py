"""What learning costs and what each choice in it does: recipes compared on one model, at one NFE."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from s4s_nb.denoisers import Denoiser
from s4s_nb.distances import LPIPS_SIDE
from s4s_nb.evaluate import evaluate
from s4s_nb.families import make_student
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import radius_rule
from s4s_nb.models import Model
from s4s_nb.models.bundled import load
from s4s_nb.studies.sweep import QUALITY, Sweep


@dataclass
class Meter:
    """A denoiser that counts its evaluations: one a sample, and two more where a gradient is kept."""

    denoise: Denoiser
    evaluations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        with self.lock:
            self.evaluations += len(x) * (3 if torch.is_grad_enabled() else 1)
        return self.denoise(x, sigma, **cond)


SPENT = {
    "Gauss-Newton, 40 pairs": {"pairs": 40, "iterations": 4},
    "Gauss-Newton, 80 pairs": {"pairs": 80, "iterations": 5},
    "Gauss-Newton, 120 pairs": {"pairs": 120, "iterations": 5},
    "Adam, relaxed": {"pairs": 700, "epochs": 10, "relaxed": 1.0},
    "Adam, hard": {"pairs": 700, "epochs": 10},
}
"""Three of ours, and S4S's: 700 pairs, 10 epochs of batches of 20, with and without its relaxed starts."""

BASE = {"pairs": 40, "iterations": 5}
ADAM = {"pairs": 100, "epochs": 10}
ABLATIONS = {
    "base": BASE,
    **{f"{count} pairs": BASE | {"pairs": count} for count in (10, 20, 80, 160)},
    **{f"order {order}": BASE | {"order": order} for order in (2, 5)},
    "rows that sum to one": BASE | {"consistent": True},
    "LPIPS at 128 px": BASE | {"side": 128},
    "mean squared error": BASE | {"squared": True},
    "Adam": ADAM,
    **{f"Adam, radius {times:g} x rule": ADAM | {"relaxed": times} for times in (1.0, 10.0, 100.0)},
}
"""One change at a time, to 40 pairs, order 3, free rows, LPIPS and Gauss-Newton; the radius by Adam."""


def optimisers(
    out: Path,
    settings: Sequence[str] = ("fashion", "faces-latent"),
    nfes: Sequence[int] = (5,),
    recipes: dict[str, dict] = SPENT,
    samples: int = 500,
    device: str = "cpu",
    name: str = "optimisers",
) -> dict:
    """What each recipe reaches from DPM-Solver++ 2M on the log-SNR grid, and for how many evaluations.

    Evaluations of the network: forward 1, backward 2. Settings must be unconditional.

    Raises:
        InputError: an unknown setting, or a table that was made with other recipes.
    """
    table = Sweep(out, f"s4s-nb study {name}", ("setting", "nfe", "recipe"), {"recipes": recipes})
    for setting in settings:
        model = load(setting, device)
        for _, nfe, label in table.missing(product([setting], nfes, recipes), setting):
            table.add(recipe_cell(model, nfe, label, samples, **recipes[label]))
    return table.read()


ablations = partial(optimisers, settings=("fashion",), recipes=ABLATIONS, name="ablations")
"""The same, of one change at a time."""


def recipe_cell(
    model: Model,
    nfe: int,
    label: str,
    samples: int,
    pairs: int,
    iterations: int = 0,
    epochs: int = 0,
    relaxed: float = 0.0,
    order: int = 3,
    consistent: bool = False,
    side: int = LPIPS_SIDE,
    squared: bool = False,
) -> dict:
    """Learn by one recipe, Gauss-Newton's if it has iterations, and judge.

    relaxed: radius as a multiple of the rule's. squared: Gauss-Newton minimises the images' mean squared
    error in place of LPIPS.
    """
    model = replace(model, side=side, embedding=root_mean_square if squared else None)
    student = make_student("dpmpp-2m", nfe, model.grid("logsnr"), order, consistent)
    train, validation = model.pairs("train", pairs), model.pairs("validation", 40)
    radius = relaxed * radius_rule(student.coefficients.numel(), train.starts[0].numel())
    meter = Meter(model.denoise)
    problem = Problem(meter, train, validation, model.embed)
    options = {"optimiser": "gauss-newton", "iterations": iterations}
    if not iterations:
        options = {"optimiser": "adam", "iterations": epochs, "radius": radius}
    started = time.perf_counter()
    result = learn_student(problem, student, "s4s", **options)
    seconds = time.perf_counter() - started
    row = evaluate(model, result.solver, samples)
    names = {"setting": model.name, "grid": "logsnr", "family": student.start, "nfe": nfe, "method": "s4s"}
    cost = {"evaluations": meter.evaluations, "learning_seconds": round(seconds, 1)}
    return {
        **names,
        "recipe": label,
        "parameters": student.coefficients.numel(),
        "pairs": pairs,
        "radius": radius,
        **cost,
        "teacher_evaluations": (pairs + 40) * model.teacher().nfe,
        **{key: row[key] for key in QUALITY},
        "history": [(step, value) for _, step, value in result.history],
    }


def root_mean_square(images: Tensor) -> Tensor:
    """e(x) with ‖e(x) − e(y)‖² the mean square of the difference of two images."""
    return images.flatten(1) / images[0].numel() ** 0.5


def recipes_summary(table: dict) -> str:
    """Distances and costs, the latter also relative to the first Adam of the setting."""
    frame = pd.DataFrame(table["cells"])
    adam = frame[frame["recipe"].str.startswith("Adam")].groupby("setting")["evaluations"].first()
    frame["share of Adam's"] = frame["evaluations"] / frame["setting"].map(adam)
    columns = ["setting", "recipe", "parameters", "lpips", "fd_teacher", "evaluations", "share of Adam's"]
    return frame[columns].to_string(index=False, float_format=lambda value: f"{value:.3g}")

"""What learning costs and what each choice in it does: recipes compared on one model, at one NFE."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from s4s_nb.denoisers import Denoiser
from s4s_nb.distances import LPIPS_SIDE
from s4s_nb.evaluate import evaluate
from s4s_nb.families import LinearMultistep, make_student
from s4s_nb.grids import Grid
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import radius_rule
from s4s_nb.models import Model
from s4s_nb.multistep import linear_multistep
from s4s_nb.pairs import PER_SEED
from s4s_nb.solvers import Solver
from s4s_nb.student import zeros
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

IPNDM = BASE | {"start": "ipndm-3"}
PAPER = {
    "iPNDM": IPNDM,
    "the same coefficients in every step": IPNDM | {"constant": True},
    "random start": IPNDM | {"gaussian": True},
    "single-step": BASE | {"start": "dpm-2s"},
    "single-step, rows that sum to one": BASE | {"start": "dpm-2s", "consistent": True},
    **{f"iPNDM, run {seed}": IPNDM | {"seed": seed} for seed in (1, 2, 3)},
}
"""Ablations of S4S's appendix H.2 that the others leave out; the runs, of other pairs, are for a PCA."""


class SameEveryStep(LinearMultistep):
    """The linear multistep family with one coefficient for each age of an output, in all steps the same."""

    def __init__(self, start: str, sigmas: Grid, order: int = 3):
        super().__init__(start, sigmas, order)
        rows, columns = self.weights.moved.nonzero(as_tuple=True)
        self.ages, self.coefficients = rows - columns, zeros(order)

    def on(self, sigmas: Grid) -> Solver:
        weights = self.classic(sigmas) + self.weights(self.coefficients[self.ages])
        return linear_multistep(sigmas, weights, self.form, f"s4s-{self.start}, constant")


def put_at_random(student: LinearMultistep, seed: int = 0) -> None:
    """Move a student from its classic solver to weights that are standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(student.coefficients.numel(), generator=generator, dtype=torch.float64)
    classic = student.classic(student.sigmas)[student.weights.moved]
    student.move(normal - classic, ("coefficients",))


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

    def cell(model: Model, nfe: int, label: str) -> dict:
        return recipe_cell(model, nfe, label, samples, **recipes[label])

    return table.fill((settings, nfes, recipes), device, cell)


ablations = partial(optimisers, settings=("fashion",), recipes=ABLATIONS, name="ablations")
"""The same, of one change at a time."""
paper = partial(optimisers, settings=("fashion",), recipes=PAPER, name="paper")
"""The same, of what S4S's appendix changes."""


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
    start: str = "dpmpp-2m",
    constant: bool = False,
    gaussian: bool = False,
    seed: int = 0,
) -> dict:
    """Learn by one recipe, Gauss-Newton's if it has iterations, and judge.

    relaxed: radius as a multiple of the rule's. squared: Gauss-Newton minimises the images' mean squared
    error in place of LPIPS. constant: coefficients are the same in every step. gaussian: they begin at
    random. seed: of the pairs.
    """
    model = replace(model, side=side, embedding=root_mean_square if squared else None)
    grid = model.grid("logsnr")
    student = make_student(start, nfe, grid, order, consistent)
    if constant:
        student = SameEveryStep(start, grid(nfe), order)
    if gaussian:
        put_at_random(student)
    first = seed * PER_SEED
    train, validation = model.pairs("train", pairs, first), model.pairs("validation", 40, first)
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
        "coefficients": student.coefficients.tolist(),
    }


def root_mean_square(images: Tensor) -> Tensor:
    """e(x) with ‖e(x) − e(y)‖² the mean square of the difference of two images."""
    return images.flatten(1) / images[0].numel() ** 0.5


def principal_axes(runs: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (n, 2) of n coefficient vectors, in the order given, along the two axes in which they
    differ most, and the shares of their variance that these have (S4S, figure 3)."""
    _, sizes, axes = torch.linalg.svd(runs - runs.mean(0), full_matrices=False)
    return (runs - runs.mean(0)) @ axes[:2].T, (sizes.square() / sizes.square().sum())[:2]


def paper_summary(table: dict) -> str:
    """The recipes' summary, and how far the runs lie from each other and from the classic solver."""
    runs = [cell["coefficients"] for cell in table["cells"] if cell["recipe"].startswith("iPNDM")]
    learned = torch.tensor(runs, dtype=torch.float64)
    _, shares = principal_axes(torch.cat([torch.zeros_like(learned[:1]), learned]))
    between, moved = torch.pdist(learned).mean(), learned.norm(dim=1).mean()
    return (
        f"{recipes_summary(table)}\n\nCoefficients of {len(runs)} runs lie {between:.3g} apart on average,"
        f" {moved:.3g} from iPNDM's; the first axis of a PCA with iPNDM's among them has {shares[0]:.0%}."
    )


def recipes_summary(table: dict) -> str:
    """Distances and costs, the latter also relative to the first Adam of the setting."""
    frame = pd.DataFrame(table["cells"])
    adam = frame[frame["recipe"].str.startswith("Adam")].groupby("setting")["evaluations"].first()
    frame["share of Adam's"] = frame["evaluations"] / frame["setting"].map(adam)
    columns = ["setting", "recipe", "parameters", "lpips", "fd_teacher", "evaluations", "share of Adam's"]
    return frame[columns].to_string(index=False, float_format=lambda value: f"{value:.3g}")

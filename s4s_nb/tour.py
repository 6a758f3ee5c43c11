"""The main job in one go: learn 5-evaluation solvers for a bundled model and compare them."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor

from s4s_nb.alternate import learn_in_phases, plan
from s4s_nb.classic import make_solver
from s4s_nb.families import linear_multistep_family
from s4s_nb.files import replace_file, write_json
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.judge import judge, judge_teacher, reference
from s4s_nb.plots import image_grid
from s4s_nb.solvers import Solver
from s4s_nb.times import Joint
from s4s_nb.zoo import ImageModel, load_model

# Solvers as they are used: below 15 steps diffusers lowers the order of these three at the end, without
# which they do far worse at 5.
CLASSIC = {
    "DDIM": ("euler", False),
    "iPNDM": ("ipndm-3", False),
    "DEIS": ("deis-3", False),
    "DPM-Solver++ 2M": ("dpmpp-2m", True),
    "DPM-Solver++ 3M": ("dpmpp-3m", True),
    "UniPC": ("unipc-3-bh2", True),
}

TURNS = 3
PICTURES = 10

COLUMNS = {
    "solver": "solver",
    "nfe": "NFE",
    "rmse": "RMSE to teacher",
    "lpips": "LPIPS to teacher",
    "fd_real": "FD to real",
    "fd_teacher": "FD to teacher",
    "seconds_per_100": "s / 100 images",
}


def learn_for(
    model: ImageModel, nfe: int, grid: str, start: str, pairs: int
) -> tuple[dict[str, Solver], dict[str, float]]:
    """S4S around ``start``, and S4S-Alt from there: the solvers, and the seconds until each was there.

    Teacher pairs, half as many more to validate on, then five iterations of Gauss–Newton over the
    coefficients; and three turns of one over the levels and one over the coefficients.
    """
    started = time.perf_counter()
    train, validation = model.pairs("train", pairs), model.pairs("validation", pairs // 2)
    family = linear_multistep_family(start, model.grid(grid)(nfe))
    joint = Joint(family, schedule=model.setting.schedule)
    learner = partial(
        learn_gauss_newton, model.denoise, train=train, validation=validation, embed=model.embed
    )
    solvers, seconds, at = {}, {}, None
    for label, iterations in {"S4S": 5, "S4S-Alt": 1}.items():
        phases, one = plan(label.lower(), joint, TURNS), partial(learner, iterations=iterations)
        solvers[label], at, _ = learn_in_phases(joint, phases, one, at=at)
        seconds[label] = round(time.perf_counter() - started, 1)
    return solvers, seconds


def tour(
    out: Path,
    model_name: str = "fashion",
    nfe: int = 5,
    grid: str = "logsnr",
    start: str = "dpmpp-2m",
    pairs: int = 80,
    samples: int = 500,
    device: str = "cpu",
) -> dict:
    """Learn, compare, and write ``tour.png``, ``tour.json`` and the learned solvers to ``out``."""
    started = time.perf_counter()
    model = load_model(model_name, device)
    learned, seconds = learn_for(model, nfe, grid, start, pairs)
    solvers = {
        label: make_solver(name, nfe, model.grid(grid), lower) for label, (name, lower) in CLASSIC.items()
    }
    rows, images = [], {}
    for label, solver in (solvers | learned).items():
        row, pictures = judge(model, solver, samples, title=label)
        names = {"model": model_name, "solver": label, "kind": "classical", "grid": grid}
        if label in learned:
            names |= {"kind": "learned", "grid": grid if label == "S4S" else f"{grid}, moved"}
            record = {"model": model_name, "grid": names["grid"], "quality": names | row}
            replace(solver, info=solver.info | record).save(out / f"{label.lower()}.safetensors")
        rows.append(names | row)
        images[label] = pictures[:PICTURES]
    teacher_grid = model.setting.teacher_grid
    names = {"model": model_name, "solver": "teacher", "kind": "teacher", "grid": teacher_grid}
    rows.append(names | judge_teacher(model, samples))
    images["teacher"] = reference(model_name).teacher[:PICTURES]
    result = {
        "rows": rows,
        "floor_fd_real": reference(model_name).floor_distance(samples),
        "learning_seconds": seconds,
        "total_seconds": round(time.perf_counter() - started, 1),
    }
    write_json(out / "tour.json", result)
    save_picture(out / "tour.png", {label_of(row): images[row["solver"]] for row in rows})
    return result


def label_of(row: dict) -> str:
    """What stands beside a row of pictures: the solver, its NFE and its LPIPS to the teacher."""
    if row["kind"] == "teacher":
        return f"teacher\n{row['nfe']} NFE"
    return f"{row['solver']}\n{row['nfe']} NFE, LPIPS {row['lpips']:.3f}"


def save_picture(path: Path, images: dict[str, Tensor]) -> None:
    """Same noises down the columns, solvers along the rows."""
    figure = image_grid(images)
    replace_file(path, lambda p: figure.savefig(p, format="png", dpi=150, bbox_inches="tight"))


def as_table(rows: list[dict]) -> str:
    """The rows as text, three digits, in the order of the columns above."""
    frame = pd.DataFrame(rows)[list(COLUMNS)].rename(columns=COLUMNS)
    return frame.to_string(index=False, float_format=lambda value: f"{value:.3g}")


def summary(result: dict) -> str:
    """The learned solvers against the best classic one of each column, and all against the real floor."""
    rows = pd.DataFrame(result["rows"]).set_index("solver")
    best, learned = rows[rows["kind"] == "classical"], rows[rows["kind"] == "learned"]
    lines = [
        f"{label} {COLUMNS[key]} {row[key]:.3g} is {row[key] / best[key].min():.2f} times that of the best"
        f" classic solver ({best[key].idxmin()}, {best[key].min():.3g})."
        for label, row in learned.iterrows()
        for key in ("lpips", "fd_teacher")
    ]
    to_real = rows.loc[["teacher", *learned.index], "fd_real"]
    lines.append(
        f"FD to real: floor {result['floor_fd_real']:.3g} (real images against real images), "
        + ", ".join(f"{label} {value:.3g}" for label, value in to_real.items())
        + "."
    )
    return "\n".join(lines)

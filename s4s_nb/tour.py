"""The main job in one go: learn a 5-evaluation solver for a bundled model and compare it."""

import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.families import linear_multistep_family
from s4s_nb.files import replace_file, write_json
from s4s_nb.gauss_newton import learn_gauss_newton
from s4s_nb.judge import judge, judge_teacher, reference
from s4s_nb.learn import Learned
from s4s_nb.plots import image_grid
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


def learn_for(model: ImageModel, nfe: int, grid: str, start: str, pairs: int) -> Learned:
    """S4S around ``start``: teacher pairs, half as many more to validate on, then Gauss–Newton."""
    train, validation = model.pairs("train", pairs), model.pairs("validation", pairs // 2)
    family = linear_multistep_family(start, model.grid(grid)(nfe))
    return learn_gauss_newton(model.denoise, family, train, validation, model.embed)


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
    """Learn, compare, and write ``tour.png``, ``tour.json`` and ``s4s.safetensors`` to ``out``."""
    started = time.perf_counter()
    model = load_model(model_name, device)
    learned = learn_for(model, nfe, grid, start, pairs)
    learning_seconds = time.perf_counter() - started
    solvers = {
        label: make_solver(name, nfe, model.grid(grid), lower) for label, (name, lower) in CLASSIC.items()
    }
    rows, images = [], {}
    for label, solver in (solvers | {"S4S": learned.solver}).items():
        row, pictures = judge(model, solver, samples, title=label)
        kind = "learned" if label == "S4S" else "classical"
        rows.append({"model": model_name, "solver": label, "kind": kind, "grid": grid, **row})
        images[label] = pictures[:PICTURES]
    teacher_grid = model.setting.teacher_grid
    names = {"model": model_name, "solver": "teacher", "kind": "teacher", "grid": teacher_grid}
    rows.append(names | judge_teacher(model, samples))
    images["teacher"] = reference(model_name).teacher[:PICTURES]
    result = {
        "rows": rows,
        "floor_fd_real": reference(model_name).floor_distance(samples),
        "learning_seconds": round(learning_seconds, 1),
        "total_seconds": round(time.perf_counter() - started, 1),
    }
    record = {"model": model_name, "grid": grid, "quality": rows[-2]}
    solver = replace(learned.solver, info=learned.solver.info | record)
    solver.save(out / "s4s.safetensors")
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
    """S4S against the best classic solver of each column, and both against the real floor."""
    rows = pd.DataFrame(result["rows"]).set_index("solver")
    best = rows[rows["kind"] == "classical"]
    s4s, teacher = rows.loc["S4S"], rows.loc["teacher"]
    lines = [
        f"S4S {column} {s4s[key]:.3g} is {s4s[key] / best[key].min():.2f} times that of the best"
        f" classic solver ({best[key].idxmin()}, {best[key].min():.3g})."
        for key, column in COLUMNS.items()
        if key in ("lpips", "fd_teacher")
    ]
    lines.append(
        f"FD to real: floor {result['floor_fd_real']:.3g} (real images against real images),"
        f" teacher {teacher['fd_real']:.3g}, S4S {s4s['fd_real']:.3g}."
    )
    return "\n".join(lines)

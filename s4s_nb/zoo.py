"""The bundled image models, how they are trained, and what each one is judged against."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s4s_nb.classic import make_solver
from s4s_nb.datasets import fashion_mnist
from s4s_nb.denoisers import Counted
from s4s_nb.distances import rmse
from s4s_nb.errors import choose
from s4s_nb.files import DATA, bundle, bundled, read_safetensors, write_json, write_safetensors
from s4s_nb.grids import Grid, make_grid
from s4s_nb.metrics import features, frechet_distance, moments
from s4s_nb.schedules import VE, Schedule, VPLinear
from s4s_nb.solvers import Solver
from s4s_nb.teachers import run, seeded_noise
from s4s_nb.training import train
from s4s_nb.unet import EDM, UNet


@dataclass(frozen=True)
class Setting:
    """A bundled model and its conventions; levels in σ̃."""

    name: str
    title: str
    shape: tuple[int, ...]
    sigma_max: float
    sigma_min: float
    schedule: Schedule
    clock: Schedule
    """Whose native time the uniform and quadratic grids and DEIS use. EDM's own time is σ itself,
    in which few-step grids are useless; as usual for EDM models it is VP's."""
    sigma_data: float
    teacher: str
    teacher_nfe: int
    teacher_grid: str
    train_images: int
    """How many images its training sees."""
    origin: str
    licence: str


SETTINGS = {
    "fashion": Setting(
        name="fashion",
        title="Fashion-MNIST, pixels, unconditional",
        shape=(1, 28, 28),
        sigma_max=80.0,
        sigma_min=0.002,
        schedule=VE(),
        clock=VPLinear(),
        sigma_data=0.83,
        teacher="unipc-3-bh2",
        teacher_nfe=40,
        teacher_grid="karras",
        train_images=400_000,
        origin="trained by `s4s-nb train --model fashion` on the 60,000 training images",
        licence="MIT (weights); Fashion-MNIST by Zalando SE: MIT",
    )
}


@dataclass(frozen=True)
class ImageModel:
    """A loaded setting: ``denoise`` counts its network calls."""

    setting: Setting
    denoise: Counted
    device: str

    def grid(self, name: str) -> Callable[[int], Grid]:
        """The function (steps) → levels of a named grid over this model's range."""
        s = self.setting
        return lambda steps: make_grid(name, steps, s.sigma_max, s.sigma_min, s.clock)

    def teacher(self) -> Solver:
        """The many-step solver whose end points are the targets."""
        s = self.setting
        return make_solver(s.teacher, s.teacher_nfe, self.grid(s.teacher_grid))

    def solver(self, name: str, nfe: int, grid: str) -> Solver:
        """A solver by name: "teacher", a solver file (.safetensors), or a classic one."""
        if name == "teacher":
            return self.teacher()
        if name.endswith(".safetensors"):
            return Solver.load(Path(name))
        return make_solver(name, nfe, self.grid(grid))

    def starts(self, split: str, count: int, first: int = 0) -> Tensor:
        """x_T = σ_max ε from seeded noise."""
        noise = seeded_noise(split, count, self.setting.shape, first)
        return self.setting.sigma_max * noise.to(self.device)


def load_model(name: str, device: str = "cpu") -> ImageModel:
    """A bundled model, ready to sample: EMA weights, in eval mode, without gradients."""
    setting = choose(SETTINGS, name, "model")
    net = new_network(setting)
    weights, _ = read_safetensors(bundled(f"{name}.safetensors"))
    net.load_state_dict({k: v.float() for k, v in weights.items()})
    return ImageModel(setting, Counted(as_denoiser(net, device)), device)


def as_denoiser(net: EDM, device: str, label: int | None = None):
    """The network as D(x, σ) with one label for all, or none."""
    net = net.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
    index = net.net.classes if label is None else label

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        labels = torch.full((len(x),), index, device=x.device)
        return net(x, sigma.to(x).expand(len(x)), labels)

    return denoise


def new_network(setting: Setting) -> EDM:
    """The untrained network of a setting, initialised from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EDM(UNet(image_channels=setting.shape[0]), setting.sigma_data)


def cards() -> list[dict]:
    """One record a bundled model: what it is, how it was trained, how good its teacher is."""
    return [json.loads(bundled(f"{name}.json").read_text(encoding="utf-8")) for name in SETTINGS]


REFERENCE_SAMPLES = 500


def train_model(
    name: str, dataset: Path | None, state_file: Path, device: str = "cpu", seed: int = 0
) -> None:
    """Train a bundled model, resuming from ``state_file``, and write its files of ``data/``.

    NAME.safetensors has the EMA weights in half precision, NAME_reference.safetensors what solvers
    are judged against (:class:`s4s_nb.judge.Reference`), NAME.json the model card. All three are
    entered in the manifest.
    """
    setting = choose(SETTINGS, name, "model")
    images, labels = fashion_mnist("train", dataset)
    test, _ = fashion_mnist("test", dataset)
    net = new_network(setting)
    ema, card = train(net, images, labels, state_file, setting.train_images, seed=seed, device=device)
    write_safetensors(DATA / f"{name}.safetensors", {k: v.half() for k, v in ema.items()}, {})
    bundle(f"{name}.safetensors", setting.origin, setting.licence)
    model = load_model(name, device)
    card |= {"parameters": sum(p.numel() for p in net.parameters())}
    card |= write_reference(model, scaled(images[:REFERENCE_SAMPLES]), scaled(test))
    write_json(DATA / f"{name}.json", {"name": name, "title": setting.title} | card)
    bundle(f"{name}.json", setting.origin, setting.licence)


def scaled(pixels: Tensor) -> Tensor:
    """uint8 pixels as floats in [−1, 1]."""
    return pixels.float() / 127.5 - 1


def write_reference(model: ImageModel, train_images: Tensor, test_images: Tensor) -> dict:
    """Store what solvers of a model are judged against; what the card says of it is returned.

    The teacher's own error is measured as the RMSE to one of twice as many steps on 100 noises.
    """
    s = model.setting
    real = moments(features(test_images.to(model.device)))
    floor = features(train_images.to(model.device))
    starts = model.starts("test", REFERENCE_SAMPLES)
    teacher = run(model.denoise, starts, model.teacher(), title="teacher")
    twice = make_solver(s.teacher, 2 * s.teacher_nfe, model.grid(s.teacher_grid))
    finer = run(model.denoise, starts[:100], twice, title="teacher of twice the steps")
    tensors = {
        "real_mean": real[0].float(),
        "real_covariance": real[1].float(),
        "floor": floor.half(),
        "teacher": teacher.half(),
    }
    write_safetensors(DATA / f"{s.name}_reference.safetensors", tensors, {})
    bundle(f"{s.name}_reference.safetensors", f"measured from {s.name} and its images", s.licence)
    return {
        "teacher": f"{s.teacher}, {s.teacher_nfe} NFE, {s.teacher_grid} grid",
        "teacher_rmse_to_twice_the_steps": round(float(rmse(teacher[:100], finer).mean()), 5),
        "samples_judged": REFERENCE_SAMPLES,
        "fd_real_teacher": round(frechet_distance(moments(features(teacher)), real), 2),
        "fd_real_floor": round(frechet_distance(moments(floor), real), 2),
        "origin": s.origin,
        "licence": s.licence,
    }

"""The bundled image models, how they are trained, and what each one is judged against."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s4s_nb.denoisers import Counted
from s4s_nb.classic import make_solver
from s4s_nb.datasets import fashion_mnist
from s4s_nb.errors import choose
from s4s_nb.files import DATA, bundle, bundled, read_safetensors, write_safetensors
from s4s_nb.grids import Grid, make_grid
from s4s_nb.metrics import features, moments
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
        teacher_nfe=60,
        teacher_grid="logsnr",
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


REFERENCE_SAMPLES = 1000


def train_model(
    name: str, dataset: Path | None, state_file: Path, device: str = "cpu", seed: int = 0
) -> None:
    """Train a bundled model (resuming from ``state_file``) and write its files of ``data/``.

    The EMA weights go to data/NAME.safetensors in half precision, what it is judged against to
    data/NAME_reference.safetensors; both are entered in the manifest.
    """
    setting = choose(SETTINGS, name, "model")
    images, labels = fashion_mnist("train", dataset)
    test, _ = fashion_mnist("test", dataset)
    net = new_network(setting)
    ema, record = train(net, images, labels, state_file, setting.train_images, seed=seed, device=device)
    record |= {"parameters": sum(p.numel() for p in net.parameters())}
    write_safetensors(
        DATA / f"{name}.safetensors",
        {k: v.half() for k, v in ema.items()},
        {"record": json.dumps(record)},
    )
    bundle(f"{name}.safetensors", setting.origin, setting.licence)
    write_reference(name, images, test, device)


def write_reference(name: str, train_images: Tensor, test_images: Tensor, device: str) -> None:
    """Measure what a setting is judged against (:class:`s4s_nb.judge.Reference`) and store it."""
    model = load_model(name, device)

    def scaled(x: Tensor) -> Tensor:
        return (x.float() / 127.5 - 1).to(device)

    mean, covariance = moments(features(scaled(test_images)))
    starts = model.starts("test", REFERENCE_SAMPLES)
    tensors = {
        "real_mean": mean.float(),
        "real_covariance": covariance.float(),
        "floor": features(scaled(train_images[:REFERENCE_SAMPLES])).half(),
        "teacher": run(model.denoise, starts, model.teacher(), title="teacher").half(),
    }
    s = model.setting
    record = {"teacher": f"{s.teacher} on {s.teacher_grid}", "teacher_nfe": s.teacher_nfe}
    write_safetensors(
        DATA / f"{name}_reference.safetensors", tensors, {"record": json.dumps(record)}
    )
    bundle(f"{name}_reference.safetensors", f"measured from {name} and its image set", s.licence)

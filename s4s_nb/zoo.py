"""The bundled settings: a network, its process and condition, and how it is sampled."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from s4s_nb.autoencoder import Autoencoder
from s4s_nb.classic import make_solver
from s4s_nb.denoisers import ADAPTERS, Conditional, Counted, Denoiser, clipped, guided
from s4s_nb.distances import LPIPS_SIDE, Lpips, lpips_distance
from s4s_nb.errors import InputError, choose
from s4s_nb.files import bundled, manifest, read_safetensors
from s4s_nb.grids import Grid, make_grid
from s4s_nb.parallel import batch_size, map_batches
from s4s_nb.recipes import DDPM, RECIPES, Recipe, new_network
from s4s_nb.schedules import Schedule, VPLinear
from s4s_nb.solvers import Solver
from s4s_nb.teachers import Pairs, run, seeded_noise


@dataclass(frozen=True)
class Setting:
    """A bundled model and its conventions; levels in σ̃.

    network: name of its recipe. shape: of a state, which is an image or a latent.
    clock: whose native time the uniform and quadratic grids use, if not its own schedule's. EDM's time
    is σ itself, in which few-step grids are useless; as usual for EDM models it is VP's.
    guidance_scale: None for unconditional sampling, 1 for a plain conditional model.
    clip: whether predicted images are clamped to [−1, 1].
    """

    title: str
    network: str
    shape: tuple[int, ...]
    sigma_max: float
    sigma_min: float
    clock: Schedule | None = None
    guidance_scale: float | None = None
    clip: bool = False
    teacher: str = "unipc-3-bh2"
    teacher_nfe: int = 60
    teacher_grid: str = "karras"

    @property
    def recipe(self) -> Recipe:
        """How its network is built and trained."""
        return RECIPES[self.network]

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of its process."""
        return cast(Schedule, self.recipe.schedule)

    @property
    def prediction(self) -> str:
        """What its network predicts: data, noise or velocity."""
        return cast(str, self.recipe.prediction)


FASHION = Setting(
    title="Fashion-MNIST, pixels, unconditional",
    network="fashion",
    shape=(1, 28, 28),
    clock=VPLinear(),
    sigma_max=80.0,
    sigma_min=0.002,
)
FACES_LATENT = Setting(
    title="DiceBear faces, latents, unconditional",
    network="faces-latent",
    shape=(4, 16, 16),
    sigma_max=80.0,
    sigma_min=0.01,
)
SETTINGS = {
    "fashion": FASHION,
    "fashion-guided": replace(FASHION, title="Fashion-MNIST, pixels, guided", guidance_scale=2.0),
    "faces": Setting(
        title="DiceBear faces, pixels, unconditional",
        network="faces",
        shape=(3, 32, 32),
        sigma_max=float(DDPM.level(torch.tensor(999.0))),
        sigma_min=float(DDPM.level(torch.tensor(0.0))),
        clip=True,
    ),
    "faces-latent": FACES_LATENT,
    "faces-latent-guided": replace(
        FACES_LATENT, title="DiceBear faces, latents, guided", guidance_scale=2.0
    ),
    "faces-flow": Setting(
        title="DiceBear faces, latents, flow transformer, guided",
        network="faces-flow",
        shape=(4, 16, 16),
        sigma_max=1000.0,
        sigma_min=0.005,
        guidance_scale=1.5,
    ),
}


@dataclass(frozen=True)
class ImageModel:
    """A loaded setting. ``network`` counts its calls, of which guidance needs two an evaluation.

    side: to which smaller images are enlarged in the LPIPS to learn by; judges keep to 64 px.
    """

    name: str
    setting: Setting
    network: Counted
    autoencoder: Autoencoder | None
    device: str
    side: int = LPIPS_SIDE

    @property
    def denoise(self) -> Denoiser | Conditional:
        """The denoiser; that of a conditional setting is had by ``given(labels)``."""
        return self.labelled(None) if self.setting.guidance_scale is None else self

    def given(self, labels: Tensor) -> Denoiser:
        """The denoiser of samples with these labels, guided unless the scale is 1."""
        scale = self.setting.guidance_scale
        if scale == 1:
            return self.labelled(labels)
        return guided(self.labelled(labels), self.labelled(None), scale)

    def labelled(self, labels: Tensor | None) -> Denoiser:
        """The network as a denoiser, with one label a sample or none at all."""

        def predict(native: Tensor, t: Tensor) -> Tensor:
            label = labels
            if label is None:
                label = torch.full((len(native),), self.classes, device=native.device)
            return self.network(native, t.to(native).expand(len(native)), label)

        denoise = ADAPTERS[self.setting.prediction](predict, self.setting.schedule)
        return clipped(denoise) if self.setting.clip else denoise

    @property
    def classes(self) -> int:
        """Number of labels, and the label that stands for none."""
        return self.network.call.classes

    def labels(self, count: int, first: int = 0) -> Tensor | None:
        """Labels of the samples ``first``, ``first`` + 1, …: the classes in turn; None without."""
        if self.setting.guidance_scale is None:
            return None
        return torch.arange(first, first + count, device=self.device) % self.classes

    def starts(self, split: str, count: int, first: int = 0) -> Tensor:
        """x_T = σ_max ε from seeded noise."""
        noise = seeded_noise(split, count, self.setting.shape, first)
        return self.setting.sigma_max * noise.to(self.device)

    def decode(self, states: Tensor) -> Tensor:
        """Images of end states, differentiable: latents are decoded, pixels are images already."""
        return states if self.autoencoder is None else self.autoencoder.decode(states)

    @torch.inference_mode()
    def images(self, states: Tensor) -> Tensor:
        """Images of many end states."""
        parts = states.split(batch_size(states.device))
        return torch.cat(map_batches(self.decode, parts, states.device))

    @property
    def lpips(self) -> Lpips:
        """The LPIPS to learn by."""
        return lpips_distance(self.device, self.side)

    def embed(self, states: Tensor) -> Tensor:
        """:meth:`distance` as an embedding."""
        return self.lpips.embed(self.decode(states))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS between the images of two batches of states."""
        return self.lpips(self.decode(x), self.decode(y))

    def grid(self, name: str) -> Callable[[int], Grid]:
        """The function (steps) → levels of a named grid over this model's range."""
        s = self.setting
        return lambda steps: make_grid(name, steps, s.sigma_max, s.sigma_min, s.clock or s.schedule)

    def teacher(self, refine: int = 1) -> Solver:
        """The many-step solver whose end points are the targets, with ``refine`` times its steps."""
        s = self.setting
        return make_solver(s.teacher, refine * s.teacher_nfe, self.grid(s.teacher_grid))

    def pairs(self, split: str, count: int, first: int = 0) -> Pairs:
        """``count`` starts of a split, from number ``first`` on, with the teacher's end points."""
        starts, labels = self.starts(split, count, first), self.labels(count, first)
        title = f"teacher, {split}"
        return Pairs(starts, run(self.denoise, starts, self.teacher(), labels, title=title), labels)

    def solver(self, name: str, nfe: int, grid: str, lower_final: bool = False) -> Solver:
        """A solver by name: "teacher", a file (.safetensors), a bundled learned one, or a classic one.

        Raises:
            InputError: an unknown name, a bad file, or an NFE for which none is bundled.
        """
        if name == "teacher":
            return self.teacher()
        if name.endswith(".safetensors"):
            return Solver.load(Path(name))
        learned = self.learned()
        if (name, nfe) in learned:
            return Solver.load(bundled(learned[name, nfe]))
        nfes = sorted(n for method, n in learned if method == name)
        if nfes:
            raise InputError(
                f"{name} is bundled for {self.name} at NFE {nfes}, not at {nfe}; see s4s-nb learn."
            )
        return make_solver(name, nfe, self.grid(grid), lower_final)

    def learned(self) -> dict[tuple[str, int], str]:
        """The learned solvers in ``data/`` for this setting: (method, NFE) → file."""
        parts = {file: file.removesuffix(".safetensors").split("_") for file in manifest()}
        return {(p[1], int(p[2])): file for file, p in parts.items() if p[0] == f"solvers/{self.name}"}


def load_model(name: str, device: str = "cpu") -> ImageModel:
    """A bundled setting, ready to sample: EMA weights, in eval mode, without gradients."""
    setting = choose(SETTINGS, name, "model")
    network = Counted(load_network(setting.network, device))
    latent = setting.recipe.autoencoder
    autoencoder = load_network(latent, device) if latent else None
    return ImageModel(name, setting, network, autoencoder, device)


@lru_cache
@torch.inference_mode(False)  # a first call from within would cache weights that no gradient may pass
def load_network(name: str, device: str = "cpu") -> nn.Module:
    """The network of a recipe with its bundled weights."""
    net = new_network(name)
    weights, _ = read_safetensors(bundled(f"{name}.safetensors"))
    net.load_state_dict({k: v.float() for k, v in weights.items()})
    return net.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()


def cards() -> list[dict]:
    """One record a bundled setting: what it is, how it was trained, how good its teacher is."""
    return [json.loads(bundled(f"{name}.json").read_text(encoding="utf-8")) for name in SETTINGS]

"""The bundled models: networks with their weights in ``data/``, and the settings that sample them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from s4s_nb.denoisers import ADAPTERS, Condition, Counted, Denoiser, clipped, guided
from s4s_nb.errors import InputError, choose
from s4s_nb.evaluate import Reference
from s4s_nb.files import data_file, read_safetensors
from s4s_nb.models import Model, states_are_images
from s4s_nb.models.autoencoder import Autoencoder
from s4s_nb.models.classifier import Classifier
from s4s_nb.models.dit import DiT
from s4s_nb.models.unet import EDM, NativeTime, UNet
from s4s_nb.schedules import VE, Flow, Schedule, VPCosine, VPDiscrete

DDPM = VPDiscrete.from_betas("linear")
COSINE = VPCosine()
FLOW = Flow()

FASHION_LICENCE = "MIT (weights); Fashion-MNIST by Zalando SE: MIT"
FACES_LICENCE = (
    "MIT (weights). Drawn with DiceBear 9: Pixel Art by DiceBear, CC0 1.0; Adventurer by Lisa Wischofsky,"
    " CC BY 4.0; Personas by Draftbit, CC BY 4.0"
)


@dataclass(frozen=True)
class Network:
    """A bundled network: how it is built, and for a denoiser its process.

    schedule, prediction: its process, and what it predicts: data, noise or velocity.
    autoencoder: the network in whose latents it works, instead of pixels.
    classifier: the network that tells the classes of its samples.
    """

    build: Callable[[], nn.Module]
    licence: str
    schedule: Schedule | None = None
    prediction: str = "data"
    autoencoder: str | None = None
    classifier: str | None = None


NetworkName = Literal[
    "fashion",
    "fashion-classifier",
    "faces",
    "faces-autoencoder",
    "faces-latent",
    "faces-flow",
    "faces-classifier",
]
"""The keys of :data:`NETWORKS`, as the command line knows them."""
LATENT = {"licence": FACES_LICENCE, "autoencoder": "faces-autoencoder", "classifier": "faces-classifier"}
NETWORKS = {
    "fashion": Network(
        build=lambda: EDM(UNet(image_channels=1), sigma_data=0.83),
        licence=FASHION_LICENCE,
        schedule=VE(),
        classifier="fashion-classifier",
    ),
    "fashion-classifier": Network(lambda: Classifier(image_channels=1, classes=10), FASHION_LICENCE),
    "faces": Network(
        build=lambda: NativeTime(UNet(image_channels=3, channels=(32, 64, 128), classes=3), 4 / 1000),
        licence=FACES_LICENCE,
        schedule=DDPM,
        prediction="noise",
    ),
    "faces-autoencoder": Network(Autoencoder, FACES_LICENCE),
    "faces-latent": Network(
        build=lambda: NativeTime(UNet(image_channels=4, channels=(48, 96), classes=3), 4.0),
        schedule=COSINE,
        prediction="velocity",
        **LATENT,
    ),
    "faces-flow": Network(
        build=lambda: NativeTime(DiT(), 4.0), schedule=FLOW, prediction="velocity", **LATENT
    ),
    "faces-classifier": Network(lambda: Classifier(image_channels=3, classes=3), FACES_LICENCE),
}


@dataclass(frozen=True)
class Setting:
    """A bundled model and its conventions; levels in σ̃.

    network: name of its network. shape: of a state, which is an image or a latent.
    guidance_scale: None for unconditional sampling, 1 for a plain conditional model.
    clip: whether predicted images are clamped to [−1, 1].
    """

    title: str
    network: str
    shape: tuple[int, ...]
    sigma_max: float
    sigma_min: float
    guidance_scale: float | None = None
    clip: bool = False


FASHION = Setting(
    title="Fashion-MNIST, pixels, unconditional",
    network="fashion",
    shape=(1, 28, 28),
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


def new_network(name: str) -> nn.Module:
    """An untrained network, initialised from seed 0."""
    network = choose(NETWORKS, name, "network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network.build()


@lru_cache
@torch.inference_mode(False)  # a first call from within would cache weights that no gradient may pass
def load_network(name: str, device: str = "cpu") -> nn.Module:
    """A network with its bundled weights: EMA, in eval mode, without gradients."""
    net = new_network(name)
    weights, _ = read_safetensors(data_file(f"{name}.safetensors"))
    net.load_state_dict({k: v.float() for k, v in weights.items()})
    net = net.to(device).to(memory_format=torch.channels_last)
    return net.requires_grad_(False).eval()


def load(name: str, device: str = "cpu", guidance_scale: float | None = None, side: int = 128) -> Model:
    """A bundled model, ready to sample.

    Args:
        name: one of :data:`SETTINGS`; ``s4s-nb models`` lists them.
        guidance_scale: another guidance weight than the setting's; 1 is the plain conditional model.
        side: of images in the LPIPS to learn by, see :class:`s4s_nb.models.Model`.

    Raises:
        InputError: an unknown name, a damaged file, or a guidance weight for an unconditional model.

    Example:
        >>> model = load("fashion")
    """
    setting = choose(SETTINGS, name, "model")
    if guidance_scale not in (None, setting.guidance_scale):
        if setting.guidance_scale is None:
            raise InputError(f"{name} is unconditional; a guidance weight needs a guided model.")
        setting = replace(setting, guidance_scale=guidance_scale)
    return model_of(name, setting, load_network(setting.network, device), device, side)


def model_of(name: str, setting: Setting, net: nn.Module, device: str = "cpu", side: int = 128) -> Model:
    """The model of a setting with a network of that kind; only as bundled has it a reference."""
    network, counted = NETWORKS[setting.network], Counted(net)
    autoencoder = load_network(network.autoencoder, device) if network.autoencoder else None
    as_it_is = setting == SETTINGS[name] and net is load_network(setting.network, device)
    return Model(
        denoise=denoiser(setting, counted),
        shape=setting.shape,
        sigma_max=setting.sigma_max,
        sigma_min=setting.sigma_min,
        name=name,
        schedule=network.schedule,
        decode=autoencoder.decode if autoencoder else states_are_images,
        conditions=None if setting.guidance_scale is None else partial(classes_in_turn, net.classes),
        device=device,
        side=side,
        network=counted,
        prediction=network.prediction,
        guidance_scale=setting.guidance_scale,
        load_reference=partial(reference, name) if as_it_is else None,
        features=partial(classifier_features, network.classifier, device) if network.classifier else None,
    )


def classifier_features(name: str, device: str, pictures: Tensor) -> Tensor:
    """What a bundled classifier sees in pictures, (b, 128)."""
    net = load_network(name, device)
    assert isinstance(net, Classifier)
    return net.seen(pictures)


def denoiser(setting: Setting, network: Counted) -> Denoiser:
    """The denoiser of a setting, which takes a ``label`` a sample if the setting is conditional."""
    classes = network.call.classes

    def predict(native: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            label = torch.full((len(native),), classes, device=native.device)
        return network(native, t.to(native).expand(len(native)), label)

    kind = NETWORKS[setting.network]
    denoise = ADAPTERS[kind.prediction](predict, kind.schedule)
    denoise = clipped(denoise) if setting.clip else denoise
    if setting.guidance_scale not in (None, 1):
        denoise = guided(denoise, denoise, setting.guidance_scale)
    return labelled(denoise, setting)


def labelled(denoise: Denoiser, setting: Setting) -> Denoiser:
    """The same; :class:`InputError` where a label is missing, or would give another setting's images."""
    wanted = set() if setting.guidance_scale is None else {"label"}
    hint = "no label" if not wanted else "a label a sample, as model.condition(…) has them"

    def checked(x: Tensor, sigma: Tensor, /, **cond: Tensor) -> Tensor:
        if set(cond) != wanted:
            given = ", ".join(cond) or "nothing"
            raise InputError(f"{setting.title}: this model takes {hint}; it was given {given}.")
        return denoise(x, sigma, **cond)

    return checked


def classes_in_turn(classes: int, split: str, count: int, first: int) -> Condition:
    """Labels of the samples ``first``, ``first`` + 1, …: the classes in turn."""
    return {"label": torch.arange(first, first + count) % classes}


@lru_cache
def reference(name: str) -> Reference:
    """What a setting is judged against, read from ``data/`` and checked against the manifest."""
    t, _ = read_safetensors(data_file(f"{name}_reference.safetensors"))
    real = t["real_mean"].double(), t["real_covariance"].double()
    teacher = load(name).images(t["teacher"].float())
    return Reference(real, t["floor"].double(), teacher, t["neighbours"])

"""How the files of ``data/`` come about: train a network, then measure what its settings are judged by."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from s4s_nb.distances import lpips_distance, rmse
from s4s_nb.errors import choose
from s4s_nb.evaluate import pairwise
from s4s_nb.files import DATA, check_writable_data, enter_in_manifest, write_json, write_safetensors
from s4s_nb.frechet import features, frechet_distance, moments
from s4s_nb.models import Model
from s4s_nb.models.autoencoder import Autoencoder
from s4s_nb.models.bundled import NETWORKS, SETTINGS, load, load_network, model_of, new_network, reference
from s4s_nb.models.classifier import Classifier, accuracy
from s4s_nb.pairs import run
from s4s_nb.pictures import save_samples
from s4s_nb.runtime import world
from s4s_nb.training.datasets import ImageSet
from s4s_nb.training.recipes import RECIPES
from s4s_nb.training.train import scaled, train

REFERENCE_SAMPLES = 500
CHECKED_SAMPLES = 50
"""On how many the teacher's convergence and the rounding of the weights are measured."""
PLAIN_SAMPLES = 200
"""On how many the class accuracy without guidance is measured."""
NEIGHBOURS_SHOWN = 10


def train_network(
    name: str, dataset: Path | None, state_file: Path, device: str = "cpu", seed: int = 0
) -> None:
    """Train a bundled network, resuming from ``state_file``, and write its files of ``data/``.

    NAME.safetensors has the EMA weights in half precision and NAME.json the record of the training.
    Then every setting that samples the network gets its reference and its model card.

    Raises:
        InputError: an unknown network, other images than its own, or no checkout to write to.
    """
    check_writable_data()
    recipe, network = choose(RECIPES, name, "network"), NETWORKS[name]
    images = recipe.images(dataset)
    net = new_network(name)
    inputs = latents(network.autoencoder, images.train, device) if network.autoencoder else images.train
    ema, record = train(
        net,
        inputs,
        images.train_labels,
        recipe.loss,
        state_file,
        recipe.total_images,
        seed=seed,
        device=device,
    )
    if world(device)[0] > 0:
        return
    net.load_state_dict(ema)
    net.requires_grad_(False).eval()
    record = {
        "network": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        **record,
        **own_quality(net, images),
    }
    origin = f"trained by `s4s-nb train --model {name}`"
    weights = {k: v.half() for k, v in net.state_dict().items()}
    write_safetensors(DATA / f"{name}.safetensors", weights, {})
    enter_in_manifest(f"{name}.safetensors", origin, network.licence)
    settings = [key for key, setting in SETTINGS.items() if setting.network == name]
    for setting in settings:
        write_reference(setting, images, record, net, device)
    if not settings:
        write_json(DATA / f"{name}.json", record | {"origin": origin, "licence": network.licence})
        enter_in_manifest(f"{name}.json", origin, network.licence)


@torch.inference_mode()
def latents(name: str, pixels: Tensor, device: str, batch: int = 100) -> Tensor:
    """Latents of uint8 images in a bundled autoencoder."""
    autoencoder = cast(Autoencoder, load_network(name, device))
    return torch.cat([autoencoder.encode(scaled(part.to(device))).cpu() for part in pixels.split(batch)])


@torch.inference_mode()
def own_quality(net: nn.Module, images: ImageSet) -> dict:
    """What a network that is no denoiser is good for; an autoencoder's latents are normalised first."""
    test = scaled(images.test)
    if isinstance(net, Classifier):
        return {"test_accuracy": round(accuracy(net, test, images.test_labels), 4)}
    if isinstance(net, Autoencoder):
        net.normalise(scaled(images.train))
        decoded, others = (
            torch.cat([net.decode(net.encode(part)) for part in pixels.split(100)]).clamp(-1, 1)
            for pixels in (test, some_real(images))
        )
        mse = (decoded - test).square().flatten(1).mean(1)
        return {
            "test_psnr": round(float((10 * (4 / mse).log10()).mean()), 2),
            "test_lpips": round(float(pairwise(lpips_distance(), decoded, test).mean()), 4),
            "fd_real_reconstructions": round(
                frechet_distance(moments(features(others)), moments(features(test))), 2
            ),
        }
    return {}


def write_reference(name: str, images: ImageSet, record: dict, net: nn.Module, device: str) -> None:
    """Sample a setting's teacher, store what solvers are judged against, and write its model card."""
    model, setting = load(name, device), SETTINGS[name]
    licence = NETWORKS[setting.network].licence
    starts, cond = model.starts("test", REFERENCE_SAMPLES), model.condition("test", REFERENCE_SAMPLES)
    ends = run(model.denoise, starts, model.teacher(), cond, title=f"teacher of {name}")
    samples = model.images(ends).cpu()
    real = moments(features(scaled(images.test)))
    floor = features(some_real(images))
    copies, neighbours = memorised(samples, images)
    tensors = {
        "real_mean": real[0].float(),
        "real_covariance": real[1].float(),
        "floor": floor.half(),
        "teacher": ends.half(),
        "neighbours": neighbours,
    }
    write_safetensors(DATA / f"{name}_reference.safetensors", tensors, {})
    enter_in_manifest(f"{name}_reference.safetensors", f"measured from {name} and its images", licence)
    save_samples(DATA / "samples" / f"{name}.png", samples[:100])
    enter_in_manifest(f"samples/{name}.png", f"100 samples of the teacher of {name}", licence)
    card = {
        "name": name,
        "title": setting.title,
        **record,
        "guidance_scale": setting.guidance_scale,
        "teacher": "unipc-3-bh2, 60 evaluations, karras grid",
        "teacher_rmse_to_twice_the_steps": round(convergence(model, ends), 5),
        "half_precision_rmse": round(rounding(model, net, ends), 5),
        "samples_judged": REFERENCE_SAMPLES,
        "fd_real_teacher": round(frechet_distance(moments(features(samples)), real), 2),
        "fd_real_floor": round(frechet_distance(moments(floor), real), 2),
        "copies_share": copies,
        **class_accuracy(model, samples),
        "licence": licence,
    }
    write_json(DATA / f"{name}.json", card)
    enter_in_manifest(f"{name}.json", f"written by `s4s-nb train --model {setting.network}`", licence)
    reference.cache_clear()


def some_real(images: ImageSet) -> Tensor:
    """As many training images as samples are judged, picked at random."""
    pick = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))
    return scaled(images.train[pick[:REFERENCE_SAMPLES]])


def convergence(model: Model, ends: Tensor, count: int = CHECKED_SAMPLES) -> float:
    """Mean RMSE of the teacher's images to those of a teacher of twice the steps."""
    starts, cond = model.starts("test", count), model.condition("test", count)
    finer = run(model.denoise, starts, model.teacher(refine=2), cond, title="twice the steps")
    return float(rmse(model.images(ends[:count]), model.images(finer)).mean())


def memorised(samples: Tensor, images: ImageSet) -> tuple[float, Tensor]:
    """Share of samples nearer to a training image than 99 % of the real test images are, and the
    nearest training images of the first samples. Distance: Euclidean in pixels."""
    train = scaled(images.train).flatten(1)
    distances, nearest = torch.cdist(samples.flatten(1), train).min(1)
    real = torch.cdist(scaled(images.test[:1500]).flatten(1), train).min(1).values
    share = float((distances < real.quantile(0.01)).float().mean())
    return round(share, 4), images.train[nearest[:NEIGHBOURS_SHOWN]]


def class_accuracy(model: Model, samples: Tensor) -> dict:
    """How often a classifier sees the class asked for: guided, and with the scale at 1."""
    name = NETWORKS[SETTINGS[model.name].network].classifier
    if model.conditions is None or name is None:
        return {}
    classifier, plain = load_network(name), load(model.name, model.device, guidance_scale=1.0)
    starts, cond = plain.starts("test", PLAIN_SAMPLES), plain.condition("test", PLAIN_SAMPLES)
    ends = run(plain.denoise, starts, plain.teacher(), cond, title="without guidance")
    labels = model.condition("test", len(samples))["label"].cpu()
    seen = [accuracy(classifier, x.cpu(), labels[: len(x)]) for x in (samples, plain.images(ends))]
    return {"class_accuracy": round(seen[0], 4), "class_accuracy_without_guidance": round(seen[1], 4)}


def rounding(model: Model, net: nn.Module, ends: Tensor, count: int = CHECKED_SAMPLES) -> float:
    """Mean RMSE between the images of the bundled half-precision weights and of the trained ones."""
    exact = model_of(model.name, SETTINGS[model.name], net, model.device)
    starts, cond = model.starts("test", count), model.condition("test", count)
    others = run(exact.denoise, starts, exact.teacher(), cond, title="weights in float32")
    return float(rmse(model.images(ends[:count]), model.images(others)).mean())

"""Training of the bundled networks: resumable to the bit, EMA weights, one file of state."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from s4s_nb.files import digest
from s4s_nb.learn.resume import StateFile
from s4s_nb.runtime import bar, world

SAVE_EVERY_SECONDS = 45

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""(network, images (b, …), labels (b,), generator of all randomness) → a scalar."""


def learning_rate(progress: float, peak: float = 1e-3, warmup: float = 0.02) -> float:
    """Linear warm-up, then a cosine to zero; progress runs from 0 to 1."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 runs in hardware: on GPUs, and on CPUs with AMX or AVX512-BF16 instructions."""
    if device.type == "cuda":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


class Objective(nn.Module):
    """A network's loss as a module, so that several processes can share its gradients."""

    def __init__(self, network: nn.Module, loss_of: Loss):
        super().__init__()
        self.network, self.loss_of = network, loss_of

    def forward(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return self.loss_of(self.network, images, labels, generator)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss_of: Loss,
    state_file: Path,
    total_images: int,
    batch: int = 64,
    seed: int = 0,
    device: str = "cpu",
    peak: float = 1e-3,
) -> tuple[dict[str, Tensor], dict]:
    """Train ``model`` until ``total_images`` were seen; its EMA weights and a record of the run.

    Progress is saved to ``state_file`` every 45 seconds; a run that finds the file goes on from there.
    Every step draws its batch, noise and dropped labels from a generator seeded by the step, on the device
    of the training, so an interrupted run ends with the same bits as an uninterrupted one (on the CPU,
    with as many threads).
    Under ``torchrun`` every process takes its share of the batch.

    Args:
        images: uint8 pixels, which are scaled to [−1, 1], or latents, which are taken as they are.
        peak: highest learning rate, see :func:`learning_rate`.

    Raises:
        InputError: the file is the state of another training: network, data, loss, total, batch, seed or
            peak.
    """
    rank, processes = world(device)
    dev = torch.device(device)
    model.to(dev).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    average = averaged(model, batch)
    run = identity(model, images, labels, loss_of, total_images, batch, seed) | {"peak": peak}
    kept = StateFile(state_file, run | {"processes": processes})
    record = restore_state(kept.load(), model, average, optimizer)
    objective = Objective(model, loss_of)
    shared = DistributedDataParallel(objective) if processes > 1 else objective
    steps, before = total_images // batch, record["seconds"]
    images, labels = images.to(dev), labels.to(dev)
    started = saved = time.monotonic()
    stepping = bar(total=steps, initial=record["step"], unit="step", mininterval=2, disable=rank > 0)
    while record["step"] < steps:
        step = record["step"]
        generator = torch.Generator(dev).manual_seed((seed * 10**9 + step) * processes + rank)
        chosen = torch.randint(len(images), (batch // processes,), generator=generator, device=dev)
        x = scaled(images[chosen]).to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / steps, peak)
        loss = update(shared, optimizer, x, labels[chosen], generator)
        average.update_parameters(model)
        now = time.monotonic()
        mean = record["loss"] + (loss - record["loss"]) * max(1 / (step + 1), 0.01)
        record = {
            "step": step + 1,
            "seconds": before + now - started,
            "loss": mean,
            "hardware": hardware(dev),
        }
        if rank == 0 and (now - saved > SAVE_EVERY_SECONDS or step + 1 == steps):
            kept.save(state_of(model, average, optimizer, record))
            saved = now
        stepping.set_postfix(loss=f"{mean:.4f}", refresh=False)
        stepping.update()
    stepping.close()
    return average.module.state_dict(), {
        "images_seen": steps * batch,
        "batch": batch,
        "training_hours": round(record["seconds"] / 3600, 2),
        "hardware": record["hardware"],
        "final_loss": round(record["loss"], 4),
        "seed": seed,
    }


def averaged(model: nn.Module, batch: int) -> AveragedModel:
    """Exponential moving average of the weights, half-life 40,000 images or a tenth of what was seen."""

    def mean(averages: list[Tensor], parameters: list[Tensor], updates: Tensor) -> None:
        decay = 0.5 ** (batch / min(40_000, 0.1 * (float(updates) + 1) * batch))
        get_ema_multi_avg_fn(decay)(averages, parameters, updates)

    return AveragedModel(model, multi_avg_fn=mean, use_buffers=False)


def scaled(images: Tensor) -> Tensor:
    """uint8 pixels as floats in [−1, 1]; latents as they are."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


def update(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> float:
    """One step of Adam; the loss before it."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16_is_fast(x.device)):
        loss = objective(x, labels, generator)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def hardware(device: torch.device) -> str:
    """What a training time refers to."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else device.type


def identity(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss_of: Loss,
    total_images: int,
    batch: int,
    seed: int,
) -> dict[str, Any]:
    """What tells a training from another: network, data, loss, and how it is gone through."""
    return {
        "network": {name: list(p.shape) for name, p in model.named_parameters()},
        "data": digest(images, labels),
        "loss": told(loss_of),
        "total_images": total_images,
        "batch": batch,
        "seed": seed,
    }


def told(value: Any) -> str:
    """A loss in words that are the same in every process: the names of its functions, and its options."""
    if isinstance(value, partial):
        return (
            f"{told(value.func)}({', '.join(f'{key}={told(own)}' for key, own in value.keywords.items())})"
        )
    if isinstance(value, str | int | float):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__name__)


def state_of(model: nn.Module, average: AveragedModel, optimizer, record: dict) -> dict[str, Any]:
    """Weights, EMA, Adam's moments and the counters, flat."""
    moments = {
        f"{key}.{name}": optimizer.state[p][key] for name, p in model.named_parameters() for key in MOMENTS
    }
    weights = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    return {f"ema.{n}": t for n, t in average.module.state_dict().items()} | weights | moments | record


MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam remembers of a parameter."""


def restore_state(state: dict[str, Any], model: nn.Module, average: AveragedModel, optimizer) -> dict:
    """Restore what :func:`state_of` gave and return its record; an empty one of an empty state."""
    if not state:
        return {"step": 0, "seconds": 0.0, "loss": 0.0, "hardware": "none"}
    record = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
    for name, value in average.module.state_dict().items():
        value.copy_(state[f"ema.{name}"])
    average.n_averaged.fill_(record["step"])
    for name, p in model.named_parameters():
        p.data.copy_(state[f"model.{name}"])
        # In the parameter's own memory layout: fused Adam walks both without looking at strides.
        moments = {key: torch.empty_like(p) for key in MOMENTS[:2]}
        for key, moment in moments.items():
            moment.copy_(state[f"{key}.{name}"])
        optimizer.state[p] = {**moments, "step": state[f"step.{name}"].to(p.device)}
    return record

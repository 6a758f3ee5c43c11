"""Training of the bundled image models: resumable to the bit, EMA weights, one file of state."""

import json
import math
import time
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from s4s_nb.files import read_safetensors, write_safetensors
from s4s_nb.unet import EDM

SAVE_EVERY_SECONDS = 60


def edm_loss(
    model: EDM,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    generator: torch.Generator,
    label_dropout: float = 0.1,
    p_mean: float = -0.8,
    p_std: float = 1.4,
) -> Float[Tensor, ""]:
    """E λ(σ) ‖D(x₀ + σε, σ) − x₀‖² with ln σ ~ N(p_mean, p_std²), λ = (σ² + σ_d²)/(σ σ_d)².

    Karras et al. 2022, eq. 2 and table 1; mean over pixels. A label is dropped with probability
    ``label_dropout``, so that one network serves conditional and unconditional sampling.
    """
    b = len(images)
    sigma = (p_mean + p_std * torch.randn(b, generator=generator)).exp().to(images.device)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    drop = (torch.rand(b, generator=generator) < label_dropout).to(images.device)
    labels = torch.where(drop, model.net.classes, labels)
    denoised = model(images + sigma[:, None, None, None] * noise, sigma, labels)
    weight = (sigma**2 + model.sigma_data**2) / (sigma * model.sigma_data) ** 2
    return (weight * (denoised - images).square().mean(dim=(1, 2, 3))).mean()


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


def train(
    model: EDM,
    images: Tensor,
    labels: Tensor,
    state_file: Path,
    total_images: int,
    batch: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[dict[str, Tensor], dict]:
    """Train ``model`` until ``total_images`` were seen; its EMA weights and a record of the run.

    Progress is saved to ``state_file`` every minute; a run that finds the file goes on from there.
    Every step draws its batch, noise and dropped labels from a generator seeded by the step, so an
    interrupted run ends with the same bits as an uninterrupted one (on the CPU).
    """
    dev = torch.device(device)
    model.to(dev, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    ema = {name: p.detach().clone() for name, p in model.state_dict().items()}
    record = load_state(state_file, model, ema, optimizer)
    steps, before = total_images // batch, record["seconds"]
    started = saved = time.monotonic()
    bar = tqdm(total=steps, initial=record["step"], unit="step", mininterval=2)
    while record["step"] < steps:
        step = record["step"]
        generator = torch.Generator().manual_seed(seed * 10**9 + step)
        chosen = torch.randint(len(images), (batch,), generator=generator)
        x = (images[chosen].to(dev, torch.float32) / 127.5 - 1).to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / steps)
        loss = update(model, optimizer, x, labels[chosen].to(dev), generator)
        average_weights(ema, model, batch, step + 1)
        now = time.monotonic()
        mean = record["loss"] + (loss - record["loss"]) * max(1 / (step + 1), 0.01)
        record = {"step": step + 1, "seconds": before + now - started, "loss": mean}
        if now - saved > SAVE_EVERY_SECONDS or step + 1 == steps:
            save_state(state_file, model, ema, optimizer, record)
            saved = now
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        bar.update()
    bar.close()
    return ema, {
        "images_seen": steps * batch,
        "batch": batch,
        "training_hours": round(record["seconds"] / 3600, 2),
        "hardware": hardware(dev),
        "final_loss": round(record["loss"], 4),
        "seed": seed,
    }


def update(model: EDM, optimizer, x: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """One step of Adam; the loss before it."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16_is_fast(x.device)):
        loss = edm_loss(model, x, labels, generator)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def average_weights(ema: dict[str, Tensor], model: EDM, batch: int, step: int) -> None:
    """Exponential moving average, half-life 40,000 images or a tenth of what was seen."""
    decay = 0.5 ** (batch / min(40_000, 0.1 * step * batch))
    for name, p in model.state_dict().items():
        ema[name].lerp_(p, 1 - decay)


def hardware(device: torch.device) -> str:
    """What a training time refers to."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of a {device.type}"


def save_state(state_file: Path, model: EDM, ema, optimizer, record: dict) -> None:
    """Write weights, EMA, Adam's moments and the counters in one file."""
    tensors = {f"ema.{n}": t for n, t in ema.items()}
    for name, p in model.named_parameters():
        tensors[f"model.{name}"] = p.detach()
        for key in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{key}.{name}"] = optimizer.state[p][key]
    write_safetensors(state_file, tensors, {"record": json.dumps(record)})


def load_state(state_file, model, ema, optimizer) -> dict:
    """Restore what :func:`save_state` wrote and return its record; zeros without a file."""
    if not Path(state_file).exists():
        return {"step": 0, "seconds": 0.0, "loss": 0.0}
    tensors, metadata = read_safetensors(state_file)
    for name in ema:
        ema[name].copy_(tensors[f"ema.{name}"])
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"model.{name}"])
        # In the parameter's own memory layout: fused Adam walks both without looking at strides.
        moments = {k: torch.empty_like(p) for k in ("exp_avg", "exp_avg_sq")}
        for key, moment in moments.items():
            moment.copy_(tensors[f"{key}.{name}"])
        optimizer.state[p] = {**moments, "step": tensors[f"step.{name}"].to(p.device)}
    return json.loads(metadata["record"])

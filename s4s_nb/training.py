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
    step, seconds, loss_average = load_state(state_file, model, ema, optimizer)
    steps = total_images // batch
    started = saved = time.monotonic()
    bar = tqdm(total=steps, initial=step, unit="step", mininterval=2)
    while step < steps:
        generator = torch.Generator().manual_seed(seed * 10**9 + step)
        chosen = torch.randint(len(images), (batch,), generator=generator)
        x = (images[chosen].to(dev, torch.float32) / 127.5 - 1).to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / steps)
        with torch.autocast(dev.type, torch.bfloat16, enabled=bf16_is_fast(dev)):
            loss = edm_loss(model, x, labels[chosen].to(dev), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        half_life = min(40_000, 0.1 * step * batch)  # in images
        decay = 0.5 ** (batch / half_life)
        for name, p in model.state_dict().items():
            ema[name].lerp_(p, 1 - decay)
        loss_average += (loss.item() - loss_average) * max(1 / step, 0.01)
        bar.update()
        bar.set_postfix(loss=f"{loss_average:.4f}", refresh=False)
        now = time.monotonic()
        if now - saved > SAVE_EVERY_SECONDS or step == steps:
            save_state(state_file, model, ema, optimizer, step, seconds + now - started, loss_average)
            saved = now
    bar.close()
    _, seconds, loss_average = load_state(state_file, model, ema, optimizer)
    record = {"images_seen": step * batch, "batch": batch, "seconds": round(seconds)}
    return ema, record | {"final_loss": round(loss_average, 4), "seed": seed}


def save_state(state_file, model, ema, optimizer, step, seconds, loss) -> None:
    """Write weights, EMA, Adam's moments and counters in one file."""
    tensors = {f"ema.{n}": t for n, t in ema.items()}
    for name, p in model.named_parameters():
        tensors[f"model.{name}"] = p.detach()
        for key in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{key}.{name}"] = optimizer.state[p][key]
    record = {"step": step, "seconds": seconds, "loss": loss}
    write_safetensors(state_file, tensors, {"record": json.dumps(record)})


def load_state(state_file, model, ema, optimizer) -> tuple[int, float, float]:
    """Restore what :func:`save_state` wrote; (step, seconds, loss), zeros without a file."""
    if not Path(state_file).exists():
        return 0, 0.0, 0.0
    tensors, metadata = read_safetensors(state_file)
    for name in ema:
        ema[name].copy_(tensors[f"ema.{name}"])
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"model.{name}"])
        state = {k: tensors[f"{k}.{name}"].to(p.device) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {**state, "step": tensors[f"step.{name}"]}
    record = json.loads(metadata["record"])
    return record["step"], record["seconds"], record["loss"]

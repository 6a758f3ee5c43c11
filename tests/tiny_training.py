"""Trains a tiny network; run as a script by the tests that kill it or start it under torchrun.

python tiny_training.py STATE [RESULT]
"""

import sys
from pathlib import Path

import torch

from s4s_nb.files import write_safetensors
from s4s_nb.models.unet import EDM, UNet
from s4s_nb.runtime import world
from s4s_nb.training import train as training
from s4s_nb.training.losses import edm_loss


def tiny() -> EDM:
    torch.manual_seed(0)
    return EDM(UNet(channels=(8, 32), width=16, classes=2), sigma_data=0.5)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Bright on the left or on the right, by label."""
    labels = torch.arange(20) % 2
    x = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    x[labels == 0, :, :, :4], x[labels == 1, :, :, 4:] = 200, 200
    return x, labels


def train_tiny(state: Path, total: int = 240) -> dict[str, torch.Tensor]:
    """EMA weights after ``total`` images in batches of 8."""
    ema, _ = training.train(tiny(), *images(), edm_loss, state, total, batch=8)
    return ema


if __name__ == "__main__":
    torch.set_num_threads(1)
    training.SAVE_EVERY_SECONDS = 0
    weights = train_tiny(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        rank, _ = world("cpu")
        write_safetensors(Path(f"{sys.argv[2]}.{rank}"), weights, {})

"""Several processes, started by ``torchrun``: who am I, and how are gradients shared."""

import os

import torch
import torch.distributed as dist
from torch import nn


def world(device: str) -> tuple[int, int]:
    """(rank, number of processes); joins the group on the first call, (0, 1) without ``torchrun``."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from here on
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return dist.get_rank(), dist.get_world_size()


def average_gradients(model: nn.Module) -> None:
    """Every process gets the mean of all processes' gradients."""
    if not dist.is_initialized():
        return
    for gradient in (p.grad for p in model.parameters() if p.grad is not None):
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()

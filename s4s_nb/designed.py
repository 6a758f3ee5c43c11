"""The designer of Linear Multistep Solver Distillation: every sample gets a table of its own.

A small network g sees the features h_i of the U-Net's bottleneck at evaluation i and says how to go on,

    (a_i, σ_{i+1}, s_{i+1}) = g(h_i, σ_i, i),
    x_{i+1} = (σ_{i+1}/σ_i) x_i + (1 − σ_{i+1}/σ_i) Σ_k a_ik D_{i−k},       Σ_k a_ik = 1,
    D_{i+1} = denoise(x_{i+1}, s_{i+1} σ_{i+1})

(Liang et al. 2025, equations 8 and 9, algorithms 1 and 2). This is the one solver of the package that is no
table: row i is known only once the network has been asked i + 1 times, and each sample has other levels, at
which the denoiser is asked with a level a sample. So it has a loop of its own, :meth:`Designed.follow`,
and nothing else knows of it: for learning (:mod:`s4s_nb.learn.designer`), sampling and judging it is a
solver as all others are.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from s4s_nb.denoisers import Condition, Denoiser, a_level_each, as_tensor
from s4s_nb.distilled import SCALE
from s4s_nb.files import digest, write_safetensors
from s4s_nb.grids import Grid
from s4s_nb.multistep import ipndm_weights
from s4s_nb.schedules import VE, Schedule
from s4s_nb.solvers import TABLE, Solver, check_prediction

POOLED, HIDDEN, SEEN, EMBEDDED = 8, 128, 4, 8
"""Of the network: side of the pooled features, width, and the numbers that are left of features, of the
level and of the step."""
DESIGNER_FORMAT = "s4s_nb designer 1"


class Designer(nn.Module):
    """g(h, σ, i) → coefficients (b, p'), next level (b,) and scale of the asked level (b,), float64.

    About nine thousand weights, as many as AMED's. Its last layers are zero at first, so that it begins as
    PLMS, or as Euler's method, on the reference grid with scales of 1.

    Args:
        sigmas: the reference grid.
        order: p, how many outputs a step may mix.
        bottleneck, high_order, scale, learn_levels: the paper's ablations: whether it sees h, begins as
            PLMS, scales the asked levels and moves the levels.
    """

    def __init__(
        self,
        sigmas: Grid,
        order: int = 4,
        bottleneck: bool = True,
        high_order: bool = True,
        scale: bool = True,
        learn_levels: bool = True,
    ):
        super().__init__()
        self.how = {"order": order, "bottleneck": bottleneck, "high_order": high_order}
        self.how |= {"scale": scale, "learn_levels": learn_levels}
        self.order, self.scale, self.learn_levels, self.sees = order, scale, learn_levels, bottleneck
        tau, nfe = sigmas.log(), len(sigmas) - 1
        classic = ipndm_weights(sigmas, order if high_order else 1)
        self.rows = [classic[i, max(0, i + 1 - order) : i + 1].flip(0) for i in range(nfe)]
        self.first, self.last, self.reference = tau[0], tau[-1], sigmas
        self.shares = (tau.diff() / (tau[-1] - tau[:-1]))[:-1].logit()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.features = nn.Sequential(nn.Linear(POOLED**2, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, SEEN))
            self.level = nn.Sequential(nn.Linear(EMBEDDED, EMBEDDED), nn.SiLU())
            self.step = nn.Embedding(nfe, EMBEDDED)
            self.head = nn.Linear(SEEN + 2 * EMBEDDED, order + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.double().requires_grad_(False)

    def forward(self, h: Float[Tensor, "b d"], sigma: Float[Tensor, " b"], i: int) -> tuple[Tensor, ...]:
        angles = sigma.log()[:, None] * 2.0 ** torch.arange(-2, 2, device=sigma.device)
        seen = self.features(h if self.sees else torch.zeros_like(h))
        level = self.level(torch.cat([angles.sin(), angles.cos()], 1))
        step = self.step.weight[i].expand(len(h), -1)
        out = self.head(torch.cat([seen, level, step], 1))
        row = self.rows[i].to(sigma)
        past = row[1:] + out[:, : len(row) - 1]
        coefficients = torch.cat([1 - past.sum(1, keepdim=True), past], 1)
        scale = 1 + SCALE * (out[:, -2] / 2).tanh() * self.scale
        return coefficients, self.next_level(sigma, out[:, -1], i), scale

    def next_level(
        self, sigma: Float[Tensor, " b"], by: Float[Tensor, " b"], i: int
    ) -> Float[Tensor, " b"]:
        """Part of the way to the last level in log σ, a sigmoid, beside the reference grid's."""
        if i == len(self.rows) - 1 or not self.learn_levels:
            return self.reference[i + 1].to(sigma).expand(len(sigma))
        left = self.last.to(sigma) - sigma.log()
        return sigma * (left * torch.sigmoid(self.shares[i].to(sigma) + by)).exp()


@contextmanager
def watching(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """What a module has answered last in this thread, at most one tensor; other threads have their own."""
    seen: list[Tensor] = []
    if module is None:
        yield seen
        return
    own = threading.get_ident()

    def keep(_: nn.Module, __: Any, answer: Tensor) -> None:
        if threading.get_ident() == own:
            seen[:] = [answer]

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def pooled(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """The mean over channels, 8×8 whatever the side is."""
    return F.adaptive_avg_pool2d(features.mean(1, keepdim=True), POOLED).flatten(1)


@dataclass(frozen=True, eq=False)
class Designed(Solver):
    """A solver whose rows a designer makes as the loop goes; its own table is what that begins as.

    Args:
        design: the designer. weights: of it, by name; those that it was made with, if left out.
        watched: the module of the network whose features it sees. schedule: of the process.
    """

    design: Designer = None  # type: ignore[assignment]
    weights: dict[str, Tensor] = field(default_factory=dict)
    watched: nn.Module | None = None
    schedule: Schedule | None = None

    @property
    def digest(self) -> str:
        """Of the table and of the weights."""
        numbers = [self.weights[name].detach().mul(1e9).round().long() for name in sorted(self.weights)]
        return digest(*(getattr(self, key).detach().mul(1e9).round().long() for key in TABLE), *numbers)

    def row(
        self, x: Tensor, outputs: list[Tensor], h: Tensor, sigma: Tensor, i: int, hold: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next state, its level and the level to ask at; with ``hold`` the level takes no gradient."""
        here = {name: weight.to(x.device) for name, weight in self.weights.items()}
        a, after, scale = functional_call(self.design, here, (h, sigma, i))
        after = after.detach() if hold else after
        ratio = a_level_each(after / sigma, x).to(x)
        newest = outputs[::-1][: a.shape[1]]
        mixed = sum(a_level_each(a[:, k], x).to(x) * d for k, d in enumerate(newest))
        return ratio * x + (1 - ratio) * mixed, after, scale * after

    def follow(
        self, denoise: Denoiser, x: Tensor, cond: Condition | None = None, cut: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Levels (N + 1, b) and states, as of every solver.

        Args:
            cut: the stop-gradients of algorithm 1. A step begins from what is held, its row and that of the
                step before are made anew with gradients, and a level has its gradient from the step after.
        """
        kind, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        alpha = (self.schedule or VE()).alpha
        sigma = self.sigmas[:1].to(x.device).expand(len(x))
        nothing = torch.zeros(len(x), POOLED**2, dtype=torch.float64, device=x.device)
        asked, outputs, levels, states = sigma, [], [sigma], [x]
        with watching(self.watched) as seen:
            for i in range(self.nfe):
                kappa = a_level_each(alpha(sigma) / alpha(asked), x).to(x)
                d = as_tensor(denoise((kappa * x).to(kind), asked.clone(), **(cond or {})))
                check_prediction(d, x, i, self)
                outputs.append(d.to(x.dtype, copy=True))
                h = pooled(seen[0]).double() if seen else nothing
                h = h.detach() if cut else h
                reached, after, following = self.row(x, outputs, h, sigma, i, hold=cut)
                levels.append(after)
                states.append(reached)
                if cut:
                    outputs = [d.detach() for d in outputs]
                    reached, after, following = self.row(x.detach(), outputs, h, sigma.detach(), i)
                x, sigma, asked = reached, after, following
        return torch.stack(levels), states

    def save(self, path: Path | str) -> None:
        """Write the weights and the reference grid; :func:`load_designed` reads them."""
        told = {"name": self.name, "info": json.dumps(self.info), "how": json.dumps(self.design.how)}
        tensors = {"sigmas": self.sigmas, **self.weights}
        write_safetensors(Path(path), tensors, {"format": DESIGNER_FORMAT, **told})

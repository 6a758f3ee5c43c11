"""The objectives, as data: what is compared of a student and its teacher, for every sample.

With x_i the student's states, x*(σ) the teacher's way, D numbers in a state and e the embedding

    end          ‖e(x_N) − e(x*_N)‖²                                                (S4S, LD3)
    trajectory   Σ_{0<i<N} d_i + ‖e(x_N) − e(x*_N)‖²,     d_i = α(σ_i)² ‖x_i − x*(σ_i)‖²/D
    dlms         the same, with gradients that do not pass from step to step        (DLMS, algorithm 1)
    dss          Σ_{0<i≤N} d_i + 1000/D Σ_k huber(x_N − x*_N)_k,     δ = 0.001      (DSS, their code)
    bns          log ‖e(x_N) − e(x*_N)‖²                                            (BNS, section 3)

α x is a state as its process has it, of size O(1) at every level: √(1 + σ²)⁻¹ x where the process is
VE's, whose own states would hide all but the first steps. Each objective but the last is a sum of
squares, huber too, as of its signed roots; the last is its logarithm. So Gauss–Newton and BFGS learn
them all, but for stop-gradients, which are of the first order.

To each of them a term may be added that is of a batch as a set, with weight w,

    ‖μ − μ_*‖² + ‖s − s_*‖²,

μ and s the means and standard deviations over the batch of features of its end points: the Fréchet
distance of normal distributions without correlations.

Otherwise than in DSS's code the teacher's way is not rounded to its nearest step but drawn through its two
nearest ones (:meth:`s4s_nb.pairs.Way.at`), so that levels are not pulled to those of the teacher.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser, a_level_each
from s4s_nb.distances import Embedding
from s4s_nb.pairs import Pairs, Way, part_of
from s4s_nb.runtime import batch_size, map_batches
from s4s_nb.schedules import Schedule, native_clock
from s4s_nb.solvers import Solver, trajectory

DELTA, HUBER_WEIGHT = 1e-3, 1000.0
LEAST_SQUARE = 1e-30
"""Of a squared distance of which the logarithm is taken."""
WAY_BYTES = 2**30
"""Most memory that the teacher's ways of one split may take; of longer ones fewer states are kept."""


@dataclass(frozen=True)
class Aim:
    """What is compared (module docstring).

    way: whether the states on the way are. huber: whether end points are by Huber's loss, not as embedded.
    cut: whether gradients stop between the steps. log: whether a sample counts by its logarithm.
    """

    way: bool = False
    huber: bool = False
    cut: bool = False
    log: bool = False

    def counted(self, residual: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
        """How far every sample is, of its residual: f of its sum of squares, the logarithm or itself."""
        squares = residual.square().sum(1)
        return squares.clamp(min=LEAST_SQUARE).log() if self.log else squares

    @torch.no_grad()
    def slopes(self, residual: Float[Tensor, "b p"]) -> Float[Tensor, "b 1"]:
        """√f' of every sample: so weighed, the residuals' least squares have the objective's gradient."""
        squares = residual.square().sum(1, keepdim=True)
        return squares.clamp(min=LEAST_SQUARE).rsqrt() if self.log else torch.ones_like(squares)


ObjectiveName = Literal["end", "trajectory", "dlms", "dss", "bns"]
"""The keys of :data:`OBJECTIVES`, as type checkers and the command line know them."""
OBJECTIVES = {
    "end": Aim(),
    "trajectory": Aim(way=True),
    "dlms": Aim(way=True, cut=True),
    "dss": Aim(way=True, huber=True),
    "bns": Aim(log=True),
}


def way_residuals(
    levels: Tensor, states: list[Tensor], way: Way, schedule: Schedule | None
) -> list[Float[Tensor, "b d"]]:
    """α(σ_i) (x_i − x*(σ_i)) / √D of the states after the first."""
    alpha, root = native_clock(schedule).alpha, states[0][0].numel() ** 0.5
    return [
        (a_level_each(alpha(level), x).to(x) * (x - way.at(level).to(x)) / root).flatten(1)
        for level, x in zip(levels[1:], states[1:], strict=True)
    ]


def huber_root(apart: Tensor, delta: float = DELTA) -> Tensor:
    """r with r² Huber's loss, of the sign of what is apart, and with a continuous derivative.

    Huber's loss is d²/2 up to δ and δ (|d| − δ/2) beyond.
    """
    size = apart.abs()
    far = (delta * (size.clamp(min=delta) - delta / 2)).sqrt() * apart.sign()
    return torch.where(size <= delta, apart / 2**0.5, far)


def huber_residual(ends: Tensor, targets: Tensor) -> Float[Tensor, "b d"]:
    """What 1000 times Huber's mean loss is the sum of squares of."""
    apart = (ends - targets).flatten(1)
    return (HUBER_WEIGHT / apart.shape[1]) ** 0.5 * huber_root(apart)


def set_residual(features: Embedding, ends: Tensor, targets: Tensor) -> Float[Tensor, "b two_d"]:
    """(μ − μ_*, s − s_*) of a batch, in the row of every sample of it."""
    with torch.no_grad():
        there = mean_and_spread(features(targets))
    return (mean_and_spread(features(ends)) - there).expand(len(ends), -1)


def mean_and_spread(features: Float[Tensor, "b d"]) -> Float[Tensor, " two_d"]:
    """Means and standard deviations over a batch, one after the other."""
    spread = features.var(0, correction=0).clamp(min=1e-12).sqrt()
    return torch.cat([features.mean(0), spread])


@torch.no_grad()
def ways_of(
    denoise: Denoiser,
    starts: Tensor,
    teacher: Solver,
    cond: Condition | None = None,
    title: str | None = None,
) -> Pairs:
    """Pairs of a teacher with its way: all its states, or every k-th if they do not fit :data:`WAY_BYTES`.

    The evaluations are those of the end points alone, which are the last states of the way.

    Example:
        >>> ways_of(model.denoise, model.starts("train", 40), model.teacher())
    """
    size, cond = batch_size(starts.device), cond or {}
    bytes_of_all = starts.nbytes * len(teacher.sigmas)
    every = min(-(-bytes_of_all // WAY_BYTES), teacher.nfe)
    kept = sorted({*range(0, teacher.nfe, every), teacher.nfe})

    def states(part: slice) -> Tensor:
        found = trajectory(denoise, starts[part], teacher, part_of(cond, part))[0]
        return torch.stack([found[i] for i in kept], 1).to(starts)

    parts = [slice(first, first + size) for first in range(0, len(starts), size)]
    way = Way(teacher.sigmas[kept], torch.cat(map_batches(states, parts, starts.device, title)))
    return Pairs(starts, way.states[:, -1].clone(), cond, way)

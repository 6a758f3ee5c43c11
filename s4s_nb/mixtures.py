"""Gaussian mixtures: data whose denoiser, score and density are known exactly at every level."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.errors import InputError

TensorLike = Tensor | Sequence
"""What torch.as_tensor makes a tensor of."""


class GaussianMixture:
    """The exact denoiser of p_0 = Σ_k w_k N(μ_k, diag(s_k²)); one component is a Gaussian.

    At level σ component k is N(μ_k, s_k² + σ²) and, with r_k(x) its posterior probability,

        D(x, σ) = Σ_k r_k(x) [μ_k + s_k² / (s_k² + σ²) (x − μ_k)].

    Probabilities go through a log-softmax, so that nothing under- or overflows at small σ.

    Args:
        means: (k, d).
        stds: standard deviations, (k,) or (k, d), positive.
        weights: (k,), positive; normalised here; equal when left out.
    """

    def __init__(self, means: TensorLike, stds: TensorLike, weights: TensorLike | None = None):
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2:
            raise InputError(f"means must have shape (k, d); got {tuple(self.means.shape)}.")
        k = len(self.means)
        stds = torch.as_tensor(stds, dtype=torch.float64)
        weights = torch.as_tensor([1.0] * k if weights is None else weights, dtype=torch.float64)
        if stds.shape not in ((k,), self.means.shape) or weights.shape != (k,):
            raise InputError(
                f"A mixture of {k} components needs stds of shape ({k},) or {tuple(self.means.shape)} and"
                f" weights of shape ({k},); got {tuple(stds.shape)} and {tuple(weights.shape)}."
            )
        if not (stds > 0).all() or not (weights > 0).all():
            raise InputError("stds and weights of a mixture must be positive.")
        self.variances = (stds[:, None] if stds.ndim == 1 else stds).expand_as(self.means) ** 2
        self.log_weights = (weights / weights.sum()).log()

    def _log_joint(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, "b k"]:
        """log w_k N(x; μ_k, s_k² + σ²) up to the constant −(d/2) log 2π."""
        variances = self.variances + sigma**2
        squares = (x[:, None] - self.means) ** 2 / variances
        return self.log_weights - 0.5 * (squares + variances.log()).sum(-1)

    def __call__(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, "b d"]:
        """D(x, σ)."""
        posterior = self._log_joint(x, sigma).softmax(-1)
        shrink = self.variances / (self.variances + sigma**2)
        centres = self.means + shrink * (x[:, None] - self.means)
        return (posterior[..., None] * centres).sum(1)

    def log_density(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, " b"]:
        """log p(x; σ) of the noised mixture."""
        constant = 0.5 * x.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=x.dtype))
        return self._log_joint(x, sigma).logsumexp(-1) - constant

    def score(self, x: Float[Tensor, "b d"], sigma: Tensor) -> Float[Tensor, "b d"]:
        """∇ log p(x; σ) = (D(x, σ) − x) / σ² (Tweedie)."""
        return (self(x, sigma) - x) / sigma**2

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Samples of p_0."""
        k = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.variances[k].sqrt() * noise

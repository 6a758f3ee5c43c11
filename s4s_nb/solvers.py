"""A solver is a table, and one loop runs them all.

Every explicit solver with N evaluations of the denoiser is a general linear method

    x_{i+1} = Σ_{j≤i} A_ij x_j + Σ_{j≤i} B_ij D_j,    D_j = denoise(κ_j x_j, s_j),    i = 0 … N−1,

with node levels σ_0 ≥ … ≥ σ_N, model levels s_j (equal to σ_j unless decoupled), input scales κ_j
(one unless decoupled on VP or flow) and two lower-triangular N×N matrices A, B. Stages of a
single-step method are rows like any other, so two nodes may share a level.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.files import digest, read_safetensors, write_safetensors

FORMAT = "s4s_nb solver 1"


@dataclass(frozen=True, eq=False)
class Solver:
    """The table. ``info`` records family, order, model, grid, how it was learned, what it reached.

    Args:
        name: how tables and pictures call it.
        sigmas: (N+1,) node levels σ_0 ≥ … ≥ σ_N ≥ 0, float64.
        A: (N, N) weights of states, lower-triangular.
        B: (N, N) weights of denoiser outputs, lower-triangular.
        model_sigmas: (N,) levels s_j at which the denoiser is asked; σ_j when left out.
        kappa: (N,) scales of its input; ones when left out.

    Raises:
        InputError: shapes that do not fit, entries above the diagonal, NaN, rising or negative
            levels, a model level that is not positive.
    """

    name: str
    sigmas: Float[Tensor, " levels"]
    A: Float[Tensor, "levels-1 levels-1"]
    B: Float[Tensor, "levels-1 levels-1"]
    model_sigmas: Float[Tensor, " levels-1"] = None  # type: ignore[assignment]
    kappa: Float[Tensor, " levels-1"] = None  # type: ignore[assignment]
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.sigmas.ndim != 1 or len(self.sigmas) < 2:
            raise InputError(f"Solver {self.name!r} needs at least two levels in one dimension.")
        n = self.nfe
        if self.model_sigmas is None:
            object.__setattr__(self, "model_sigmas", self.sigmas[:-1])
        if self.kappa is None:
            object.__setattr__(self, "kappa", torch.ones(n, dtype=torch.float64))
        shapes = {"A": (n, n), "B": (n, n), "model_sigmas": (n,), "kappa": (n,)}
        for key, shape in shapes.items():
            value = getattr(self, key)
            if tuple(value.shape) != shape:
                raise InputError(
                    f"Solver {self.name!r} has {n} steps, so {key} must have shape {shape};"
                    f" it has {tuple(value.shape)}."
                )
        for key in ("sigmas", *shapes):
            if not torch.isfinite(getattr(self, key)).all():
                raise DivergedError(f"Solver {self.name!r} has NaN or infinite numbers in {key}.")
        for key in ("A", "B"):
            if torch.triu(getattr(self, key), 1).any():
                raise InputError(f"Solver {self.name!r} uses the future: {key} must be lower-triangular.")
        if (self.sigmas.diff() > 0).any() or self.sigmas[-1] < 0 or (self.model_sigmas <= 0).any():
            raise DivergedError(
                f"Levels of solver {self.name!r} must fall and stay positive (only the last may be 0)."
            )

    @property
    def nfe(self) -> int:
        """N, the number of denoiser evaluations."""
        return len(self.sigmas) - 1

    @property
    def digest(self) -> str:
        """Hex digest of the table to nine decimals, the same on machines that round the last bits apart."""
        tensors = (self.sigmas, self.A, self.B, self.model_sigmas, self.kappa)
        return digest(*(t.detach().mul(1e9).round().long() for t in tensors))

    def save(self, path: Path | str) -> None:
        """Write the table as safetensors with its name and ``info`` as JSON metadata."""
        tensors = {k: getattr(self, k) for k in ("sigmas", "A", "B", "model_sigmas", "kappa")}
        metadata = {"format": FORMAT, "name": self.name, "info": json.dumps(self.info)}
        write_safetensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "Solver":
        """Read a table back; :class:`InputError` if the file is missing, damaged or foreign."""
        tensors, metadata = read_safetensors(Path(path))
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} is not a solver file of this package ({FORMAT!r}).")
        try:
            return cls(name=metadata["name"], info=json.loads(metadata["info"]), **tensors)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} lacks parts of a solver ({error}); write it again.") from None


def combine(weights: Float[Tensor, " n"], vectors: list[Tensor]) -> Tensor:
    """Σ_j w_j v_j over the vectors so far; zeros are skipped, unless they are being learned."""
    if weights.requires_grad:
        terms = [weights[j] * vector for j, vector in enumerate(vectors)]
        return sum(terms[1:], start=terms[0])
    used = [(w, v) for w, v in zip(weights.tolist(), vectors, strict=False) if w]
    if not used:
        return torch.zeros_like(vectors[0])
    total = used[0][0] * used[0][1]
    for weight, vector in used[1:]:  # in one pass a term, where a product and a sum would be two
        total = torch.add(total, vector, alpha=weight)
    return total


def trajectory(
    denoise: Denoiser,
    x: Tensor,
    solver: Solver,
    cond: Condition | None = None,
    known: tuple[list[Tensor], list[Tensor]] = ([], []),
) -> tuple[list[Tensor], list[Tensor]]:
    """Run the table from x = x_0 and return all states x_0 … x_N and all outputs D_0 … D_{N−1}.

    Args:
        cond: what the denoiser takes beside x and sigma, by name, with the batch in front.
        known: the first states and outputs, where another table with the same first rows has them
            already: i + 1 states and as many outputs spare the first i + 1 evaluations.

    Raises:
        InputError: if a prediction has another shape than its input.
        DivergedError: if one is not finite.
    """
    states, outputs, cond = known[0] + ([] if known[0] else [x]), list(known[1]), cond or {}
    for i in range(len(states) - 1, solver.nfe):
        if len(outputs) == i:
            outputs.append(denoise(solver.kappa[i] * states[i], solver.model_sigmas[i], **cond))
            check_prediction(outputs[i], x, i, solver)
        states.append(combine(solver.A[i], states) + combine(solver.B[i], outputs))
    return states, outputs


def solve(denoise: Denoiser, x: Tensor, solver: Solver, cond: Condition | None = None) -> Tensor:
    """The end point x_N of :func:`trajectory`, started from x at level σ_0.

    Example:
        >>> x = solver.sigmas[0] * torch.randn(16, 3, 32, 32)
        >>> images = solve(denoise, x, solver)
    """
    return trajectory(denoise, x, solver, cond)[0][-1]


def check_prediction(d: Any, x: Tensor, i: int, solver: Solver) -> None:
    """Refuse a prediction that would spoil the run silently."""
    if not isinstance(d, Tensor):
        raise InputError(
            f"The denoiser returned a {type(d).__name__}, not a tensor; of a library's output object return"
            " the part that holds the prediction, as .sample or [0]."
        )
    if d.shape == x.shape and torch.isfinite(d).all():
        return
    where = f"at evaluation {i + 1} of {solver.nfe} (sigma = {solver.model_sigmas[i].item():.4g})"
    if d.shape != x.shape:
        raise InputError(
            f"The denoiser returned shape {tuple(d.shape)} for input {tuple(x.shape)} {where};"
            " it must predict the clean image, in the shape of its input."
        )
    raise DivergedError(
        f"The denoiser returned NaN or infinity {where};"
        " check the model at this level, or start from a smaller sigma."
    )

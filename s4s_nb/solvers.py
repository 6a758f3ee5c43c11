"""A solver is a table, and one loop runs them all.

Every explicit solver with N evaluations of the denoiser is a general linear method

    x_{i+1} = Σ_{j≤i} A_ij x_j + Σ_{j≤i} B_ij D_j,    D_j = denoise(κ_j x_j, s_j),    i = 0 … N−1,

with node levels σ_0 ≥ … ≥ σ_N, model levels s_j, input scales κ_j and two lower-triangular matrices A, B.
Stages of a single-step method are rows like any other, so two nodes may share a level.
"""

import json
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.denoisers import Condition, Denoiser, as_tensor, check_shape
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.files import digest, read_safetensors, same_run, write_safetensors
from s4s_nb.first import FreeFirst, free_first_of

FORMAT = "s4s_nb solver 2"
TABLE = ("sigmas", "A", "B", "model_sigmas", "kappa")
"""The tensors of a solver file."""


@runtime_checkable
class Made(Protocol):
    """What a solver is made for; :class:`s4s_nb.models.Model` is one."""

    @property
    def name(self) -> str: ...
    @property
    def sigma_max(self) -> float: ...
    @property
    def conventions(self) -> dict[str, Any]: ...


@lru_cache
def future(steps: int) -> tuple[Tensor, ...]:
    """Rows and columns above the diagonal; kept, as ``torch.triu`` wakes all threads for a few numbers."""
    return tuple(torch.triu_indices(steps, steps, 1))


@dataclass(frozen=True, eq=False)
class Solver:
    """The table, in float64. ``info`` records how it was learned, what it reached, and what it is for.

    Args:
        name: how tables and pictures call it.
        sigmas: (N+1,) node levels σ_0 ≥ … ≥ σ_N ≥ 0.
        A: (N, N) weights of states, lower-triangular.
        B: (N, N) weights of denoiser outputs, lower-triangular.
        model_sigmas: (N,) levels s_j at which the denoiser is asked; σ_j when left out.
        kappa: (N,) scales of its input; ones when left out.
        first: what stands for D_0, if that is not asked for; N steps then take N − 1 evaluations.

    Raises:
        InputError: what is no tensor of floats, shapes that do not fit, entries above the diagonal, NaN,
            rising or negative levels, a model level that is not positive.
    """

    name: str
    sigmas: Tensor
    A: Tensor
    B: Tensor
    model_sigmas: Tensor = None  # type: ignore[assignment]
    kappa: Tensor = None  # type: ignore[assignment]
    info: dict[str, Any] = field(default_factory=dict)
    first: FreeFirst | None = None

    def __post_init__(self):
        for key in TABLE:
            value = getattr(self, key)
            if value is None and key in ("model_sigmas", "kappa"):
                continue
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f"{key} of solver {self.name!r} must be a tensor of floats; it is {kind}.")
            object.__setattr__(self, key, value.to(torch.float64))
        if self.sigmas.ndim != 1 or len(self.sigmas) < 2:
            raise InputError(f"Solver {self.name!r} needs at least two levels in one dimension.")
        n = self.steps
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
            if getattr(self, key).detach()[future(n)].any():
                raise InputError(f"Solver {self.name!r} uses the future: {key} must be lower-triangular.")
        if (self.sigmas.diff() > 0).any() or self.sigmas[-1] < 0 or (self.model_sigmas <= 0).any():
            raise DivergedError(
                f"Levels of solver {self.name!r} must fall and stay positive (only the last may be 0)."
            )

    @property
    def steps(self) -> int:
        """N, the number of rows."""
        return len(self.sigmas) - 1

    @property
    def nfe(self) -> int:
        """The number of denoiser evaluations: N, or one less where the first answer is known."""
        return self.steps - (self.first is not None)

    @property
    def digest(self) -> str:
        """Hex digest of the table to nine decimals, the same on machines that round the last bits apart."""
        known = [] if self.first is None else [self.first.means.mul(1e4).round().long()]
        return digest(*(getattr(self, key).detach().mul(1e9).round().long() for key in TABLE), *known)

    def with_first(self, first: FreeFirst) -> "Solver":
        """The same table with its first answer known, "5 + 1" in its name: one evaluation less.

        AMED, DLMS, DyWeight and EPD count so; a fair comparison has it on both sides. It pays where a grid
        spends its first evaluation near σ_max.

        Example:
            >>> make_solver("ipndm-3", 6, model.grid("logsnr")).with_first(model.first_answer())
        """
        told = {"noises": first.noises, "by": first.by}
        name = f"{self.name} ({self.steps - 1} + 1)"
        return replace(self, name=name, info={**self.info, "free_first": told}, first=first)

    def check_for(self, model: Made, transfer: bool = False) -> None:
        """Check that this solver may sample a model.

        Args:
            transfer: whether it may have been learned for another one.

        Raises:
            InputError: its first level is not the model's sigma_max, of which the noise has to be; or it
                was learned for another model or other conventions, and ``transfer`` is not set.
        """
        first = float(self.sigmas[0])
        if not math.isclose(first, model.sigma_max, rel_tol=1e-6):
            raise InputError(
                f"Solver {self.name!r} starts at sigma {first:g}, but {model.name} at {model.sigma_max:g}:"
                f" the noise is of another size, so it can't sample {model.name}; learn one for it."
            )
        here = {"model": model.name, **model.conventions}
        made_for = self.info.get("made_for")
        known = {"model": self.info.get("model", model.name)}
        known |= made_for if isinstance(made_for, dict) else {}
        differing = [key for key in known if not same_run(known[key], here.get(key))]
        if differing and not transfer:
            told = ", ".join(f"{key} {known[key]} (here {here.get(key)})" for key in differing)
            raise InputError(
                f"Solver {self.name!r} was learned for {told}; to use it all the same, ask for the"
                " transfer: transfer=True, or --transfer on the command line."
            )

    def follow(
        self, denoise: Denoiser, x: Tensor, cond: Condition | None = None, cut: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Levels and states x_0 … x_N from x; one level a state, or (b,) where each sample has its own.

        Args:
            cut: stop gradients between the steps, as :func:`cut_trajectory` says.
        """
        return self.sigmas, (cut_trajectory if cut else trajectory)(denoise, x, self, cond)[0]

    def save(self, path: Path | str) -> None:
        """Write the table as safetensors with its name and ``info`` as JSON metadata."""
        tensors = {key: getattr(self, key) for key in TABLE}
        if self.first is not None:
            tensors["first"] = self.first.means
        metadata = {"format": FORMAT, "name": self.name, "info": json.dumps(self.info)}
        write_safetensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "Solver":
        """Read a table back; :class:`InputError` if the file is missing, damaged or foreign."""
        tensors, metadata = read_safetensors(Path(path))
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} is not a solver file of this package ({FORMAT!r}); learn it again.")
        try:
            name, info = metadata["name"], json.loads(metadata["info"])
        except (KeyError, ValueError, RecursionError):
            info = None
        if not isinstance(info, dict):
            raise InputError(f"{path} lacks the name or the info of a solver; write it again.")
        first = free_first_of(tensors.pop("first", None), info.get("free_first"), path)
        if set(tensors) != set(TABLE):
            raise InputError(f"A solver file holds {', '.join(TABLE)}; {path} holds {', '.join(tensors)}.")
        return cls(name=name, info=info, first=first, **tensors)


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

    The denoiser is asked in the dtype of x; states and outputs are float32, or float64 if x is.

    Args:
        cond: what the denoiser takes beside x and sigma, by name, with the batch in front.
        known: the first states and outputs, where another table with the same first rows has them
            already: i + 1 states and as many outputs spare the first i + 1 evaluations.

    Raises:
        InputError: if x has no floats, or a prediction another shape than its input.
        DivergedError: if one is not finite.
    """
    if not x.is_floating_point():
        raise InputError(f"A solver starts from noise, in floats; its start came as {x.dtype}.")
    wide = torch.promote_types(x.dtype, torch.float32)
    states, outputs, cond = known[0] + ([] if known[0] else [x.to(wide)]), list(known[1]), cond or {}
    if solver.first is not None and not outputs:
        outputs.append(solver.first.answer(x, cond).to(wide))
    levels = solver.model_sigmas.to(x.device)
    for i in range(len(states) - 1, solver.steps):
        if len(outputs) == i:
            d = as_tensor(denoise((solver.kappa[i] * states[i]).to(x.dtype), levels[i].clone(), **cond))
            check_prediction(d, x, i, solver)
            outputs.append(d.to(wide, copy=True))  # its own memory may be that of the next answer
        states.append(combine(solver.A[i], states) + combine(solver.B[i], outputs))
    return states, outputs


def solve(denoise: Denoiser, x: Tensor, solver: Solver, cond: Condition | None = None) -> Tensor:
    """The end point x_N of :func:`trajectory`, started from x at level σ_0, in the dtype of x.

    Example:
        >>> x = solver.sigmas[0] * torch.randn(16, 3, 32, 32)
        >>> images = solve(denoise, x, solver)
    """
    return solver.follow(denoise, x, cond)[1][-1].to(x.dtype)


def cut_trajectory(
    denoise: Denoiser, x: Tensor, solver: Solver, cond: Condition | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`trajectory` with gradients stopped between the steps: state x_{i+1} depends on the rows i and
    i − 1 and on the level of evaluation i alone, through x_i and D_i; whatever is older is held.

    So a step is answerable for itself and for what it hands to the next, memory does not grow with N, and
    no gradient passes more than one evaluation (Linear Multistep Solver Distillation, algorithm 1).
    """
    states, outputs, seen = [x.to(torch.promote_types(x.dtype, torch.float32))], [], [x]
    for i in range(solver.steps):
        reached, answers = trajectory(denoise, x, head(solver, i + 1), cond, (states, outputs))
        seen.append(reached[-1])
        states[-1] = states[-1].detach()
        outputs.append(answers[-1].detach())
        states.append(combine(solver.A[i], states) + combine(solver.B[i], outputs))
    return seen, outputs


def head(solver: Solver, n: int) -> Solver:
    """The first n steps of a solver."""
    parts = {key: getattr(solver, key)[:n] for key in ("model_sigmas", "kappa")}
    return replace(solver, sigmas=solver.sigmas[: n + 1], A=solver.A[:n, :n], B=solver.B[:n, :n], **parts)


def check_prediction(d: Tensor, x: Tensor, i: int, solver: Solver) -> None:
    """Refuse a prediction that would spoil the run silently."""
    if d.shape == x.shape and torch.isfinite(d).all():
        return
    asked = i + 1 - (solver.steps - solver.nfe)
    where = f" at evaluation {asked} of {solver.nfe} (sigma = {solver.model_sigmas[i].item():.4g})"
    check_shape(d, x, where)
    raise DivergedError(
        f"The denoiser returned NaN or infinity{where};"
        " check the model at this level, or start from a smaller sigma."
    )

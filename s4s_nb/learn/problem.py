"""What is to be learned: a denoiser, a teacher's pairs, and an embedding in which end points are compared.

    min_φ  E_{x_T}  ‖ e(Ψ_φ(x_T)) − e(Ψ_*(x_T)) ‖²

with Ψ_φ the student, Ψ_* the teacher and e the embedding: the hard objective (Frankel et al. 2025,
algorithm 1). LPIPS is such a distance, the mean squared error with e(x) = x another; what else may be
compared, :mod:`s4s_nb.learn.objectives` says. Every mean over pairs is taken here, batch by batch, and the
targets are embedded once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.denoisers import Denoiser, activation_bytes, checkpointed, examined
from s4s_nb.distances import Embedding
from s4s_nb.errors import DivergedError, InputError, choose
from s4s_nb.files import digest
from s4s_nb.learn.objectives import OBJECTIVES, huber_residual, set_residual, way_residuals
from s4s_nb.pairs import Pairs, fingerprint
from s4s_nb.runtime import map_batches, threads_for
from s4s_nb.schedules import Schedule
from s4s_nb.solvers import Solver
from s4s_nb.student import Student

KEPT_BYTES = 2**30
"""Most memory that embedded targets may take; those of more pairs are embedded anew each time."""

ACTIVATION_BYTES = 2**31
"""Most memory that the activations of a gradient may take; above it evaluations are checkpointed."""


@dataclass(frozen=True)
class Batch:
    """Some pairs, and their embedded targets where those are kept."""

    pairs: Pairs
    embedded: Tensor | None = None


Linearised = Callable[[Batch], tuple[Tensor, Tensor]]
"""A batch → residuals (p,) of all its pairs and their derivatives (m, p)."""


@dataclass(eq=False)
class Problem:
    """Pairs to learn from and pairs to choose by.

    Args:
        denoise: the model; by gradients it is asked from several threads at once.
        train, validation: the teacher's pairs, of other noises each.
        embed: states (b, …) → vectors (b, p) whose squared distance is to be small.
        batch: samples at a time.
        objective: what is compared, by name; one of :data:`s4s_nb.learn.objectives.OBJECTIVES`.
        schedule: of the process, whose own states are compared on the way.
        features, set_weight: states → features (b, d), and w: the term of a batch as a set.

    Raises:
        InputError: pairs that are none or not finite (:meth:`s4s_nb.pairs.Pairs.checked`), that lack the
            teacher's way where that is compared, an unknown objective, a set term without features, or a
            denoiser that does not keep to its contract (:func:`s4s_nb.denoisers.examined`).
    """

    denoise: Denoiser
    train: Pairs
    validation: Pairs
    embed: Embedding
    batch: int = 20
    objective: str = "end"
    schedule: Schedule | None = None
    features: Embedding | None = None
    set_weight: float = 0.0

    def __post_init__(self):
        self.aim = choose(OBJECTIVES, self.objective, "objective")
        if self.aim.way and not (self.train.way and self.validation.way):
            raise InputError(
                f"The objective {self.objective} compares states on the way: give it pairs that have the"
                " teacher's, by s4s_nb.learn.objectives.ways_of."
            )
        if not 0 <= self.set_weight < float("inf") or (self.set_weight and self.features is None):
            raise InputError(
                "The weight of the set term is a number from 0 on, and above 0 it needs features; got"
                f" {self.set_weight} and {'no ' if self.features is None else ''}features."
            )
        self.train = self.train.checked("training")
        self.validation = self.validation.checked("validation")
        one = self.validation[:1]
        self.denoise = examined(self.denoise, one.starts, size_of(one.starts), one.cond)

    # ------------------------------------------------------------ values

    @cached_property
    def train_batches(self) -> list[Batch]:
        """The training pairs in order."""
        return self.batches(self.train)

    @cached_property
    def validation_batches(self) -> list[Batch]:
        """The validation pairs in order."""
        return self.batches(self.validation)

    @torch.no_grad()
    def batches(self, pairs: Pairs) -> list[Batch]:
        """Pairs cut into batches, with their targets embedded if those fit into :data:`KEPT_BYTES`."""
        parts = pairs.split(self.batch)
        one = self.embed(pairs.targets[:1])
        if len(pairs) * one.nbytes > KEPT_BYTES:
            return [Batch(part) for part in parts]
        embedded = map_batches(lambda part: self.embed(part.targets), parts, pairs.targets.device)
        return [Batch(part, target) for part, target in zip(parts, embedded, strict=True)]

    def residual(self, levels: Tensor, states: list[Tensor], batch: Batch) -> Float[Tensor, "b p"]:
        """What is squared and summed for every sample of a batch, whose student has been through these
        states at these levels: for the end point alone e(end points) − e(targets)."""
        ends, parts = states[-1].to(batch.pairs.starts.dtype), []
        if self.aim.huber:
            parts.append(huber_residual(ends, batch.pairs.targets))
        else:
            parts.append(self.embed(ends) - self.target(batch))
        if self.aim.way:
            assert batch.pairs.way is not None
            on_the_way = way_residuals(levels, states, batch.pairs.way, self.schedule)
            parts += on_the_way if self.aim.huber else on_the_way[:-1]
        if self.set_weight and self.features:
            parts.append(self.set_weight**0.5 * set_residual(self.features, ends, batch.pairs.targets))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    @torch.no_grad()
    def target(self, batch: Batch) -> Float[Tensor, "b p"]:
        """e(targets), as they are kept or anew."""
        return self.embed(batch.pairs.targets) if batch.embedded is None else batch.embedded

    def pair_distances(self, solver: Solver, pairs: Pairs) -> Float[Tensor, " b"]:
        """How far every sample is from the teacher's, of any pairs; differentiable. For the end point alone
        it is the squared distance of the embedded ones."""
        denoise = self.remembered(solver.nfe) if torch.is_grad_enabled() else self.denoise
        return self.distances_of(solver, Batch(pairs), denoise)

    def loss(self, solver: Solver, pairs: Pairs) -> Float[Tensor, ""]:
        """Their mean."""
        return self.pair_distances(solver, pairs).mean()

    def distances_of(
        self, solver: Solver, batch: Batch, denoise: Denoiser | None = None
    ) -> Float[Tensor, " b"]:
        """How far every sample is from the teacher's, by this form of the denoiser if given."""
        pairs, cut = batch.pairs, self.aim.cut and torch.is_grad_enabled()
        levels, states = solver.follow(denoise or self.denoise, pairs.starts, pairs.cond, cut)
        return self.aim.counted(self.residual(levels, states, batch))

    @torch.no_grad()
    def distances(self, solver: Solver) -> Float[Tensor, " n"]:
        """The same of every validation pair; infinity of all where the solver blows up."""
        batches = self.validation_batches
        try:
            parts = map_batches(partial(self.distances_of, solver), batches, self.validation.starts.device)
        except DivergedError:
            return torch.full((len(self.validation),), torch.inf, dtype=torch.float64)
        return torch.cat(parts).double().cpu()

    def distance(self, student: Student, by: Float[Tensor, " m"], parts: Sequence[str]) -> float:
        """Mean validation distance of a student with some parts moved; infinity where it blows up."""
        try:
            with torch.no_grad():
                solver = student.moved(by, parts)
        except DivergedError:
            return float("inf")
        return float(self.distances(solver).mean())

    # ------------------------------------------------------------ gradients

    @cached_property
    def activations(self) -> int:
        """Bytes that one evaluation of one sample keeps for backward."""
        one = self.train[:1]
        return activation_bytes(self.denoise, one.starts, size_of(one.starts), one.cond)

    def remembered(self, nfe: int) -> Denoiser:
        """The denoiser to differentiate: activations are kept if those of all evaluations of the batches
        at a time fit into :data:`ACTIVATION_BYTES`; else backward evaluates again, for the same bits."""
        batches = min(threads_for(self.train.starts.device), len(self.train_batches))
        samples = min(self.batch * batches, len(self.train))
        fits = self.activations * samples * nfe <= ACTIVATION_BYTES
        return self.denoise if fits else checkpointed(self.denoise)

    def value_and_gradient(
        self, student: Student, by: Float[Tensor, " m"], parts: Sequence[str]
    ) -> tuple[float, Float[Tensor, " m"]]:
        """Mean training distance and its gradient; infinity and 0 where the student blows up.

        The batches give the gradient in the table's numbers, from which it goes on to the parameters
        once: the table is built a single time.
        """
        by = by.detach().clone().requires_grad_()
        try:
            with torch.enable_grad():
                solver = student.moved(by, parts)
            values, slopes = zip(*self.of_table(solver), strict=True)
        except DivergedError:
            return float("inf"), torch.zeros_like(by)
        moving = [getattr(solver, key) for key in self.learned if getattr(solver, key).requires_grad]
        totals = [torch.stack(parts).sum(0) / len(self.train) for parts in zip(*slopes, strict=True)]
        (gradient,) = torch.autograd.grad(moving, by, totals)
        value = float(sum(values)) / len(self.train)
        if not (torch.isfinite(gradient).all() and value < float("inf")):
            return float("inf"), torch.zeros_like(by)
        return value, gradient

    @property
    def learned(self) -> tuple[str, ...]:
        """The numbers of a table that the objective depends on; its levels where states are compared."""
        return ("A", "B", "model_sigmas", "kappa", *(("sigmas",) if self.aim.way else ()))

    @torch.enable_grad()
    def of_table(self, solver: Solver) -> list[tuple[Tensor, list[Tensor]]]:
        """Summed distance of every training batch, and its gradient in those numbers that move."""

        denoise = self.remembered(solver.nfe)

        def total(batch: Batch) -> tuple[Tensor, list[Tensor]]:
            own = {key: leaf(getattr(solver, key)) for key in self.learned}  # of this thread
            trial = Solver("trial", **{"sigmas": solver.sigmas.detach(), **own}, first=solver.first)
            value = self.distances_of(trial, batch, denoise).sum()
            moving = [number for number in own.values() if number.requires_grad]
            return value.detach().double(), list(torch.autograd.grad(value, moving, materialize_grads=True))

        return map_batches(total, self.train_batches, self.train.starts.device)

    # ------------------------------------------------------------ identity

    def identity(self) -> dict:
        """What tells this problem from another: data, network and embedding."""
        pairs, one = (self.train, self.validation), self.validation[:1]
        sigma = size_of(one.starts)
        with torch.no_grad():
            halved = (self.embed(one.targets) - self.embed(0.5 * one.targets)).double().square().sum()
        ways = [t for each in pairs if each.way for t in (each.way.levels, each.way.states)]
        return {
            "pairs": len(self.train),
            "validation_pairs": len(self.validation),
            "data": digest(*(t for p in pairs for t in (p.starts, p.targets, *p.cond.values()))),
            "denoiser": fingerprint(
                self.denoise, one.starts, torch.stack([sigma, sigma / 10, sigma / 100]), one.cond
            ),
            "embedding": float(halved),
            "batch": self.batch,
            **self.compared(),
            **({"way": digest(*ways)} if self.aim.way else {}),
        }

    def compared(self) -> dict:
        """What is compared beside end points, for records; nothing where they are all."""
        told = {} if self.objective == "end" else {"objective": self.objective}
        return told | ({"set_weight": self.set_weight} if self.set_weight else {})


def size_of(starts: Tensor) -> Tensor:
    """Root mean square of some starts, which is near their level."""
    return starts.double().square().mean().sqrt().cpu()


def leaf(number: Tensor) -> Tensor:
    """A copy that takes a gradient if the original did."""
    return number.detach().clone().requires_grad_(number.requires_grad)


def paired_gain(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Mean of the differences, pair by pair, and its standard error (0 for a single pair)."""
    if not torch.isfinite(after).all():
        return 0.0, 0.0
    if not torch.isfinite(before).all():
        return float("inf"), 0.0
    gain = before - after
    return float(gain.mean()), float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else 0.0

"""The families of students that S4S learns: linear multistep, predictor–corrector, single-step.

Each is the table of a classic solver with coefficients of O(1) added to its weights; all 0 is that solver.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from s4s_nb.classic import MULTISTEP, UNIPC, multistep_weights
from s4s_nb.errors import InputError, choose
from s4s_nb.grids import Grid
from s4s_nb.multistep import linear_multistep, predictor_corrector, unipc_weights
from s4s_nb.single_step import LADDERS, NODES, Step, ladder_steps, single_step
from s4s_nb.solvers import Solver
from s4s_nb.student import Student

# ---------------------------------------------------------------- coefficients


@dataclass(frozen=True)
class Offsets:
    """Coefficients → a matrix to be added to classic weights, with zeros where none may be.

    free: where a weight may move; the last free entry of a row is that of its newest output.
    consistent: rows of the offsets sum to 0, so that those of the weights stay 1 and a constant
        output is integrated exactly; the newest entry then has no coefficient of its own.
    """

    free: Bool[Tensor, "rows columns"]
    consistent: bool = False

    @property
    def newest(self) -> Bool[Tensor, "rows columns"]:
        """The last free entry of every row."""
        after = self.free.flip(1).cumsum(1).flip(1)
        return self.free & (after == 1)

    @property
    def moved(self) -> Bool[Tensor, "rows columns"]:
        """Where a coefficient sits."""
        return self.free & ~self.newest if self.consistent else self.free

    @property
    def size(self) -> int:
        """How many coefficients."""
        return int(self.moved.sum())

    def __call__(self, coefficients: Float[Tensor, " m"]) -> Float[Tensor, "rows columns"]:
        """The offsets."""
        matrix = torch.zeros(self.free.shape, dtype=torch.float64)
        matrix = matrix.masked_scatter(self.moved, coefficients)
        return matrix - matrix.sum(1, keepdim=True) * self.newest if self.consistent else matrix


def band(rows: int, order: int, ahead: int = 0) -> Bool[Tensor, "rows columns"]:
    """Row i of an (rows, rows + ahead) matrix may use the ``order`` newest of its i + 1 + ahead outputs."""
    return torch.ones(rows, rows + ahead).tril(ahead).triu(ahead + 1 - order).bool()


def check_start(classic: Tensor, free: Tensor, start: str, order: int) -> None:
    """:class:`InputError` if a classic solver has weights where the student has none."""
    if classic[~free].any():
        raise InputError(f"{start} mixes more than {order} outputs; ask for a higher order.")


# ---------------------------------------------------------------- the three families


class LinearMultistep(Student):
    """S4S's linear multistep family around a classic one.

        x_i = a_i x_{i−1} + b_i Σ_{j<min(i,k)} c_ij f_{i−1−j},     c = classic + coefficients

    with the exact factors a_i, b_i of ``start``'s form: f is the noise ε, the data prediction D, or the
    velocity ε − D (:mod:`s4s_nb.multistep`). The normalised c are O(1), Euler is c = (1, 0, …), and a
    step has as many as there is history, k at most: m = kN − k(k−1)/2 coefficients (S4S, section 3), N
    fewer if c sums to 1.

    Args:
        start: a linear multistep solver, as ipndm-3 (noise), dpmpp-3m (data), flow-ab3 (velocity).
        sigmas: the grid, N+1 levels.
        order: k, how many past outputs a step may mix; at least those that ``start`` uses.
        consistent: keep Σ_j c_ij = 1; S4S leaves it free.
        lower_final: start from the classic solver with its order lowered at the end.
        absolute: other levels keep the weights of ``sigmas``, instead of the offsets from theirs.
        places: of :class:`Student`.

    Raises:
        InputError: ``start`` is unknown or uses more history than ``order``.
    """

    family = "linear multistep"

    def __init__(
        self,
        start: str,
        sigmas: Grid,
        order: int = 3,
        consistent: bool = False,
        lower_final: bool = False,
        absolute: bool = False,
        **places,
    ):
        self.form, classic = multistep_weights(start, lower_final, places.get("schedule"))
        own, nfe = classic(sigmas), len(sigmas) - 1
        self.classic = (lambda levels: own) if absolute else classic
        self.weights = Offsets(band(nfe, order), consistent)
        check_start(own, self.weights.free, start, order)
        super().__init__(start, sigmas, self.weights.size, nfe, **places)

    def on(self, sigmas: Grid) -> Solver:
        weights = self.classic(sigmas) + self.weights(self.coefficients)
        return linear_multistep(sigmas, weights, self.form, f"s4s-{self.start}")


class PredictorCorrector(Student):
    """S4S's predictor–corrector family around UniPC, in data form.

        predict  x̃_i = a_i x_{i−1} + b_i Σ_j p_ij D_{i−1−j},       D_i = D(x̃_i)
        correct  x_i = a_i x_{i−1} + b_i (q_i0 D_i + Σ_j q_i,j+1 D_{i−1−j})

    The corrector uses the evaluation that the next step needs anyway, so it costs none; the last state
    is not corrected. The predictor has m = kN − k(k−1)/2 coefficients and the corrector one more than
    the predictor in each of its N − 1 rows: 2m + N − 1 − k in all for N ≥ k.

    Args:
        start: unipc-1-bh1 … unipc-3-bh2.
        sigmas, order, consistent, lower_final, absolute, places: as in :class:`LinearMultistep`.

    Raises:
        InputError: ``start`` is no UniPC, or uses more history than ``order``.
    """

    family = "predictor-corrector"

    def __init__(
        self,
        start: str,
        sigmas: Grid,
        order: int = 3,
        consistent: bool = False,
        lower_final: bool = False,
        absolute: bool = False,
        **places,
    ):
        classic_order, variant = choose(UNIPC, start, "predictor-corrector solver")
        unipc = partial(unipc_weights, order=classic_order, variant=variant, lower_final=lower_final)
        own, nfe = unipc(sigmas), len(sigmas) - 1
        self.classic = (lambda levels: own) if absolute else unipc
        self.predictor = Offsets(band(nfe, order), consistent)
        self.corrector = Offsets(band(nfe - 1, order + 1, ahead=1), consistent)
        for weights, offsets in zip(own, (self.predictor, self.corrector), strict=True):
            check_start(weights, offsets.free, start, order)
        super().__init__(start, sigmas, self.predictor.size + self.corrector.size, nfe, **places)

    def on(self, sigmas: Grid) -> Solver:
        p, q = self.coefficients.split([self.predictor.size, self.corrector.size])
        predictor, corrector = self.classic(sigmas)
        weights = predictor + self.predictor(p), corrector + self.corrector(q)
        return predictor_corrector(sigmas, *weights, f"s4s-{self.start}")


class SingleStep(Student):
    """S4S's single-step family around DPM-Solver-2S or -3S, or Heun: stages inside every step.

        x_stage = x_i + (σ_{i+1} − σ_i) Σ_j (w_stage,j + c_stage,j) ε_j,     r_stage ← r_stage^exp(ρ)

    with w the classic weights at the nodes r, which are fractions of the step in λ, the coefficients c
    free and one ρ for every node inside a step (Heun has none). A full step of s stages has
    s(s + 1)/2 of the c; the last step may have fewer stages, as evaluations are left. Coefficients are a
    residual always: w belongs to nodes that move with the levels, and would contradict them if held.

    Args:
        start: heun, dpm-2s or dpm-3s.
        nfe: evaluations, all steps together.
        grid: (steps) → levels.
        nodes: whether the nodes inside the steps are learned.
        consistent: offsets of a stage sum to 0; see :class:`Offsets`.
        places: of :class:`Student`.

    Raises:
        InputError: ``start`` is no single-step solver, or the grid ends at 0, where nothing is left
            to learn in a last step.
    """

    family = "single-step"

    def __init__(
        self,
        start: str,
        nfe: int,
        grid: Callable[[int], Grid],
        nodes: bool = True,
        consistent: bool = False,
        **places,
    ):
        choose(LADDERS, start, "single-step solver")
        self.steps = ladder_steps(start, nfe)
        sigmas = grid(len(self.steps))
        if sigmas[-1] == 0:
            raise InputError("A single-step student needs a grid whose last level is above 0.")
        stages = [LADDERS[start].index(step) + 1 for step in self.steps]
        self.stages = [Offsets(band(s, s), consistent) for s in stages]
        self.nodes = [NODES.get(step, ()) if nodes else () for step in self.steps]
        self.each = [o.size + len(r) for o, r in zip(self.stages, self.nodes, strict=True)]
        super().__init__(start, sigmas, sum(self.each), nfe, **places)

    def on(self, sigmas: Grid) -> Solver:
        return single_step(sigmas, list(self.learned_steps()), f"s4s-{self.start}")

    def learned_steps(self) -> Iterator[Step]:
        """Every step with its own coefficients."""
        own = self.coefficients.split(self.each)
        for step, stage, r, part in zip(self.steps, self.stages, self.nodes, own, strict=True):
            c, rho = part.split([stage.size, len(r)])
            moved = [fraction ** torch.exp(shift) for fraction, shift in zip(r, rho, strict=True)]
            yield partial(moved_step, step, moved, stage(c))


def moved_step(
    step: Step, nodes: list[Tensor], offsets: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """A classic step with its nodes moved and offsets added, in units of the step's length."""
    levels, weights = step(a, b, *nodes)
    return levels, weights + (b - a) * offsets


def make_student(
    start: str,
    nfe: int,
    grid: Callable[[int], Grid],
    order: int | Literal["all"] = 3,
    consistent: bool = False,
    lower_final: bool = False,
    absolute: bool = False,
    **places,
) -> Student:
    """The student around a classic solver, of the family that it belongs to, with ``nfe`` evaluations.

    ``order``, "all" for the whole history, ``lower_final`` and ``absolute`` are for the families with a
    memory; a single-step one has none.

    Example:
        >>> student = make_student("dpmpp-2m", 5, lambda n: karras(n, 80.0, 0.002))
        >>> student.solver()  # DPM-Solver++ 2M
    """
    choose(dict.fromkeys((*MULTISTEP, *UNIPC, *LADDERS)), start, "start of a student")
    if start in LADDERS:
        return SingleStep(start, nfe, grid, consistent=consistent, **places)
    family = PredictorCorrector if start in UNIPC else LinearMultistep
    past = nfe if order == "all" else order
    return family(start, grid(nfe), past, consistent, lower_final, absolute, **places)

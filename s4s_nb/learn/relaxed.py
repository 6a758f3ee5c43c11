"""The relaxed objective: a student's start may move in a small ball around the teacher's.

    min_φ  E_{x_T}  min_{x'_T ∈ B(x_T, r σ_T)}  ‖ e(Ψ_φ(x'_T)) − e(Ψ_*(x_T)) ‖²

LD3 (Tong et al. 2025, eq. 9), adopted by S4S. The moved starts exist during learning only: a solver is
validated, judged and used from x_T itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from s4s_nb.errors import InputError
from s4s_nb.pairs import Pairs

REFERENCE_SIZE = 12
"""m of a linear multistep family of order 3 at N = 5, where the rule below meets LD3's."""


def radius_rule(size: int, dimension: int) -> float:
    """r = 0.001 D / 5² · (m / 12)^(−5/2), in units of unit noise.

    S4S gives r ∝ m^(−5/2) for m learned parameters without its constant; here it is the one with which
    r is LD3's 0.001 D / N² at N = 5 and m = 12.

    Args:
        size: m, parameters of the family.
        dimension: D, numbers in a state.
    """
    return 0.001 * dimension / 25 * (size / REFERENCE_SIZE) ** -2.5


@dataclass
class RelaxedStarts:
    """x'_T of every training pair, kept with it for all turns of a run; at first x_T.

    Args:
        pairs: the training pairs.
        sigma: σ_T, the level of their starts.
        radius: r ≥ 0; 0 is the hard objective.
    """

    pairs: Pairs
    sigma: float
    radius: float
    shifts: Float[Tensor, "n ..."] = field(init=False)

    def __post_init__(self):
        if not self.radius >= 0:
            raise InputError(f"The radius of the relaxed objective must be 0 or more; got {self.radius}.")
        self.shifts = torch.zeros_like(self.pairs.starts)

    def __getitem__(self, chosen: Tensor) -> Pairs:
        """Some pairs with their moved starts, which take a gradient; unmoved ones at radius 0."""
        part = self.pairs[chosen]
        if self.radius == 0:
            return part
        moved = (part.starts + self.sigma * self.shifts[chosen]).requires_grad_()
        return replace(part, starts=moved)

    @torch.no_grad()
    def descend(
        self, chosen: Tensor, part: Pairs, rate: float, accept: Callable[[Pairs], Tensor] | None = None
    ) -> None:
        """One step of projected SGD on each sample's own distance; ``part`` has the gradients.

        The loss is a mean over the batch, hence its length as a factor. ``accept`` is shown the pairs
        with their new starts and says (b,) which of them are kept; the others stay where they were.
        """
        if part.starts.grad is None:
            return
        slope = len(part) * self.sigma * part.starts.grad
        before = self.shifts[chosen]
        self.shifts[chosen] = self.project(before - rate * slope)
        if accept is not None:
            refused = ~accept(self[chosen]).to(chosen.device)
            self.shifts[chosen[refused]] = before[refused]

    def project(self, shifts: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The nearest shifts with ‖·‖₂ ≤ r."""
        lengths = shifts.flatten(1).norm(dim=1).clamp(min=1e-30)
        factor = (self.radius / lengths).clamp(max=1)
        return shifts * factor.reshape(-1, *[1] * (shifts.ndim - 1))

    @property
    def boundary_share(self) -> float:
        """Share of the samples whose start was moved as far as it may be."""
        if self.radius == 0:
            return 0.0
        lengths = self.shifts.flatten(1).norm(dim=1)
        return float((lengths > 0.999 * self.radius).float().mean())

"""S4S by BFGS: the same least squares as :mod:`s4s_nb.gauss_newton`, by gradients alone.

Back-propagation gives the gradient in all parameters for three evaluations of the network where the
solver makes one; the normal equations ask for a part of a trajectory per parameter. So the same time
pays for several times as many pairs, which LPIPS needs: much of its mean comes from the few noises
that end far from the teacher's image, and few pairs hold only some of those.

BFGS (Nocedal and Wright 2006, algorithm 6.1; SciPy's) starts from the inverse Hessian of Gauss–Newton,

    H_0 = (2/n (JᵀJ + μ diag JᵀJ))⁻¹,

of some of the pairs, which knows how differently a coefficient of the first step and one of the last
move the end point, and corrects it by the gradients that it meets.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.distances import Embedding
from s4s_nb.errors import InputError
from s4s_nb.families import Family
from s4s_nb.gauss_newton import damped, mean_distance, normal_equations
from s4s_nb.learn import Learned, check_pairs, digest_of, end_point_distances, names
from s4s_nb.parallel import map_batches
from s4s_nb.progress import bar
from s4s_nb.resume import StateFile
from s4s_nb.teachers import Pairs

DAMPING = 0.03
METRIC_PAIRS = 40
"""Of the training pairs, at most: as many as Gauss–Newton learns from in the studies."""


@torch.enable_grad()
def value_and_gradient(
    denoise: Denoiser | Conditional,
    family: Family,
    pairs: Pairs,
    embed: Embedding,
    batch: int,
    parameters: Float[Tensor, " m"],
) -> Float[Tensor, " m+1"]:
    """Mean ‖e(x) − e(y)‖² of the end points and its gradient; infinity and 0 where the solver blows up."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (embed(x) - embed(y)).square().sum(1)

    def total(part: Pairs) -> Tensor:
        p = parameters.clone().requires_grad_()  # one a thread
        value = end_point_distances(denoise, family.table(p), part, distance).sum()
        return torch.cat([value.detach().view(1).to(p), *torch.autograd.grad(value, p)])

    blown_up = parameters.new_tensor([torch.inf] + [0.0] * len(parameters))
    try:
        mean = torch.stack(map_batches(total, pairs.split(batch), pairs.starts.device)).sum(0) / len(pairs)
    except InputError:
        return blown_up
    return mean if mean.isfinite().all() else blown_up


def metric(
    denoise: Denoiser | Conditional, family: Family, pairs: Pairs, embed: Embedding, batch: int
) -> Float[Tensor, "m m"]:
    """H_0 at the family's zero."""
    equations = partial(normal_equations, denoise, family, family.zero, embed=embed)
    JJ = torch.stack([JJ for JJ, _ in map_batches(equations, pairs.split(batch), pairs.starts.device)])
    inverse = torch.linalg.inv(damped(2 / len(pairs) * JJ.sum(0), DAMPING))
    return (inverse + inverse.T) / 2  # SciPy refuses what rounding has made asymmetric


@dataclass
class Remembered:
    """A function whose values are kept in a file: a run that was stopped asks again, and is told."""

    function: Callable[[Tensor], Tensor]
    kept: StateFile
    tensors: dict[str, Tensor]
    asked: int = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        values = self.tensors["values"]
        if self.asked == len(values):
            values = torch.cat([values, self.function(torch.from_numpy(x.copy()))[None]])
            self.tensors["values"] = values
            self.kept.save(self.tensors, {})
        value, *gradient = values[self.asked].tolist()
        self.asked += 1
        return value, np.array(gradient)


def learn_bfgs(
    denoise: Denoiser | Conditional,
    family: Family,
    train: Pairs,
    validation: Pairs,
    embed: Embedding,
    iterations: int = 25,
    batch: int = 10,
    state_file: Path | None = None,
    progress: bool = True,
) -> Learned:
    """BFGS from the classic solver on the training pairs, with as many steps as ``iterations`` at most.

    The validation pairs have one say, at the end: if the learned solver is no better than its start
    there, the start is returned. They do not choose among iterations, for which a mean that hangs on
    a few of them is too uncertain (notebook 07, section 9).

    Args:
        denoise: differentiable by autograd, from several threads at once.
        state_file: where every gradient is kept; a run that finds it goes on from there and ends with
            the same bits as one that was never stopped.

    Raises:
        InputError: no pairs, or a state of another run.
    """
    check_pairs(train, validation)
    zero = family.zero
    options = {"pairs": len(train), "validation_pairs": len(validation), "steps": iterations}
    data = digest_of(family, train, validation)
    kept = StateFile(state_file, {**names(family), **options, "data": data})
    state, _ = kept.load() or ({}, {})
    if not state:
        H = metric(denoise, family, train[:METRIC_PAIRS], embed, batch)
        state = {"metric": H, "values": zero.new_empty(0, len(zero) + 1)}
        kept.save(state, {})
    objective = Remembered(partial(value_and_gradient, denoise, family, train, embed, batch), kept, state)
    iterating = bar(total=iterations, desc=f"learning from {family.start}", disable=not progress)

    def tell(intermediate_result) -> None:
        iterating.update()
        iterating.set_postfix(training=f"{intermediate_result.fun:.4f}")

    end = minimize(
        objective,
        zero.numpy(),
        jac=True,
        method="BFGS",
        callback=tell,
        # A copy, since what lies in memory in another way is rounded in another way.
        options={"maxiter": iterations, "hess_inv0": np.array(state["metric"].numpy(), order="C")},
    )
    iterating.close()
    tried = [zero, torch.from_numpy(end.x)]
    before, after = (mean_distance(denoise, family, p, validation, embed, batch) for p in tried)
    parameters = tried[after < before]
    record = {
        "method": "s4s",
        "optimiser": "BFGS",
        **names(family),
        **options,
        "iterations": int(end.nit),
        "gradients": objective.asked,
        "validation_start": before,
        "validation_best": min(before, after),
    }
    solver = family.table(parameters)
    learned = replace(solver, info={**solver.info, **record})
    return Learned(learned, parameters, [(0, before), (int(end.nit), after)])

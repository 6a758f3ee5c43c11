"""BFGS: the same least squares as :mod:`s4s_nb.learn.gauss_newton`, by gradients alone.

Back-propagation gives the gradient in all parameters for three evaluations of the network where the
solver makes one; the normal equations ask for a part of a trajectory per parameter. So the same time
pays for several times as many pairs, which LPIPS needs: much of its mean comes from the few noises
that end far from the teacher's image, and few pairs hold only some of those.

BFGS (Nocedal and Wright 2006, algorithm 6.1; SciPy's search along the line) starts from the inverse
Hessian of Gauss–Newton,

    H_0 = (2/n (JᵀJ + μ diag JᵀJ))⁻¹,

of some of the pairs, which knows how differently a coefficient of the first step and one of the last
move the end point, and corrects it by the gradients that it meets.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import line_search
from torch import Tensor

from s4s_nb.learn.gauss_newton import damped, normal_equations
from s4s_nb.learn.problem import Problem
from s4s_nb.student import Student

DAMPING = 0.03
METRIC_PAIRS = 40
"""Of the training pairs, at most: as many as Gauss–Newton learns from in the studies."""
FLAT = 1e-5
"""Largest slope at which the learning ends."""
HALVINGS, ENOUGH = 20, 1e-4
"""Of the full step where the search along the line gives up, and the share of the slope that is enough."""


def metric(problem: Problem, student: Student, by: Tensor, parts: Sequence[str]) -> Float[Tensor, "m m"]:
    """H_0 at some parameters."""
    batches = problem.train_batches[: -(-METRIC_PAIRS // problem.batch)]
    JJ, _ = normal_equations(problem, student, by, parts, batches=batches)
    pairs = sum(len(batch.pairs) for batch in batches)
    inverse = torch.linalg.inv(damped(2 / pairs * JJ, DAMPING))
    return inverse.contiguous()  # what lies in memory by columns is rounded in another way than its copy


class Asked:
    """A function and its gradient for SciPy, which asks for them apart: the last point is remembered."""

    def __init__(self, problem: Problem, student: Student, parts: Sequence[str]):
        self.arguments, self.count, self.at = (problem, student, parts), 0, None

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self.at is None or not np.array_equal(x, self.at):
            problem, student, parts = self.arguments
            value, gradient = problem.value_and_gradient(student, torch.from_numpy(x.copy()), parts)
            self.at, self.answer, self.count = x.copy(), (value, gradient.numpy()), self.count + 1
        return self.answer

    def value(self, x: np.ndarray) -> float:
        return self(x)[0]

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self(x)[1]


def updated(H: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """The inverse Hessian after a step s that changed the gradient by y (Nocedal and Wright, eq. 6.17)."""
    rho = 1 / torch.dot(y, s)
    left = torch.eye(len(s)).to(s) - rho * torch.outer(s, y)
    return left @ H @ left.T + rho * torch.outer(s, s)


def step_length(
    asked: Asked, by: Tensor, direction: Tensor, gradient: Tensor, value: float, before: float
) -> float:
    """How far to go in a direction: SciPy's search for the strong Wolfe conditions, and where it gives up,
    as beside a steep wall, halves of the full step until one goes down enough; 0 if none does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The line search algorithm")  # its end, seen to here
        found = line_search(
            asked.value,
            asked.gradient,
            by.numpy(),
            direction.numpy(),
            gradient.numpy(),
            value,
            before,
        )
    if found[0] is not None and np.isfinite(found[3]):
        return found[0]
    slope = float(torch.dot(gradient, direction))
    for length in (0.5**k for k in range(HALVINGS)):
        if asked.value((by + length * direction).numpy()) < value + ENOUGH * length * slope:
            return length
    return 0.0


@torch.no_grad()
def bfgs(
    problem: Problem,
    student: Student,
    parts: Sequence[str],
    memory: dict[str, Any],
    iterations: int,
) -> Iterator[float | None]:
    """BFGS on the training pairs, with as many steps as ``iterations`` at most.

    The validation pairs have one say, at the end: its only value is that of the last step. They do not
    choose among iterations, for which a mean that hangs on a few of them is too uncertain (notebook 07,
    section 9).
    """
    asked = Asked(problem, student, parts)
    if "metric" not in memory:
        value, gradient = problem.value_and_gradient(student, memory["by"], parts)
        memory |= {"metric": metric(problem, student, memory["by"], parts), "gradients": 1}
        memory |= {"training": value, "gradient": gradient}
        memory["before"] = value + float(gradient.norm()) / 2  # from which SciPy guesses its first step
        yield None
    while memory["steps"] < iterations and memory["gradient"].abs().max() > FLAT:
        by, gradient, value = memory["by"], memory["gradient"], memory["training"]
        direction = -memory["metric"] @ gradient
        length = step_length(asked, by, direction, gradient, value, memory["before"])
        if length == 0:
            memory["ended"] = "no step went further down"
            break
        step = length * direction
        reached, slope = asked((by + step).numpy())
        slope = torch.from_numpy(slope.copy())
        if torch.dot(slope - gradient, step) > 0:  # else the metric would lose its sign
            memory["metric"] = updated(memory["metric"], step, slope - gradient)
        memory |= {"by": by + step, "gradient": slope, "training": reached, "before": value}
        memory["steps"] += 1
        memory["gradients"] += asked.count
        asked.count = 0
        yield None
    if not memory.get("validated"):  # as it is in a run that was stopped between here and the turn's end
        memory["validated"] = True
        yield problem.distance(student, memory["by"], parts)

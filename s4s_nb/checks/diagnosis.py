"""What the checks share: comparing an answer with the right one and with the likely mistakes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Check = Callable[[Any], str | None]
"""The learner's answer → what is wrong with it, or None."""


def diagnose(answer: Any, right: Tensor, mistakes: dict[str, Tensor]) -> str | None:
    """None if ``answer`` is ``right``, else what is wrong: type, shape, NaN, or a known mistake."""
    if not isinstance(answer, Tensor):
        return f"return a tensor, not {type(answer).__name__}; is there a return statement?"
    if answer.shape != right.shape:
        return f"the result has shape {tuple(answer.shape)}; it must be {tuple(right.shape)}."
    if torch.allclose(answer, right, rtol=1e-6, atol=1e-9):
        return None
    for sentence, wrong in mistakes.items():
        if torch.allclose(answer, wrong, rtol=1e-6, atol=1e-9, equal_nan=True):
            return sentence
    if not torch.isfinite(answer).all():
        return "the result holds NaN or infinity: look where the code divides or takes a root."
    gap = float((answer - right).abs().max())
    return f"not yet: off by up to {gap:.2g}, in a way that none of the usual mistakes explains."


def tensor_of(answer: Any) -> Any:
    """A tuple of tensors or numbers as one float64 tensor; anything else as it is."""
    if isinstance(answer, tuple):
        parts = [torch.as_tensor(part, dtype=torch.float64) for part in answer]
        return torch.stack(parts) if len({p.shape for p in parts}) == 1 else answer
    return answer.double() if isinstance(answer, Tensor) else answer

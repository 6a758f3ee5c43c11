"""What the checks share: reading an answer, comparing it with the right one and with the likely mistakes.

What is accepted, in every exercise:

* Numbers in a tensor, a NumPy array, a list or a tuple: they are converted. A tensor or an array with one
  element stands for the number in it, and 12.0 for 12.
* float32: an answer is right within 1e-5 of its value, which float32 reaches; no exercise asks for the
  digits below. Where rounding has done more harm than that, the answer is told to compute in float64.

None, a wrong type or shape, NaN, infinity and complex numbers are named, with what to return instead.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s_nb.errors import InputError

Check = Callable[[Any], str | None]
"""The learner's answer → what is wrong with it, or None."""

RTOL, ATOL = 1e-5, 1e-8
"""How near a right answer is, beside its value and beside 0."""


class WrongKind(InputError):
    """An answer that cannot be read; the message says what to return instead."""


# ---------------------------------------------------------------- reading


def kind(answer: Any) -> str:
    """What an answer is, in words."""
    match answer:
        case None:
            return "None"
        case Tensor():
            return f"a tensor of shape {tuple(answer.shape)}"
        case np.ndarray():
            return f"a NumPy array of shape {answer.shape}"
        case bool() | np.bool_():
            return str(answer)
        case int() | float() | np.number():
            return "one number"
    return "a function" if callable(answer) else f"a {type(answer).__name__}"


def refused(wanted: str, answer: Any) -> WrongKind:
    """What to say of an answer of another kind than was asked for."""
    asked = "; is there a return statement?" if answer is None else "."
    return WrongKind(f"return {wanted}, not {kind(answer)}{asked}")


def tensor(answer: Any, wanted: str = "a tensor") -> Tensor:
    """What holds numbers, or True and False, as a tensor; :class:`WrongKind` for anything else."""
    if isinstance(answer, Tensor):
        return answer.detach().cpu()
    if isinstance(answer, list | tuple) and answer:
        parts = [tensor(part, wanted) for part in answer]
        if len({part.shape for part in parts}) > 1:
            raise WrongKind(f"return {wanted}; the parts of your {type(answer).__name__} differ in shape.")
        return torch.stack(parts)
    try:
        return torch.tensor(np.array(answer, order="C"))
    except (TypeError, ValueError):
        raise refused(wanted, answer) from None


def numbers(answer: Any, wanted: str = "a tensor") -> Tensor:
    """An answer's numbers in float64; :class:`WrongKind` if there are none."""
    given = tensor(answer, wanted)
    if given.dtype == torch.bool:
        raise WrongKind(f"return {wanted} of numbers, not of True and False.")
    if given.is_complex():
        raise WrongKind("the result is complex: somewhere a root is taken of a negative number.")
    return given.double()


def bools(answer: Any, count: int, of_what: str) -> Tensor:
    """An answer's True and False, ``count`` of them."""
    given = tensor(answer, "a tensor of True and False")
    if given.dtype != torch.bool:
        raise WrongKind(f"return a tensor of True and False, one for each {of_what}, not of numbers.")
    if given.shape != (count,):
        shape = tuple(given.shape)
        raise WrongKind(f"the answer has shape {shape}; return {count} of True and False, one a {of_what}.")
    return given


def number(answer: Any, wanted: str = "one number") -> float:
    """An answer that is one number."""
    array = isinstance(answer, Tensor | np.ndarray | np.generic)
    if isinstance(answer, bool | np.bool_) or not (isinstance(answer, int | float) or array):
        raise refused(wanted, answer)
    given = numbers(answer, wanted)
    if given.numel() != 1:
        raise refused(wanted, answer)
    value = given.item()
    if not math.isfinite(value):
        raise WrongKind(not_finite(given))
    return value


def whole(answer: Any) -> int:
    """An answer that is one whole number."""
    value = number(answer, "a whole number")
    if value != int(value):
        raise WrongKind(f"return a whole number, not {value:g}.")
    return int(value)


def indices(answer: Any, wanted: str = "a list of whole numbers") -> list[int]:
    """An answer that is a row of whole numbers."""
    if isinstance(answer, list | tuple) and not answer:
        return []
    given = numbers(answer, wanted)
    if given.ndim != 1:
        raise refused(wanted, given)
    if not torch.equal(given, given.round()):
        raise WrongKind(f"return {wanted}; yours are {given.tolist()}.")
    return [int(value) for value in given.tolist()]


def pair(answer: Any, wanted: str) -> tuple[Any, Any]:
    """An answer of two parts."""
    holds = isinstance(answer, list | tuple | Tensor | np.ndarray) and getattr(answer, "ndim", 1) > 0
    if not holds or len(answer) != 2:
        raise refused(wanted, answer)
    return answer[0], answer[1]


def first(problems: Iterable[str | None]) -> str | None:
    """The first problem of some trials; None if there is none."""
    return next((problem for problem in problems if problem is not None), None)


# ---------------------------------------------------------------- comparing


def close(given: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors agree, in shape and as far as float32 can tell; NaN agrees with NaN."""
    return given.shape == wanted.shape and torch.allclose(
        given, wanted, rtol=RTOL, atol=ATOL, equal_nan=True
    )


def not_finite(given: Tensor) -> str:
    """NaN or infinity, named."""
    if given.isnan().any():
        return "the result holds NaN: look for 0/0, or a root or logarithm of a negative number."
    return "the result holds infinity: look for a division by 0, a logarithm of 0 or an overflow."


def wrong_shape(given: Tensor, right: Tensor, name: str = "the result") -> str:
    """A shape that is not the right one, named."""
    found = f"has shape {tuple(given.shape)}" if given.ndim else "is one number"
    return f"{name} {found}; it must have shape {tuple(right.shape)}."


def diagnose(answer: Any, right: Tensor, mistakes: dict[str, Tensor]) -> str | None:
    """None if ``answer`` is ``right``, else what is wrong: type, shape, a known mistake, NaN, rounding."""
    given, right = numbers(answer, f"a tensor of shape {tuple(right.shape)}"), right.double()
    if close(given, right):
        return None
    for sentence, wrong in mistakes.items():
        if close(given, wrong.double()):
            return sentence
    if given.shape != right.shape:
        return wrong_shape(given, right)
    if not torch.isfinite(given).all():
        return not_finite(given)
    coarse = tensor(answer).dtype in (torch.float32, torch.float16, torch.bfloat16)
    if torch.allclose(given, right, rtol=1e-2 if coarse else 1e-4, atol=1e-6):
        return "nearly right; what is missing looks like rounding: compute in float64 throughout."
    gap = float((given - right).abs().max())
    return f"not yet: off by up to {gap:.2g}, in a way that none of the usual mistakes explains."


def diagnose_pair(
    answer: Any,
    right: tuple[Tensor, Tensor],
    mistakes: dict[str, tuple[Tensor, Tensor]],
    names: tuple[str, str] = ("A", "B"),
    wanted: str = "two matrices, A and B",
) -> str | None:
    """:func:`diagnose` of two tensors: shapes are told by name, and a mistake has to explain both."""
    given = [numbers(part) for part in pair(answer, wanted)]
    for part, other, name in zip(given, right, names, strict=True):
        if part.shape != other.shape:
            return wrong_shape(part, other, name)
    wrong = {words: torch.stack(two) for words, two in mistakes.items()}
    return diagnose(torch.stack(given), torch.stack(right), wrong)


def diagnose_number(answer: Any, right: float, mistakes: dict[str, float]) -> str | None:
    """:func:`diagnose` of one number."""
    given, scalar = number(answer), torch.tensor(right, dtype=torch.float64)
    wrong = {words: torch.tensor(value, dtype=torch.float64) for words, value in mistakes.items()}
    problem = diagnose(given, scalar, wrong)
    unknown = problem is not None and problem.startswith("not yet")
    return f"not yet: here it is {right:.4g}, not {given:.4g}." if unknown else problem


def diagnose_counts(
    answer: Callable[..., Any],
    cases: Sequence[tuple],
    right: Callable[..., int],
    mistakes: dict[str, Callable[..., int]],
    story: str,
) -> str | None:
    """A formula for whole numbers, tried in several cases; a mistake is named if it explains them all.

    story: a case in words, as "for {} steps of order {}".
    """
    given, wanted = [whole(answer(*case)) for case in cases], [right(*case) for case in cases]
    if given == wanted:
        return None
    for sentence, wrong in mistakes.items():
        if given == [wrong(*case) for case in cases]:
            return sentence
    case, got, want = next(row for row in zip(cases, given, wanted, strict=True) if row[1] != row[2])
    return f"{story.format(*case)} it is {want}, not {got}."

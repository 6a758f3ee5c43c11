"""LD3: learn the levels of a classic solver, by LD3's own recipe (Tong et al. 2025, arXiv 2405.15506).

    min_Ξ  E_{x_T}  min_{x'_T ∈ B(x_T, r σ_T)}  d( Ψ_Ξ(x'_T), Ψ_*(x_T) )        (eq. 9)

over the levels and the offsets of the model levels, Ξ of :class:`s4s_nb.times.Joint`; the coefficients
are those of the classic solver wherever the levels go. The same parameters are learned faster by least
squares: ``joint.part(("levels", "offsets"))`` is a family like any other to every learner.
"""

from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from s4s_nb.alternate import TIMES
from s4s_nb.denoisers import Conditional, Denoiser
from s4s_nb.errors import InputError
from s4s_nb.learn import (
    Distance,
    Learned,
    check_finite,
    check_pairs,
    digest_of,
    end_point_distances,
    keep_state,
    names,
    resume_state,
    validate,
    with_record,
)
from s4s_nb.progress import bar
from s4s_nb.relaxed import RelaxedStarts
from s4s_nb.resume import StateFile
from s4s_nb.teachers import Pairs
from s4s_nb.times import Joint

DECAY = 0.8


def learn_ld3(
    denoise: Denoiser | Conditional,
    joint: Joint,
    train: Pairs,
    validation: Pairs,
    distance: Distance,
    rounds: tuple[int, int] = (2, 5),
    batch: int = 2,
    radius: float | None = None,
    seed: int = 0,
    state_file: Path | None = None,
    progress: bool = True,
) -> Learned:
    """Levels alone in the first rounds, levels and offsets in the others, from the classic solver.

    As in LD3's code: rounds and batch; RMSprop with rate 5e-3 and momentum 0.9 for the levels, SGD with
    rate 0.1/N for the offsets, each gradient clipped to norm 1; starts that move by 12/N times the
    gradient of the batch's mean, and stay there only if the updated student comes nearer to the teacher
    from the new start than it had come from the old; the return to the best parameters seen, and rates
    times 0.8, where validation finds nothing better.

    Otherwise: validation is hard, from x_T itself and on all pairs, and comes after every half of a
    round, not after every update with a patience of five. Starts never go back, and their rate stays.
    Shares have N − 1 logits instead of N + 1 of which two are idle. Offsets are bounded by tanh, not by
    a clamp, so their rate is per part of the smallest gap; as a step of SGD is as large as the
    distance's scale makes it, they hardly move where distances are far below those of LPIPS.

    Args:
        joint: LD3's own has ``held="noise"``, and as its clock log σ for pixels, time for latents.
        rounds: passes over the pairs before and after the offsets come in.
        radius: r, in units of unit noise; LD3's 0.001 D/N² if left out, 0 for the hard objective.
        state_file: where progress is kept after every half of a round; a run that finds it goes on from
            there and ends with the same bits as one that was never stopped.

    Raises:
        InputError: no pairs, nothing to learn, a negative radius, a state of another run, or a loss or
            gradient that is not finite.
    """
    check_pairs(train, validation)
    family = joint.part([part for part in TIMES if part in joint.sizes])
    if not family.size:
        raise InputError("A single step has no levels to learn; take a solver of two steps or more.")
    start = family.table(family.zero)
    if radius is None:
        radius = 0.001 * train.starts[0].numel() / start.nfe**2
    starts = RelaxedStarts(train, float(start.sigmas[0]), radius)
    sizes = [joint.sizes["levels"], family.size - joint.sizes["levels"]]
    levels, offsets = leaves = [part.clone().requires_grad_() for part in family.zero.split(sizes)]
    optimizers = torch.optim.RMSprop([levels], momentum=0.9), torch.optim.SGD([offsets])

    def distances(pairs: Pairs) -> Tensor:
        return end_point_distances(denoise, family.table(torch.cat(leaves)), pairs, distance)

    options = {"pairs": len(train), "validation_pairs": len(validation), "seed": seed}
    options |= {"rounds": list(rounds), "batch": batch, "radius": radius}
    kept = StateFile(state_file, {**names(family), **options, "data": digest_of(family, train, validation)})
    history, best = resume_state(kept, levels, optimizers[0], starts)
    if not history:
        best = family.zero
        history.append((0, validate(denoise, family, best, validation, distance)))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(train), generator=generator) for _ in range(sum(rounds))]
    pieces = [half.split(batch) for order in orders for half in order.chunk(2)]
    alone = rounds[0] * min(2, len(train))
    updating = bar(
        total=sum(map(len, pieces)),
        initial=history[-1][0],
        desc=f"LD3 from {family.start}",
        disable=not progress,
        mininterval=1,
    )
    for piece in pieces[len(history) - 1 :]:
        levels.data, offsets.data = (part.clone() for part in best.split(sizes))
        together = len(history) > alone
        worse, before = failures(history), failures(history[: alone + 1])
        optimizers[0].param_groups[0]["lr"] = 5e-3 * DECAY**worse
        optimizers[1].param_groups[0]["lr"] = together * 0.1 / start.nfe * DECAY ** (worse - before)
        for update, chosen in enumerate(piece, start=history[-1][0]):
            _update(distances, leaves, optimizers, starts, chosen, 12 / start.nfe, update)
            updating.update()
        reached = torch.cat(leaves).detach()
        value = validate(denoise, family, reached, validation, distance)
        if value < min(v for _, v in history):
            best = reached
        history.append((history[-1][0] + len(piece), value))
        keep_state(kept, levels, optimizers[0], starts, history, best)
        updating.set_postfix(validation=f"{value:.4f}", start=f"{history[0][1]:.4f}")
    updating.close()
    record = {"method": "ld3", "optimiser": "RMSprop, SGD", **names(family), **options}
    return with_record(family, best, history, starts, record)


def failures(history: list[tuple[int, float]]) -> int:
    """How many validations found nothing better than all before them."""
    return len(history) - len(set(accumulate((value for _, value in history), min)))


def _update(distances, leaves, optimizers, starts: RelaxedStarts, chosen, rate, update) -> None:
    """Levels and offsets by one batch, then its starts, by the student that these make."""
    part = starts[chosen]
    before = distances(part)
    loss = before.mean()
    loss.backward()
    for leaf, optimizer in zip(leaves, optimizers, strict=True):
        check_finite(loss, leaf, update)
        torch.nn.utils.clip_grad_norm_([leaf], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    starts.descend(chosen, part, rate / len(part), lambda moved: distances(moved) < before)

"""Right and wrong answers to the exercises of notebook 02."""

import torch

from s4s_nb.multistep import dpmpp_weights, ipndm_weights, linear_multistep, polynomial_weights
from tests.problems import F64


def eye(n):
    return torch.eye(n, dtype=F64)


def ddim(sigmas):
    solver = linear_multistep(sigmas, eye(len(sigmas) - 1), "noise")
    return solver.A, solver.B


def ab2(older, now, after):
    middle = (now + after) / 2
    return (middle - older) / (now - older), (now - middle) / (now - older)


def dpmpp(sigmas):
    return dpmpp_weights(sigmas, 2)


def ab2_table(sigmas):
    solver = linear_multistep(sigmas, polynomial_weights(sigmas, 2, lambda s: s), "noise")
    return solver.A, solver.B


def consistent(sigmas, A, B):
    """By experiment: two constant denoisers, two directions."""
    passed = torch.ones(len(A), dtype=torch.bool)
    for d, e in ((1.0, 0.0), (0.3, -2.0)):
        states = d + sigmas * e
        following = A @ states[:-1] + B @ torch.full_like(states[:-1], d)
        passed &= (following - states[1:]).abs() < 1e-9
    return passed


def ddim_swapped(sigmas):
    return ddim(sigmas)[::-1]


def ddim_upside_down(sigmas):
    keep = sigmas[:-1] / sigmas[1:]
    return torch.diag(keep), torch.diag(1 - keep)


def ddim_state_kept_whole(sigmas):
    return eye(len(sigmas) - 1), ddim(sigmas)[1]


def ddim_sign(sigmas):
    A, B = ddim(sigmas)
    return A, -B


def ddim_whole_output(sigmas):
    return ddim(sigmas)[0], eye(len(sigmas) - 1)


def ddim_native(sigmas):
    alpha = torch.rsqrt(1 + sigmas**2)
    A = alpha[1:] * sigmas[1:] / (alpha * sigmas)[:-1]
    return torch.diag(A), torch.diag(alpha[1:] - alpha[:-1] * A)


def ddim_vectors(sigmas):
    A, B = ddim(sigmas)
    return A.diag(), B.diag()


def ab2_uniform(older, now, after):
    return 1.5, -0.5


def ab2_swapped(older, now, after):
    return ab2(older, now, after)[::-1]


def ab2_upside_down(older, now, after):
    w = (now - older) / (after - now) / 2
    return 1 + w, -w


def ab2_without_half(older, now, after):
    r = (after - now) / (now - older)
    return 1 + r, -r


def ab2_sign(older, now, after):
    r = (after - now) / (now - older)
    return 1 - r / 2, r / 2


def ab2_in_log(older, now, after):
    return ab2(older.log(), now.log(), after.log())


def ab2_times_step(older, now, after):
    return tuple(w * (after - now) for w in ab2(older, now, after))


def ab2_wrong_sum(older, now, after):
    return 1.2, -0.3


def ab2_wrong_line(older, now, after):
    return 1.3, -0.3


def dpmpp_ratio(sigmas, half=0.5, power=1, clock=torch.log):
    h = -clock(sigmas).diff()
    older = half * (h[1:] / h[:-1]) ** power
    return torch.diag(torch.cat([older.new_zeros(1), older])) + eye(len(h)) - torch.diag(older, -1)


def dpmpp_no_warm_up(sigmas):
    W = dpmpp(sigmas)
    W[0, 0] = 1.5
    return W


def bug_left_in(sigmas, a=True, b=True):
    """ab2 with noises divided by the level of the row, in A, in B or in both."""
    weights, own = polynomial_weights(sigmas, 2, lambda s: s), sigmas[:-1]
    step, row = sigmas.diff()[:, None], sigmas[:-1, None]
    A = eye(len(own)) + step * weights / (row if a else own)
    return A, -step * weights / (row if b else own)


def bug_next_level(sigmas):
    weights, step = polynomial_weights(sigmas, 2, lambda s: s), sigmas.diff()[:, None]
    return eye(len(weights)) + step * weights / sigmas[1:, None], -step * weights / sigmas[1:, None]


def bug_other_solver(sigmas):
    solver = linear_multistep(sigmas, ipndm_weights(sigmas, 2), "noise")
    return solver.A, solver.B


def bug_worse(sigmas):
    A, B = ab2_table(sigmas)
    return A, 0.9 * B


def only_sums(sigmas, A, B):
    return ((A + B).sum(1) - 1).abs() < 1e-9


def only_along_e(sigmas, A, B):
    return (A @ sigmas[:-1] - sigmas[1:]).abs() < 1e-9


def only_the_diagonal(sigmas, A, B):
    return (A.diag() - sigmas[1:] / sigmas[:-1]).abs() < 1e-9


def without_tolerance(sigmas, A, B):
    return ((A + B).sum(1) == 1) & (A @ sigmas[:-1] == sigmas[1:])


def wrong_levels(sigmas, A, B):
    return only_sums(sigmas, A, B) & ((A @ sigmas[1:] - sigmas[1:]).abs() < 1e-9)


def without_absolute_d(sigmas, A, B):
    return ((A + B).sum(1) - 1 < 1e-9) & only_along_e(sigmas, A, B)


def without_absolute_e(sigmas, A, B):
    return only_sums(sigmas, A, B) & (A @ sigmas[:-1] - sigmas[1:] < 1e-9)


def errors_that_cancel(sigmas, A, B):
    return ((A + B).sum(1) - 1 + A @ sigmas[:-1] - sigmas[1:]).abs() < 1e-9


def too_tolerant(sigmas, A, B):
    return consistent(sigmas, A, B) | (
        ((A + B).sum(1) - 1).abs() + (A @ sigmas[:-1] - sigmas[1:]).abs() < 1e-3
    )


def one_bool(sigmas, A, B):
    return consistent(sigmas, A, B).all()


RIGHT = {
    "02-ddim": ddim,
    "02-ab2": ab2,
    "02-dpmpp-2m": dpmpp,
    "02-bug": ab2_table,
    "02-consistency": consistent,
}

WRONG = [
    ("02-ddim", ddim_swapped, "return (A, B)"),
    ("02-ddim", ddim_upside_down, "upside down"),
    ("02-ddim", ddim_state_kept_whole, "A is sigma[i+1] / sigma[i], not 1"),
    ("02-ddim", ddim_sign, "wrong sign"),
    ("02-ddim", ddim_whole_output, "1 minus that share"),
    ("02-ddim", ddim_native, "own coordinate"),
    ("02-ddim", ddim_vectors, "A has shape (4,)"),
    ("02-ddim", lambda sigmas: ddim(sigmas)[0], "return two matrices"),
    ("02-ab2", ab2_uniform, "uniform grid only"),
    ("02-ab2", ab2_swapped, "wrong order"),
    ("02-ab2", ab2_upside_down, "upside down"),
    ("02-ab2", ab2_without_half, "factor ½"),
    ("02-ab2", ab2_sign, "wrong sign"),
    ("02-ab2", ab2_in_log, "in log σ"),
    ("02-ab2", ab2_times_step, "bare weights"),
    ("02-ab2", ab2_wrong_sum, "0.9 times"),
    ("02-ab2", ab2_wrong_line, "middle of the step"),
    ("02-ab2", lambda *levels: 1.0, "return two numbers"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, power=-1), "upside down"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, clock=lambda x: x), "steps in σ"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, half=1), "½ is missing"),
    ("02-dpmpp-2m", lambda s: dpmpp_ratio(s, half=-0.5), "wrong sign"),
    ("02-dpmpp-2m", lambda s: polynomial_weights(s, 2, torch.log, "data"), "exp-ab2"),
    ("02-dpmpp-2m", lambda s: dpmpp(s).T, "transpose"),
    ("02-dpmpp-2m", lambda s: ipndm_weights(s, 2), "all steps in λ were equal"),
    ("02-dpmpp-2m", dpmpp_no_warm_up, "row 0"),
    ("02-dpmpp-2m", lambda s: eye(len(s) - 1), "no memory"),
    ("02-dpmpp-2m", lambda s: eye(len(s)), "shape (6, 6)"),
    ("02-bug", bug_left_in, "broken table still"),
    ("02-bug", lambda s: bug_left_in(s, a=False), "only A is repaired"),
    ("02-bug", lambda s: bug_left_in(s, b=False), "only B is repaired"),
    ("02-bug", ddim, "memory is gone"),
    ("02-bug", bug_next_level, "level that the step goes to"),
    ("02-bug", bug_other_solver, "another solver"),
    ("02-bug", bug_worse, "measured order is"),
    ("02-bug", lambda s: ab2_table(s)[0], "return two matrices"),
    ("02-consistency", only_sums, "Σ_j A_ij σ_j = σ_{i+1}"),
    ("02-consistency", only_along_e, "Σ_j (A_ij + B_ij) = 1"),
    ("02-consistency", only_the_diagonal, "off the diagonal"),
    ("02-consistency", without_tolerance, "no =="),
    ("02-consistency", wrong_levels, "you reject it"),
    ("02-consistency", one_bool, "one a row"),
    ("02-consistency", lambda s, A, B: (A + B).sum(1) - 1, "True and False"),
    ("02-consistency", without_absolute_d, "absolute value"),
    ("02-consistency", without_absolute_e, "absolute value"),
    ("02-consistency", errors_that_cancel, "do not let errors cancel"),
    ("02-consistency", too_tolerant, "enough for rounding"),
    ("02-consistency", lambda s, A, B: None, "return statement"),
]

"""Right and wrong answers to the exercises of notebook 06."""

import torch

from s4s_nb.course.checks.notebook_06 import ball_projection


def consistent(c):
    return c + torch.diag(1 - c.sum(1))


def in_place(c):
    c += torch.diag(1 - c.sum(1))
    return c


def spread_over_the_row(c):
    used = c != 0
    return c + (1 - c.sum(1, keepdim=True)) * used / used.sum(1, keepdim=True)


def oldest_moved(c):
    moved = c.clone()
    moved[:, 0] += 1 - c.sum(1)
    return moved


def step(matrix=lambda H, mu: H + mu * torch.diag(H.diag()), sign=-1):
    """The damped step with another matrix or sign."""
    return lambda J, r, mu: torch.linalg.solve(matrix(J.T @ J, mu), sign * J.T @ r)


def forgetful(shifts, radius):
    lengths = shifts.norm(dim=1, keepdim=True)
    return torch.where(lengths > radius, shifts / lengths, shifts)


def zeros_to_nan(shifts, radius):
    lengths = shifts.norm(dim=1, keepdim=True)
    return shifts / lengths * lengths.clamp(max=radius)


def inside(shifts, radius):
    return shifts.norm(dim=1, keepdim=True) <= radius


def price(steps, order, base=1, own=lambda i, k: min(i + 1, k), later=lambda n, i: n - 1 - i):
    return base * steps + sum(own(i, order) * later(steps, i) for i in range(steps))


RIGHT = {
    "06-consistent": consistent,
    "06-step": step(),
    "06-ball": ball_projection,
    "06-price": price,
}

WRONG = [
    ("06-consistent", lambda c: c / c.sum(1, keepdim=True), "divide by the row's sum"),
    ("06-consistent", spread_over_the_row, "spread what is missing over the row"),
    ("06-consistent", lambda c: c + (1 - c.sum(1, keepdim=True)) / len(c), "uses the future"),
    ("06-consistent", oldest_moved, "oldest weight"),
    ("06-consistent", lambda c: consistent(c.T).T, "columns sum to one"),
    ("06-consistent", lambda c: c.tril(-1) + torch.diag(1 - c.sum(1)), "add it to the weight"),
    ("06-consistent", lambda c: c - torch.diag(c.sum(1)), "sum to zero"),
    ("06-consistent", lambda c: torch.diag(consistent(c).diag()), "the diagonal of the answer"),
    ("06-consistent", in_place, "return a new one"),
    ("06-consistent", lambda c: c + 1, "not yet"),
    ("06-consistent", lambda c: None, "return statement"),
    ("06-step", step(sign=1), "uphill"),
    ("06-step", step(lambda H, mu: H + mu * torch.eye(len(H)).double()), "identity"),
    ("06-step", step(lambda H, mu: H), "damping is missing"),
    ("06-step", step(lambda H, mu: (1 + mu) * H), "only its diagonal"),
    ("06-step", step(lambda H, mu: (1 + mu) * torch.diag(H.diag())), "as Adam in a way does"),
    ("06-step", lambda J, r, mu: -J.T @ r, "the gradient"),
    ("06-step", lambda J, r, mu: -(J.T @ J + mu * torch.diag((J.T @ J).diag())) @ J.T @ r, "solve with it"),
    ("06-step", lambda J, r, mu: 2 * step()(J, r, mu), "not yet"),
    ("06-ball", lambda shifts, radius: shifts.clamp(-radius, radius), "cube"),
    ("06-ball", lambda shifts, radius: radius * shifts / shifts.norm(dim=1, keepdim=True), "boundary"),
    ("06-ball", lambda shifts, radius: shifts * min(1.0, radius / shifts.norm()), "whole batch"),
    (
        "06-ball",
        lambda shifts, radius: shifts * (radius / shifts.square().sum(1, keepdim=True)).clamp(max=1),
        "take the root",
    ),
    ("06-ball", forgetful, "forget the radius"),
    ("06-ball", lambda shifts, radius: shifts * inside(shifts, radius), "set to zero"),
    ("06-ball", lambda shifts, radius: ball_projection(shifts.T, radius).T, "down the columns"),
    (
        "06-ball",
        lambda shifts, radius: shifts * (radius / shifts.norm(dim=1, keepdim=True)).clamp(min=1),
        "turned round",
    ),
    ("06-ball", zeros_to_nan, "row of zeros"),
    ("06-ball", lambda shifts, radius: shifts[0], "shape"),
    ("06-price", lambda n, k: price(n, k, base=0), "undisturbed run is missing"),
    ("06-price", lambda n, k: n * (sum(min(i + 1, k) for i in range(n)) + 1), "anew for every parameter"),
    ("06-price", lambda n, k: n * sum(min(i + 1, k) for i in range(n)), "a whole run"),
    ("06-price", lambda n, k: 2 * price(n, k) - n, "central differences"),
    ("06-price", lambda n, k: price(n, k, later=lambda n, i: n - i), "x_{i+1} first"),
    ("06-price", lambda n, k: price(n, k, later=lambda n, i: 1), "not one of them"),
    ("06-price", lambda n, k: price(n, k, own=lambda i, k: k), "less history"),
    ("06-price", lambda n, k: price(n, k, own=min), "step 0 has one"),
    ("06-price", lambda n, k: 24, "for 4 steps of order 1"),
    ("06-price", lambda n, k: None, "return statement"),
]

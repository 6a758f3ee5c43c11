"""Right and wrong answers to the exercises of notebook 00."""


def distance(nfe: int) -> float:
    return 1 / nfe


def enough(target: float) -> int:
    return next(nfe for nfe in range(1, 100) if distance(nfe) <= target)


def enough_strictly(target: float) -> int:
    return next(nfe for nfe in range(1, 100) if distance(nfe) < target)


RIGHT = {
    "00-worth": (enough, distance, 0.13),
    "00-count": lambda steps, order: sum(min(i + 1, order) for i in range(steps)),
    "00-row-sums": lambda solver: (solver.A + solver.B).sum(1).tolist(),
}

WRONG = [
    ("00-worth", (lambda target: 7, distance, 0.13), "still above"),
    ("00-worth", (lambda target: 9, distance, 0.13), "smallest"),
    ("00-worth", (lambda target: 0, distance, 0.13), "not enough for any solver"),
    ("00-worth", (lambda target: 7.5, distance, 0.13), "a whole number, not 7.5"),
    ("00-worth", (lambda target: None, distance, 0.13), "return statement"),
    ("00-worth", (enough_strictly, distance, 0.13), "is <="),
    ("00-worth", (lambda target: max(6, enough(target)), distance, 0.13), "starts at 5"),
    ("00-count", lambda steps, order: steps * order, "less history"),
    ("00-count", lambda steps, order: order * (steps - 1), "min(i, order)"),
    ("00-count", lambda steps, order: steps * (steps + 1) // 2, "at most"),
    ("00-count", lambda steps, order: sum(min(i, order) for i in range(1, steps + 2)), "one step too many"),
    ("00-count", lambda steps, order: 12, "for 2 steps and order 3 it is 3, not 12"),
    ("00-count", lambda steps, order: None, "return statement"),
    ("00-count", lambda steps, order: sum(min(i, order) for i in range(steps)), "from 1"),
    ("00-count", lambda n, k: k * n - k * (k - 1) // 2, "few steps"),
    ("00-row-sums", lambda solver: (solver.A + solver.B).sum(0).tolist(), "columns"),
    ("00-row-sums", lambda solver: solver.B.sum(1).tolist(), "B alone"),
    ("00-row-sums", lambda solver: solver.A.sum(1).tolist(), "A alone"),
    ("00-row-sums", lambda solver: (solver.A - solver.B).sum(1).tolist(), "not subtracted"),
    ("00-row-sums", lambda solver: (solver.A + solver.B).mean(1).tolist(), "means"),
    (
        "00-row-sums",
        lambda solver: (solver.A + solver.B).sum().tolist(),
        "a list of floats, not one number",
    ),
    ("00-row-sums", lambda solver: solver.B.sum(1), "tolist"),
    ("00-row-sums", lambda solver: list((solver.A + solver.B).sum(1)), "tolist"),
]

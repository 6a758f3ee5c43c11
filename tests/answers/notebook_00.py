"""Right and wrong answers to the exercises of notebook 00."""


def distance(nfe: int) -> float:
    return 1 / nfe


RIGHT = {
    "00-worth": (lambda target: 8, distance, 0.13),
    "00-count": lambda steps, order: sum(min(i + 1, order) for i in range(steps)),
    "00-row-sums": lambda solver: (solver.A + solver.B).sum(1).tolist(),
}

WRONG = [
    ("00-worth", (lambda target: 7, distance, 0.13), "still above"),
    ("00-worth", (lambda target: 9, distance, 0.13), "smallest"),
    ("00-count", lambda steps, order: steps * order, "less history"),
    ("00-count", lambda steps, order: sum(min(i, order) for i in range(steps)), "from 1"),
    ("00-count", lambda n, k: k * n - k * (k - 1) // 2 if n > 2 else 6, "few steps"),
    ("00-row-sums", lambda solver: (solver.A + solver.B).sum(0).tolist(), "columns"),
    ("00-row-sums", lambda solver: solver.B.sum(1).tolist(), "B alone"),
    ("00-row-sums", lambda solver: solver.B.sum(1), "tolist"),
]

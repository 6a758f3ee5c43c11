"""Right and wrong answers to the exercises of notebook 07."""

import torch


def count(nfe, order, offsets, own=lambda i, k: min(i + 1, k), free=lambda n: n - 1):
    return sum(own(i, order) for i in range(nfe)) + free(nfe) * (1 + offsets)


def logits(levels, reference):
    return (levels.log().diff() / reference.log().diff()).log()


def theta(levels, reference):
    z = logits(levels, reference)
    return z[:-1] - z[-1]


def theta_in_sigma(levels, reference):
    return theta(levels.exp(), reference.exp())


def without_logarithm(levels, reference):
    z = logits(levels, reference).exp()
    return z[:-1] - z[-1]


def smallest(tau):
    return tau.diff().abs().min()


def fence(gap=smallest, bound=torch.tanh, width=1.0):
    """The fence with another gap, bound or sign."""

    def answer(tau, xi, w):
        return torch.cat([tau[:1], tau[1:-1] + width * w * gap(tau) * bound(xi)])

    return answer


def first_moved(tau, xi, w):
    return tau[:-1] + w * smallest(tau) * torch.cat([xi, torch.zeros(1)]).tanh()


def held(A, B, sigma, s, kappa):
    r = sigma / s
    return A + B * (1 - kappa * r), B * r


def held_rows(A, B, sigma, s, kappa):
    r = (sigma / s)[:, None]
    return A + B * (1 - kappa[:, None] * r), B * r


def one_after_the_other(A, B, sigma, s, kappa):
    B = B * sigma / s
    return A + B * (1 - kappa * sigma / s), B


def turns(learn, at, rounds, parts=("times", "coefficients")):
    for _ in range(rounds):
        for part in parts:
            at = learn(part, at)
    return at


def in_blocks(learn, at, rounds):
    for part in ("times", "coefficients"):
        for _ in range(rounds):
            at = learn(part, at)
    return at


def anew(learn, at, rounds):
    return [learn(part, at) for _ in range(rounds) for part in ("times", "coefficients")][-1]


def thrown_away(learn, at, rounds):
    anew(learn, at, rounds)
    return at


def one_late(learn, at, rounds):
    before = at
    for _ in range(rounds):
        for part in ("times", "coefficients"):
            before, at = at, learn(part, at)
    return before


def times_lost(learn, at, rounds):
    for _ in range(rounds):
        learn("times", at)
        at = learn("coefficients", at)
    return at


RIGHT = {
    "07-count": count,
    "07-theta": theta,
    "07-fence": fence(),
    "07-held": held,
    "07-turns": turns,
}

WRONG = [
    ("07-count", lambda n, k, o: count(n, k, o, free=lambda n: 0), "coefficients alone"),
    ("07-count", lambda n, k, o: count(n, k, False), "offsets are missing"),
    ("07-count", lambda n, k, o: count(n, k, True), "n − 1 numbers fewer"),
    ("07-count", lambda n, k, o: count(n, k, o, free=lambda n: n + 1), "ends of the grid are fixed"),
    ("07-count", lambda n, k, o: count(n, k, o, free=lambda n: n), "one too many"),
    ("07-count", lambda n, k, o: count(n, k, o) + o, "one offset too many"),
    ("07-count", lambda n, k, o: count(n, k, o, own=lambda i, k: k), "less history"),
    ("07-count", lambda n, k, o: count(n, 0, o), "coefficients are missing"),
    ("07-count", lambda n, k, o: 21, "it is 20, not 21"),
    ("07-count", lambda n, k, o: None, "return statement"),
    ("07-theta", lambda levels, reference: logits(levels, reference)[:-1], "the last logit is held at 0"),
    ("07-theta", lambda levels, reference: theta(reference, levels), "turned round"),
    ("07-theta", lambda levels, reference: theta(levels, torch.ones(6).cumsum(0).neg().exp()), "missing"),
    ("07-theta", theta_in_sigma, "measured in σ"),
    ("07-theta", without_logarithm, "take the logarithm"),
    ("07-theta", lambda *grids: (logits(*grids) - logits(*grids).mean())[:-1], "the mean is subtracted"),
    ("07-theta", lambda *grids: (logits(*grids) - logits(*grids)[0])[1:], "the first logit"),
    ("07-theta", logits, "one too many"),
    ("07-theta", lambda *grids: 2 * theta(*grids), "not yet"),
    ("07-fence", fence(lambda tau: tau.diff().min()), "the longest step"),
    ("07-fence", fence(lambda tau: tau.diff().abs().max()), "the largest"),
    ("07-fence", fence(lambda tau: tau[:-1].diff().abs().min()), "the last step counts"),
    ("07-fence", fence(lambda tau: tau.diff().abs()[1:]), "its own gap"),
    ("07-fence", fence(lambda tau: tau[-2] - tau[-1]), "not yet"),
    ("07-fence", fence(lambda tau: tau[0] - tau[1]), "not yet"),
    ("07-fence", fence(bound=lambda xi: xi), "nothing bounds xi"),
    ("07-fence", fence(bound=lambda xi: xi.clamp(-1, 1)), "no gradient"),
    ("07-fence", fence(width=2.0), "two neighbours could meet"),
    ("07-fence", fence(lambda tau: 1.0), "the gap is missing"),
    ("07-fence", fence(width=-1.0), "wrong sign"),
    ("07-fence", first_moved, "xi starts at the second"),
    ("07-fence", lambda tau, xi, w: fence()(tau, xi, w) - tau[:-1], "add them to tau"),
    ("07-fence", lambda tau, xi, w: torch.cat([fence()(tau, xi, w), tau[-1:]]), "asked at the last level"),
    ("07-fence", lambda tau, xi, w: fence()(tau, xi, w)[1:], "first evaluation is missing"),
    ("07-held", lambda A, B, sigma, s, kappa: held(A, B, sigma, s, 1.0), "kappa is missing"),
    ("07-held", lambda A, B, sigma, s, kappa: held(A, B, s, sigma, kappa), "wrong way up"),
    ("07-held", lambda A, B, sigma, s, kappa: (A, B * sigma / s), "goes into A"),
    ("07-held", lambda A, B, *rest: (held(A, B, *rest)[0], B), "B must be scaled"),
    ("07-held", one_after_the_other, "the B that was given"),
    ("07-held", held_rows, "a column of the table"),
    (
        "07-held",
        lambda A, B, *rest: (A + held(0, torch.eye(3).double(), *rest)[0], held(A, B, *rest)[1]),
        "with the weight of its evaluation",
    ),
    ("07-held", lambda *given: held(*given)[::-1], "A first"),
    ("07-held", lambda A, B, *rest: (2 * A - held(A, B, *rest)[0], held(A, B, *rest)[1]), "the sign"),
    ("07-held", lambda *given: held(*given)[0], "two matrices"),
    ("07-turns", lambda *given: turns(*given, parts=("coefficients", "times")), "the times come first"),
    ("07-turns", in_blocks, "take turns"),
    ("07-turns", lambda *given: None, "return statement"),
    ("07-turns", lambda learn, at, rounds: turns(learn, at, 1), "one round only"),
    ("07-turns", lambda learn, at, rounds: learn("times", turns(learn, at, 1)), "a round is two turns"),
    ("07-turns", lambda *given: turns(*given, parts=("times",)), "the turns were"),
    ("07-turns", lambda *given: turns(*given, parts=()), "none"),
    ("07-turns", anew, "begins at the start again"),
    ("07-turns", thrown_away, "thrown away"),
    ("07-turns", one_late, "return where it ended"),
    ("07-turns", times_lost, "not each from where"),
]

"""The loop: turns, record and guard; and the numbers of the learners as they were before this loop."""

import json
import sys
from pathlib import Path

import pytest
import torch

from s4s_nb.classic import make_solver
from s4s_nb.errors import InputError
from s4s_nb.learn import learn
from s4s_nb.learn.loop import learn_student
from s4s_nb.learn.methods import METHODS
from s4s_nb.learn.problem import Problem, paired_gain
from s4s_nb.models import Model
from s4s_nb.pairs import Pairs, run, seeded_noise
from s4s_nb.solvers import Solver, solve
from tests.problems import (
    F64,
    GRID,
    MIXTURE,
    TABLE,
    identity,
    pairs,
    problem,
    same_bits,
    student,
    student_of,
)

NEWTON = {"optimiser": "gauss-newton", "progress": False}

# ---------------------------------------------------------------- numbers of old

FROZEN = json.loads((Path(__file__).parent / "frozen" / "learned.json").read_text())
TABLES, HISTORIES = FROZEN["tables"], FROZEN["histories"]
HOW = {
    "s4s gn": {"iterations": 3},
    "ld3 gn": {"iterations": 3},
    "s4s-alt gn": {"rounds": 2, "iterations": 1},
    "joint gn": {"iterations": 3},
    "joint bfgs": {"iterations": 12},
    "joint adam": {"iterations": 4, "size": 20},
}


@pytest.fixture(scope="module")
def frozen_problem() -> Problem:
    """40 and 20 pairs of UniPC with 40 steps, as the frozen solvers had them."""

    def of(split: str, count: int) -> Pairs:
        starts = 10 * seeded_noise(split, count, (2,)).double()
        return Pairs(starts, run(MIXTURE, starts, make_solver("unipc-3-bh2", 40, GRID)))

    return Problem(MIXTURE, of("train", 40), of("validation", 20), identity)


@pytest.mark.parametrize("name", TABLES)
def test_every_method_and_optimiser_learns_the_frozen_solver(name, frozen_problem):
    """Guards every step from pairs to table; BFGS, whose search along the line is another, its distance."""
    start, how = name.split(" ", 1)
    method, optimiser = how.replace("gn", "gauss-newton").split()
    here = student(start)
    result = learn_student(frozen_problem, here, method, optimiser, progress=False, **HOW[how])
    assert result.record["kept"] == "learned"
    old = Solver("old", *(torch.tensor(TABLES[name][key], dtype=F64) for key in TABLE))
    if optimiser == "bfgs":
        reached, before = (float(frozen_problem.distances(s).mean()) for s in (result.solver, old))
        assert reached <= 1.05 * before
        return
    for key in TABLE:
        assert (getattr(result.solver, key) - getattr(old, key)).abs().max() < 1e-8


@pytest.mark.parametrize(
    ("name", "start", "nfe", "options"),
    [
        ("adam hard", "dpmpp-2m", 4, {"method": "s4s"}),
        ("adam relaxed", "dpmpp-2m", 4, {"method": "s4s", "radius": 0.1, "seed": 1}),
        ("adam sgd", "dpmpp-2m", 4, {"method": "s4s", "rule": "SGD", "learning_rate": 0.1}),
    ],
)
def test_first_order_takes_the_frozen_ways(name, start, nfe, options, frozen_problem):
    """Guards orders of batches, clipping, rates, momentum and moved starts."""
    values = HISTORIES[name]
    options = {"iterations": len(values) - 1, "learning_rate": 2e-2, **options}
    result = learn_student(frozen_problem, student(start, nfe), optimiser="adam", progress=False, **options)
    assert [value for _, _, value in result.history] == pytest.approx(values, rel=1e-8)
    assert values != sorted(values, reverse=True)  # so there was something to return from


def test_turns_of_adam_take_the_frozen_way(frozen_problem):
    options = {"rounds": 2, "iterations": 2, "size": 20, "progress": False}
    result = learn_student(frozen_problem, student("unipc-3-bh2"), "s4s-alt", optimiser="adam", **options)
    assert [turn.after for turn in result.turns] == pytest.approx(HISTORIES["s4s-alt adam hard"], rel=1e-8)


# ---------------------------------------------------------------- turns


def test_what_is_kept_never_gets_worse_and_alternation_beats_each_half():
    given, reached = problem(validation=40), {}
    for method in ("s4s", "ld3", "s4s-alt"):
        iterations = 1 if method == "s4s-alt" else 8
        result = learn_student(given, student("dpmpp-3m"), method, iterations=iterations, **NEWTON)
        ends = [result.turns[0].before] + [turn.after for turn in result.turns]
        assert ends == sorted(ends, reverse=True)
        assert all(a.after == b.before for a, b in zip(result.turns, result.turns[1:], strict=False))
        reached[method] = float(given.distances(result.solver).mean())
        assert reached[method] == pytest.approx(result.turns[-1].after)
        untouched = {"s4s": "levels", "ld3": "coefficients"}.get(method)
        assert untouched is None or not getattr(result.student, untouched).any()
    assert reached["s4s-alt"] < min(reached["s4s"], reached["ld3"])


@pytest.mark.parametrize("method", METHODS)
def test_a_method_moves_its_parts_and_no_others(method):
    here = student_of(method, "unipc-3-bh2")
    learn_student(problem(), here, method, rounds=1, iterations=2, **NEWTON)
    moved = {name for name, p in here.named_parameters() if p.any()}
    assert moved == {part for turn in METHODS[method].turns for part in turn}


def test_learning_goes_on_from_where_the_student_is():
    given, options = problem(validation=40), {"iterations": 1, **NEWTON}
    here = student("ipndm-3")
    first = learn_student(given, here, "ld3", **options)
    second = learn_student(given, here, "s4s", **options)
    assert second.record["validation_start"] == pytest.approx(first.record["validation_best"], rel=1e-12)
    both = learn_student(given, student("ipndm-3"), "s4s-alt", rounds=1, **options)
    assert (both.solver.B - second.solver.B).abs().max() < 1e-8
    assert torch.equal(here.levels, both.student.levels)


def test_without_offsets_a_turn_has_levels_alone():
    result = learn_student(
        problem(), student("ipndm-3", width=0.0), "joint", "adam", iterations=2, progress=False
    )
    (turn,) = result.turns
    assert turn.parts == ("coefficients", "levels") and turn.after < turn.before


def test_learning_is_repeatable_for_a_seed():
    def learned(seed: int) -> Solver:
        options = {"iterations": 2, "seed": seed, "progress": False}
        return learn_student(problem(), student(), "joint", "adam", **options).solver

    assert same_bits(learned(0), learned(0)) and not same_bits(learned(0), learned(1))


def test_bad_plans_are_refused_in_a_sentence():
    for method, sentence in (("alternate", "s4s, ld3, joint, s4s-alt"), ("ld3", "two steps or more")):
        with pytest.raises(InputError, match=sentence):
            learn_student(problem(), student("dpmpp-1", 1), method, **NEWTON)
    with pytest.raises(InputError, match="gauss-newton, bfgs, adam, ld3"):
        learn_student(problem(), student(), "s4s", optimiser="newton")
    with pytest.raises(InputError, match="no relaxed starts"):
        learn_student(problem(), student(), "s4s", radius=0.1, **NEWTON)


# ---------------------------------------------------------------- the record


@pytest.mark.parametrize("optimiser", ["gauss-newton", "adam", "bfgs"])
def test_a_record_is_of_the_whole_run(optimiser):
    """Guards against a record of the last turn, from whose start the gain would look small."""
    given, here = problem(validation=40), student("ipndm-3")
    classic = float(given.distances(make_solver("ipndm-3", 5, GRID)).mean())
    result = learn_student(given, here, "s4s-alt", optimiser, rounds=2, iterations=2, progress=False)
    record = result.record
    assert (record["method"], record["start"]) == ("s4s-alt", "ipndm-3")
    assert record["optimiser"].lower() == optimiser
    assert record["validation_start"] == pytest.approx(classic, rel=1e-12)
    assert record["validation_start"] == result.history[0][2] == result.turns[0].before
    reached = float(given.distances(result.solver).mean())
    assert record["validation_best"] == pytest.approx(reached, rel=1e-12)
    assert record["validation_best"] == pytest.approx(result.turns[-1].after, rel=1e-9)
    assert record["validation_best"] <= result.turns[-1].before < record["validation_start"]
    assert record["pairs"] == 40 and record["validation_pairs"] == 40
    assert record["gain"] == pytest.approx(classic - reached, rel=1e-9)
    assert [turn for turn, *_ in result.history] == sorted(turn for turn, *_ in result.history)


def test_the_solver_knows_its_record_and_keeps_it_in_its_file(tmp_path):
    result = learn_student(problem(), student(), "joint", iterations=2, progress=False)
    assert result.record["optimiser"] == "BFGS"  # the method's own
    result.solver.save(tmp_path / "solver.safetensors")
    assert Solver.load(tmp_path / "solver.safetensors").info == result.record
    assert same_bits(result.solver, result.student.solver())


# ---------------------------------------------------------------- the guard


def satisfied(solver: Solver, but: int = 0) -> Pairs:
    """Validation pairs whose targets are the solver's own end points, but for those that it misses most."""
    data = pairs("validation", 20)
    order = problem().distances(solver).argsort()
    starts, targets = data.starts[order], data.targets[order]
    own = solve(MIXTURE, starts, solver)
    return Pairs(starts, torch.cat([own[: 20 - but], targets[20 - but :]]))


def test_a_gain_within_its_error_is_not_taken():
    """19 of 20 pairs lose, and one gains more than they lose together: that may be luck."""
    here = student()
    start = here.solver()
    given = Problem(MIXTURE, pairs("train", 40), satisfied(start, but=1), identity)
    result = learn_student(given, here, "s4s", **NEWTON)
    record = result.record
    assert result.turns[-1].after < result.turns[0].before
    assert 0 < record["gain"] < record["gain_error"]
    assert record["kept"] == "start" and same_bits(result.solver, start)
    assert float(given.distances(result.reached).mean()) == pytest.approx(result.turns[-1].after)
    assert not any(p.any() for p in here.parameters())
    assert record["validation_best"] == record["validation_start"] == result.history[0][2]


def test_a_gain_beyond_its_error_is_taken():
    result = learn_student(problem(), student(), "s4s", **NEWTON)
    assert result.record["kept"] == "learned" and result.record["gain"] > result.record["gain_error"] > 0


def test_a_student_goes_back_to_where_it_was_handed_over():
    """Guards a start that is itself learned: it is this that is kept, not the classic solver."""
    here = student()
    here.move(torch.full((12,), 0.01, dtype=F64), ("coefficients",))
    start = here.solver()
    given = Problem(MIXTURE, pairs("train", 40), satisfied(start), identity)
    for optimiser in ("gauss-newton", "bfgs", "adam"):
        result = learn_student(given, here, "joint", optimiser, iterations=2, progress=False)
        assert result.record["kept"] == "start" and same_bits(result.solver, start)


def test_gains_of_solvers_that_blow_up():
    finite, infinite = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.inf])
    assert paired_gain(finite, infinite) == (0.0, 0.0)
    assert paired_gain(infinite, finite)[0] == float("inf")
    assert paired_gain(finite, finite / 2) == (0.75, pytest.approx(0.25))


@pytest.mark.parametrize(("method", "optimiser"), [("s4s", "adam"), ("ld3", "adam"), ("ld3", "ld3")])
def test_the_seed_is_that_of_the_batches_too(monkeypatch, method, optimiser):
    class Reached(Exception):
        pass

    def learn_student(*_, seed, **__):
        raise Reached(seed)

    monkeypatch.setattr(sys.modules["s4s_nb.learn"], "learn_student", learn_student)
    model = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01)
    with pytest.raises(Reached, match="3"):
        learn(model, 3, method, start="dpmpp-2m", grid="karras", optimiser=optimiser, pairs=2, seed=3)

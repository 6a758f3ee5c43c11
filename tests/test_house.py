"""The architecture: arrows run downwards in the reading order, modules stay short, a name is used once."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "s4s_nb"
READING_ORDER = (
    # what everything stands on
    "errors atomic files runtime",
    # solving
    "schedules denoisers mixtures first solvers grids multistep single_step classic computed_grids",
    # learning, and the distances to learn by
    "levels student families siblings distilled solver_search designed pairs store distances frechet",
    "pictures learn.embeddings learn.objectives learn.tangents learn.problem learn.gradients"
    " learn.gauss_newton learn.bfgs learn.relaxed learn.adam learn.ld3 learn.optimiser learn.methods"
    " learn.resume learn.loop learn.starts learn.teachers learn.designer learn",
    # judging
    "comparison evaluate opponents",
    # models
    "models.unet models.dit models.classifier models.autoencoder models models.bundled"
    " models.named_solvers models.cards",
    # where the bundled files come from, and the tables of results
    "training.datasets training.losses training.train training.recipes training.bundle",
    "studies.sweep studies.ablations studies.spaces studies.design_space studies.transfer studies.settings"
    " studies.tour studies.bench",
    # the course
    "course.checks.diagnosis course.checks.notebook_* course.checks",
    "course.plots course.widgets course.notebook course.nbval_rules course.refresh",
    # what users call
    "options boundary __init__ making cli",
)
"""Every module of the package; one may import those before it, at its top or within its functions."""
LONGEST = 300


def module_name(path: Path) -> str:
    """ "learn.loop" of learn/loop.py, "learn" of learn/__init__.py, "__init__" of the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(tree: ast.AST, package: str = "s4s_nb", modules: Iterable[str] = MODULES) -> set[str]:
    """Modules of the package that a piece of code imports, wherever in it the import stands.

    ``package`` is where relative imports start from. A submodule that is imported from its package is
    meant, not the package; a name that no module has is one that the package itself defines.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                below = f"{base}.{alias.name}"
                found.add(below if below.removeprefix("s4s_nb.") in modules else base)
    own = {name for name in found if name.split(".")[0] == "s4s_nb"}
    return {name.removeprefix("s4s_nb.") if "." in name else "__init__" for name in own}


def package_of(name: str) -> str:
    """From where a module's relative imports start."""
    if name == "__init__":
        return "s4s_nb"
    return f"s4s_nb.{name}" if MODULES[name].stem == "__init__" else f"s4s_nb.{name}".rpartition(".")[0]


def in_order(names: Iterable[str], order: str) -> list[str]:
    """The order with its patterns replaced by the names that match them."""
    return [
        name
        for pattern in order.split()
        for name in ([n for n in sorted(names) if fnmatch(n, pattern)] if "*" in pattern else [pattern])
    ]


def upward(order: list[str], arrows: dict[str, set[str]]) -> list[str]:
    """Arrows from a module to itself or to a later one: in an order without any there is no circle."""
    place = {name: index for index, name in enumerate(order)}
    return [
        f"{name} -> {other}"
        for name, others in arrows.items()
        for other in sorted(others)
        if place[other] >= place[name]
    ]


ORDER = in_order(MODULES, " ".join(READING_ORDER))


def test_the_reading_order_holds_every_module_once():
    assert sorted(ORDER) == sorted(MODULES)


def test_arrows_run_downwards_only():
    arrows = {name: imported(tree_of(name), package_of(name)) for name in MODULES}
    assert sum(map(len, arrows.values())) > 3 * len(MODULES), "imports are found at all"
    assert upward(ORDER, arrows) == []


def test_no_module_is_above_300_lines():
    lengths = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


# ---------------------------------------------------------------- names


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module's top level, also within its conditions."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                inner = getattr(node, part, [])
                yield from statements([h for i in inner for h in (i.body if part == "handlers" else [i])])


def defined(tree: ast.Module) -> set[str]:
    """Classes, functions and constants of a module, without those that begin with an underscore."""
    names = set()
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def used_twice(names: dict[str, set[str]]) -> dict[str, list[str]]:
    """{name: modules that have it}, where those are several; a module has its own name as well."""
    owners = defaultdict(set)
    for module, own in names.items():
        for name in own | {module.rpartition(".")[2]}:
            owners[name].add(module)
    return {name: sorted(modules) for name, modules in owners.items() if len(modules) > 1}


def test_a_name_is_used_in_one_module_only():
    """The checks of the notebooks are left out: each notebook has its own."""
    others = [name for name in MODULES if not name.startswith("course.checks")]
    assert used_twice({name: defined(tree_of(name)) for name in others}) == {}


# ---------------------------------------------------------------- the rules themselves


@pytest.mark.parametrize(
    "source, found",
    [
        ("from s4s_nb.learn import loop", {"learn.loop"}),
        ("from s4s_nb.learn import learn", {"learn"}),
        ("from s4s_nb import solvers, Solver", {"solvers", "__init__"}),
        ("import s4s_nb.files as f\nimport torch", {"files"}),
        ("import s4s_nb as s4s", {"__init__"}),
        ("def f():\n    from s4s_nb.cli import main", {"cli"}),
        ("class A:\n    def f(self):\n        import s4s_nb.cli", {"cli"}),
        ("if TYPE_CHECKING:\n    from s4s_nb.models import Model", {"models"}),
        ("from .loop import learn_student", {"learn.loop"}),
        ("from . import loop", {"learn.loop"}),
        ("from ..files import sha256", {"files"}),
        ("from .. import files", {"files"}),
        ("from collections import abc", set()),
    ],
)
def test_imports_are_seen_wherever_they_stand(source, found):
    assert imported(ast.parse(source), "s4s_nb.learn") == found


def test_an_arrow_upwards_and_a_circle_are_found():
    assert upward(["a", "b", "c"], {"a": set(), "b": {"a"}, "c": {"a", "b"}}) == []
    assert upward(["a", "b"], {"a": {"b"}, "b": {"a"}}) == ["a -> b"]
    assert upward(["a"], {"a": {"a"}}) == ["a -> a"]


def test_names_are_seen_in_every_kind_of_definition():
    source = "def f(): x = 1\nclass C:\n    y = 2\nz, (v, w) = 1, (2, 3)\nu: int = 4\n_hidden = 5"
    assert defined(ast.parse(source)) == {"f", "C", "z", "v", "w", "u"}
    assert defined(ast.parse("try:\n    a = 1\nexcept ValueError:\n    b = 2\nelse:\n    c = 3")) == {
        *"abc"
    }
    assert defined(ast.parse("if True:\n    d = 1\nelse:\n    e = 2\nfrom x import y")) == {"d", "e"}


def test_a_name_of_two_modules_is_found():
    assert used_twice({"a": {"f"}, "b.c": {"g", "h"}, "d": {"g"}}) == {"g": ["b.c", "d"]}
    assert used_twice({"learn": {"learn"}, "b.f": set(), "d": {"f"}}) == {"f": ["b.f", "d"]}
    assert used_twice({"a.f": set(), "b.f": set()}) == {"f": ["a.f", "b.f"]}

"""Mutants of a piece of code: each has one small mistake, of a kind that learners make.

Signs turned, products for quotients, a term, a factor, a function or an index left out, numbers off by
one, comparisons turned, axes mixed up, results in the wrong order.
"""

import ast
import copy
import difflib
from collections.abc import Iterator

OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
NAMES = {
    "min": "max",
    "max": "min",
    "argmin": "argmax",
    "argmax": "argmin",
    "cumprod": "cumsum",
    "cumsum": "cumprod",
    "sum": "mean",
    "mean": "sum",
    "log2": "log",
    "log1p": "log",
    "expm1": "exp",
    "sqrt": "square",
    "square": "sqrt",
    "softmax": "log_softmax",
    "tanh": "sigmoid",
    "sigmoid": "tanh",
    "tril": "triu",
    "triu": "tril",
    "floor": "ceil",
    "ceil": "floor",
}
CONVERSIONS = {
    "float",
    "int",
    "tolist",
    "item",
    "double",
    "as_tensor",
    "from_numpy",
    "clone",
    "detach",
    "to",
}
"""What only changes how numbers are held: that is tried for every answer as a whole."""

MODULES = {"torch", "np", "math", "json", "F", "s4s"}
"""Whose functions are no methods: without the call its first argument is left."""


def put(node: ast.AST, **fields) -> ast.AST:
    """A copy of a node with other fields."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def fewer(node: ast.Call) -> Iterator[ast.AST]:
    """A call left out, or one of its arguments."""
    if called(node) in CONVERSIONS:
        return
    of_module = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in MODULES
    if isinstance(node.func, ast.Attribute) and not of_module:
        yield node.func.value
        for k in range(len(node.args)):
            yield put(node, args=node.args[:k] + node.args[k + 1 :])
    elif node.args:
        yield node.args[0]
        for k in range(1, len(node.args)):
            yield put(node, args=node.args[:k] + node.args[k + 1 :])
    for k, word in enumerate(node.keywords):
        if word.arg != "dtype":
            yield put(node, keywords=node.keywords[:k] + node.keywords[k + 1 :])


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node by mistake."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            yield from (put(node, op=other()) for other in OPERATORS.get(type(op), ()))
            yield from (left, right)
        case ast.AugAssign(op=op):
            yield from (put(node, op=other()) for other in OPERATORS.get(type(op), ()))
            yield ast.Pass()
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield operand
        case ast.Compare(ops=ops):
            for k, op in enumerate(ops):
                for other in OPERATORS.get(type(op), ()):
                    yield put(node, ops=[*ops[:k], other(), *ops[k + 1 :]])
        case ast.BoolOp(op=op, values=values):
            yield from (put(node, op=other()) for other in OPERATORS[type(op)])
            yield from values
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)) if value == value and abs(value) < 1e300:
            yield from (ast.Constant(2 * value), ast.Constant(value / 2)) if value else (ast.Constant(1.0),)
        case ast.Call():
            yield from fewer(node)
        case ast.Attribute(attr=name) if name in NAMES:
            yield put(node, attr=NAMES[name])
        case ast.Attribute(attr="T", value=value):
            yield value
        case ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
            yield put(node, id=NAMES[name])
        case ast.Tuple(elts=[first, second], ctx=ast.Load()):
            yield put(node, elts=[second, first])
        case ast.Subscript(value=value, ctx=ast.Load()):
            yield value
        case ast.If(test=test) | ast.IfExp(test=test):
            yield put(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Expr() | ast.Assign(targets=[ast.Subscript()]):
            yield ast.Pass()


class Replace(ast.NodeTransformer):
    """Put another node in the place of the one with a number."""

    def __init__(self, number: int, other: ast.AST):
        self.number, self.other = number, other

    def visit(self, node: ast.AST) -> ast.AST:
        return self.other if getattr(node, "number", None) == self.number else self.generic_visit(node)


def mutants(source: str, first: int, last: int) -> Iterator[tuple[str, str]]:
    """(how the changed line reads, the whole source) for each mistake in the lines first … last."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    nodes = [n for n in ast.walk(tree) if first <= getattr(n, "lineno", 0) <= last]
    seen = {original}
    for number, node in enumerate(nodes):
        node.number = number  # pyright: ignore[reportAttributeAccessIssue]
    for number, node in enumerate(nodes):
        for other in alternatives(node):
            mutated = ast.unparse(
                ast.fix_missing_locations(Replace(number, other).visit(copy.deepcopy(tree)))
            )
            if mutated not in seen:
                seen.add(mutated)
                yield changed(original, mutated), mutated


def changed(before: str, after: str) -> str:
    """The lines of ``after`` that are new; those that are gone, where none is."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    new = [line[2:].strip() for line in lines if line.startswith("+ ")]
    return " / ".join(new) or "without " + " / ".join(x[2:].strip() for x in lines if x.startswith("- "))

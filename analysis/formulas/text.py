"""Reading a formula that someone wrote: which names it has, what it may say, what each name does.

The text is read with Python's own parser and walked; nothing of it is ever run. Law files come
from strangers: what is not arithmetic of numbers and names is refused, and so is what could keep
an algebra system busy for ever (towers of numbers, hundreds of terms).
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from analysis.errors import AnalysisError

VARIABLES = ("N", "D", "U", "e")
"""What the runs give: parameters, tokens, unique tokens, and epochs D / U."""

FUNCTIONS = {"exp": 1, "log": 1, "sqrt": 1, "max": 2, "min": 2}
"""Known functions and how many arguments they take."""

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
"""What the operators of a formula do, to numbers and to symbols."""

_LONGEST = 1000
_MOST_NODES = 200
_DEEPEST = 24
_TALLEST = 5
_MOST_PARAMETERS = 12
_MOST_EXTREMES = 4
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,30}$")


class FormulaError(AnalysisError, ValueError):
    """A formula says what it may not, or says too little; the message names what."""

    exit_code = 2


@dataclass(frozen=True)
class Formula:
    """A formula's text as a checked tree.

    Attributes:
        text: as it was written.
        tree: the expression.
        parameters: its free names, in the order of appearance.
        kinds: what each parameter is: `floor`, `scale`, `exponent` or `shape`.
        variables: which of N, D, U and e it reads.
    """

    text: str
    tree: ast.expr
    parameters: tuple[str, ...]
    kinds: tuple[str, ...]
    variables: tuple[str, ...]


def read_formula(text: str) -> Formula:
    """Read a formula such as `E + A/N**alpha + B/D**beta`.

    Raises:
        FormulaError: it is no formula, or says what a formula may not.
    """
    if not isinstance(text, str) or not text.strip():
        raise FormulaError("the formula is empty; write one such as E + A/N**alpha + B/D**beta")
    if len(text) > _LONGEST or not text.isascii():
        raise FormulaError(f"a formula has at most {_LONGEST} characters, all of them ASCII")
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormulaError(
            f"the formula cannot be read ({error}); write it as in Python: "
            "E + A/N**alpha + B/D**beta"
        ) from error
    if _depth(tree) > _DEEPEST or _towers(tree) > _TALLEST:
        raise FormulaError("the formula is too deeply nested")
    if sum(1 for _ in ast.walk(tree)) > 3 * _MOST_NODES:
        raise FormulaError("the formula is too long")
    _check(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = [
        node.id
        for node in _in_order(tree)
        if isinstance(node, ast.Name) and id(node) not in called
    ]
    parameters = tuple(dict.fromkeys(n for n in names if n not in VARIABLES))
    variables = tuple(v for v in VARIABLES if v in names)
    if not parameters:
        raise FormulaError("the formula has no parameters; names other than N, D, U, e are fitted")
    if len(parameters) > _MOST_PARAMETERS:
        raise FormulaError(f"the formula has {len(parameters)} parameters; {_MOST_PARAMETERS} fit")
    if not {"N", "D"} & set(variables):
        raise FormulaError("the formula reads neither N nor D: it is no law of them")
    kinds = tuple(_kind(tree, name) for name in parameters)
    return Formula(" ".join(text.split()), tree, parameters, kinds, variables)


def number(node: ast.expr) -> float | None:
    """Return the value of a tree without names, None for one with names.

    Raises:
        FormulaError: the value is no finite number.
    """
    if any(isinstance(n, ast.Name) and n.id not in FUNCTIONS for n in ast.walk(node)):
        return None
    try:
        value = _value(node)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise FormulaError(f"{ast.unparse(node)} is no finite number") from error
    if not math.isfinite(value):
        raise FormulaError(f"{ast.unparse(node)} is no finite number")
    return value


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.UnaryOp(op=op, operand=operand):
            return -_value(operand) if isinstance(op, ast.USub) else _value(operand)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left), _value(right)
            # math.pow refuses what would leave the real numbers.
            return math.pow(a, b) if isinstance(op, ast.Pow) else float(ARITHMETIC[type(op)](a, b))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(a) for a in args]
            if name in ("max", "min"):
                return max(values) if name == "max" else min(values)
            functions = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt}
            return functions[name](*values)
    raise FormulaError(f"{ast.unparse(node)} is no number")


def _check(tree: ast.expr) -> None:
    """Refuse every node that is not arithmetic."""
    extremes = 0
    for node in _in_order(tree):
        match node:
            case ast.BinOp(op=ast.BitXor()):
                raise FormulaError("write ** for powers, not ^")
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()):
                pass
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                pass
            case ast.Constant(value=value):
                if type(value) not in (int, float) or not math.isfinite(_as_float(value)):
                    raise FormulaError(f"{value!r} is no number that a formula can have")
            case ast.Name(id=name):
                if not _NAME.match(name) or name.startswith("__"):
                    raise FormulaError(f"{name!r} is no name that a formula can have")
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                if len(args) != FUNCTIONS[name]:
                    raise FormulaError(f"{name} does not take {len(args)} arguments")
                extremes += name in ("max", "min")
            case _:
                raise FormulaError(
                    f"{ast.unparse(node)[:60]!r} may not stand in a formula; it may have numbers, "
                    f"names, + - * / **, and {', '.join(FUNCTIONS)}"
                )
    if extremes > _MOST_EXTREMES:
        raise FormulaError(f"a formula has at most {_MOST_EXTREMES} calls of max and min")
    calls = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for name_node in (n for n in ast.walk(tree) if isinstance(n, ast.Name)):
        if name_node.id in FUNCTIONS and id(name_node) not in calls:
            raise FormulaError(f"{name_node.id!r} is a function and cannot be a parameter")
    for node in _in_order(tree):
        if isinstance(node, (ast.BinOp, ast.Call)):
            number(node)
        if isinstance(node, ast.BinOp) and _divides_by_zero(node):
            raise FormulaError(f"{ast.unparse(node)} is no finite number")


def _divides_by_zero(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.Div) and number(node.right) == 0.0


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _in_order(node: ast.expr) -> Iterator[ast.expr]:
    """Yield a tree's expressions from left to right."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _in_order(child)


def _depth(tree: ast.AST) -> int:
    deepest = 0
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        node, level = stack.pop()
        deepest = max(deepest, level)
        stack += [(child, level + 1) for child in ast.iter_child_nodes(node)]
    return deepest


def _towers(node: ast.AST) -> int:
    """Return how many powers, exponentials and logarithms stand within each other at most."""
    own = isinstance(node, ast.Call) or (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)
    )
    return own + max((_towers(child) for child in ast.iter_child_nodes(node)), default=0)


def _kind(tree: ast.expr, name: str) -> str:
    """Return what a parameter is, by where it stands.

    A summand by itself is a floor. In the exponent of what N, D, U or e raise it is an exponent;
    in another exponent, or inside exp, a shape. Else it is a scale.
    """
    if any(isinstance(term, ast.Name) and term.id == name for term in _summands(tree)):
        return "floor"
    kind = "scale"
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _has(node.right, name):
            if any(_has(node.left, v) for v in VARIABLES):
                return "exponent"
            kind = "shape"
        if isinstance(node, ast.Call) and _has(node, name):
            kind = "shape"
    return kind


def _summands(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _summands(node.left)
        yield from _summands(node.right)
    else:
        yield node


def _has(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))

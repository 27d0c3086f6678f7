"""Formulas with their derivatives as NumPy functions, by way of SymPy."""

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from analysis.errors import AnalysisError
from analysis.formulas.text import ARITHMETIC, VARIABLES, FormulaError, number, read_formula


class MissingSympyError(AnalysisError):
    """SymPy, which differentiates formulas, is not installed."""

    exit_code = 3


def sympy_module() -> Any:
    try:
        import sympy
    except ImportError as error:
        raise MissingSympyError(
            "a law from a formula needs SymPy: pip install 'quokka-ray[formula]'"
        ) from error
    return sympy


def expression(text: str) -> tuple[Any, tuple[str, ...]]:
    """Return a formula in SymPy's terms, with positive symbols of the formula's own names."""
    sympy = sympy_module()
    formula = read_formula(text)
    symbols = {n: sympy.Symbol(n, positive=True) for n in (*formula.parameters, *VARIABLES)}

    def build(node: ast.expr) -> Any:
        value = number(node)
        if value is not None:
            # Integers of SymPy's would be raised to powers exactly, however large.
            return sympy.Integer(int(value)) if value in (0.0, 1.0, -1.0) else sympy.Float(value)
        match node:
            case ast.Name(id=name):
                return symbols[name]
            case ast.UnaryOp(op=op, operand=operand):
                return -build(operand) if isinstance(op, ast.USub) else build(operand)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = build(left), build(right)
                return ARITHMETIC[type(op)](a, b)
            case ast.Call(func=ast.Name(id=name), args=args):
                known = {"max": sympy.Max, "min": sympy.Min, "sqrt": sympy.sqrt}
                function = known.get(name) or getattr(sympy, {"exp": "exp", "log": "log"}[name])
                return function(*(build(a) for a in args))
        raise FormulaError(f"{ast.unparse(node)} may not stand in a formula")

    return build(formula.tree), formula.parameters


@lru_cache(maxsize=32)
def compiled(text: str, real: tuple[str, ...]) -> dict[int, Callable[..., list[Any]]]:
    """Return functions of (theta, N, D, U, e): by order, the loss and its derivatives in theta.

    Symbols get names of ours before any code is written, so that none of the text reaches it.
    """
    sympy = sympy_module()
    formula, parameters = expression(text)
    coordinates = [sympy.Symbol(f"t{i}", real=True) for i in range(len(parameters))]
    counts = [sympy.Symbol(f"v{i}", positive=True) for i in range(len(VARIABLES))]
    replaced = {sympy.Symbol(v, positive=True): c for v, c in zip(VARIABLES, counts, strict=True)}
    for name, t in zip(parameters, coordinates, strict=True):
        replaced[sympy.Symbol(name, positive=True)] = t if name in real else sympy.exp(t)
    loss = formula.subs(replaced, simultaneous=True)
    first = [sympy.diff(loss, t) for t in coordinates]
    second = [
        sympy.diff(first[i], coordinates[j])
        for i in range(len(coordinates))
        for j in range(i, len(coordinates))
    ]

    # The kink of max and min has no second derivative to speak of.
    def smooth(term: Any) -> Any:
        return term.replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))

    modules = [{"log": _safe_log, "Heaviside": _step}, "numpy"]
    outputs = {0: [loss], 2: [loss, *map(smooth, first), *map(smooth, second)]}
    return {
        order: sympy.lambdify([*coordinates, *counts], terms, modules=modules, cse=True)
        for order, terms in outputs.items()
    }


def _safe_log(value: Any) -> Any:
    """Return ln, and a large negative number at 0: 0^g ln 0 is 0, not unknown."""
    return np.log(np.maximum(value, 1e-300))


def _step(value: Any, middle: float = 0.5) -> Any:
    return np.heaviside(value, middle)

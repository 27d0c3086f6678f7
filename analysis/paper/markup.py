"""Cells and tables in Markdown."""

from collections.abc import Iterable

from analysis.paper.compare import Cell


def count(cells: Iterable[Cell]) -> str:
    """Return how many of the cells agree, in words."""
    agreed = [cell.agrees for cell in cells]
    return f"{sum(agreed)} of {len(agreed)} cells agree"


def shown(cell: Cell) -> list[str]:
    """Return printed, recomputed, difference, allowed and verdict."""
    return [
        cell.printed,
        number(cell),
        f"{100 * cell.difference:+.2f} %",
        f"{100 * cell.allowed:.2f} %",
        "yes" if cell.agrees else "**no**",
    ]


def number(cell: Cell) -> str:
    """Return the recomputed value in the printed one's notation, with a digit more."""
    if "e" in cell.printed:
        return f"{cell.recomputed:.3e}".replace("e+", "e")
    if cell.printed[-1].isdigit():
        return f"{cell.recomputed:.4g}"
    scale = {"M": 1e6, "B": 1e9, "T": 1e12}[cell.printed[-1]]
    return f"{cell.recomputed / scale:.5g}{cell.printed[-1]}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

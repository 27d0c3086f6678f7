"""The report of `benchmarks/steering.py`, made of whatever pieces were measured."""

from pathlib import Path

import numpy as np
import pandas as pd
from steering_tables import PUBLISHED

THRESHOLDS = (("ln_params", 0.10), ("ln_params", 0.06), ("ln_loss", 0.006), ("ln_loss", 0.004))
ERRORS = ("ln_params", "ln_loss")


def _read(folder: Path, part: str) -> pd.DataFrame:
    found = [pd.read_csv(path) for path in sorted(folder.glob(f"{part}-*.csv"))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the median errors by design and budget; seeds without a law count as infinite.

    A design that was planned for several budgets is read, at each, from its shortest plan.
    """
    kept = rows[rows["budget"].notna()]
    plan = kept.groupby(["design", "budget"])["plan"].transform("min")
    kept = kept[kept["plan"] == plan]
    filled = kept.assign(**{e: kept[e].fillna(np.inf) for e in ERRORS})
    return filled.groupby(["design", "budget"])[[*ERRORS, "runs"]].median().reset_index()


def crossing(curve: pd.DataFrame, error: str, threshold: float) -> float:
    """Return the budget from which the median error stays below; infinite where it never does.

    Between budgets the error is a power of the budget.
    """
    curve = curve.sort_values("budget")
    budget, value = curve["budget"].to_numpy(), curve[error].to_numpy()
    above = np.flatnonzero(~(value <= threshold))
    if not above.size:
        return float(budget[0])
    last = int(above[-1])
    if last == len(value) - 1:
        return float("inf")
    if not np.isfinite(value[last]):
        return float(budget[last + 1])
    part = np.log(value[last] / threshold) / np.log(value[last] / value[last + 1])
    return float(budget[last] * (budget[last + 1] / budget[last]) ** part)


def _thresholds(rows: pd.DataFrame) -> list[str]:
    table = curves(rows)
    head = [f"abs(d {'ln N_opt' if e == 'ln_params' else 'ln L'}) <= {t:g}" for e, t in THRESHOLDS]
    lines = ["| design | seeds | " + " | ".join(head) + " |", "| --- " * 6 + "|"]
    found: dict[str, list[float]] = {}
    for design, curve in table.groupby("design", sort=False):
        found[str(design)] = [crossing(curve, e, t) for e, t in THRESHOLDS]
        most = curve["budget"].max()
        cells = [f"{v:.2f}" if np.isfinite(v) else f"> {most:g}" for v in found[str(design)]]
        seeds = rows[rows["design"] == design]["seed"].nunique()
        lines.append(f"| {design} | {seeds} | " + " | ".join(cells) + " |")
    if {"steered", "oracle-grid"} <= set(found):
        ratios = np.array(found["oracle-grid"]) / np.array(found["steered"])
        mean = np.exp(np.log(ratios).mean())
        lines += ["", "Oracle-best grid over steered: " + ", ".join(f"{r:.2f}" for r in ratios)
                  + f"; geometric mean {mean:.2f}."]  # fmt: skip
    return lines


def _robust(rows: pd.DataFrame) -> list[str]:
    lines = [
        "| surface | seeds | ln N_opt: steered, random, grid | ratio "
        "| ln L: steered, random, grid | ratio | covered N, L | no claim | stopped by tolerance |",
        "| --- " * 9 + "|",
    ]
    for surface, part in rows.groupby("surface", sort=False):
        curve = curves(part)
        at = curve[curve["budget"] == 2.0].set_index("design")
        if not {"steered", "random", "grid"} <= set(at.index):
            continue
        stops = part[part["kind"].notna()] if "kind" in part else part.head(0)
        claims = stops[stops["kind"] != "no claim"]
        cells = []
        for error in ERRORS:
            ours, chance, grid = (float(at[error][d]) for d in ("steered", "random", "grid"))
            cells += [f"{ours:.4f}, {chance:.4f}, {grid:.4f}", f"{ours / min(chance, grid):.2f}"]
        cells += [
            f"{claims['params_inside'].mean():.2f}, {claims['loss_inside'].mean():.2f}",
            f"{(stops['kind'] == 'no claim').mean():.2f}",
            f"{(stops['kind'] == 'reached').mean():.2f}",
        ]
        seeds = part[part["design"] == "steered"]["seed"].nunique()
        lines.append(f"| {surface} | {seeds} | " + " | ".join(cells) + " |")
    return lines


def _isoflop(rows: pd.DataFrame) -> list[str]:
    lines = ["| table | runs | steered | random | whole pool, five parameters | coverage |",
             "| --- " * 6 + "|"]  # fmt: skip
    for table, part in rows[rows["whole"].notna()].groupby("table", sort=False):
        middle = part.groupby("design").median(numeric_only=True)
        if not {"steered", "random"} <= set(middle.index):
            continue
        ours, chance = middle.loc["steered"], middle.loc["random"]
        lines.append(
            f"| {table} | {ours['runs']:g} | {ours['mixture_rmse']:.4f} "
            f"| {chance['mixture_rmse']:.4f} | {ours['whole']:.4f} "
            f"| {ours['mixture_coverage']:.2f} |"
        )
    return lines


def _scalebench(rows: pd.DataFrame) -> list[str]:
    lines = ["| task, share | seeds | steered | MSPE's rule, its law "
             "| MSPE's rule, our mixture | random | published |", "| --- " * 7 + "|"]  # fmt: skip
    for (table, share), part in rows[rows["whole"].isna()].groupby(["table", "share"], sort=False):
        middle = part.groupby("design").median(numeric_only=True)

        def cell(design: str, what: str, middle: pd.DataFrame = middle) -> str:
            return f"{middle[what][design]:.3f}" if design in middle.index else ""

        number = (0.01, 0.05, 0.10).index(round(float(share), 3))
        lines.append(
            f"| {table}, {share:.0%} | {part['seed'].nunique()} | {cell('steered', 'mixture_r2')} "
            f"| {cell('mspe', 'law_r2')} | {cell('mspe', 'mixture_r2')} "
            f"| {cell('random', 'mixture_r2')} | {PUBLISHED[str(table)][number]:.2f} |"
        )
    return lines


def report(folder: Path, write: Path | None) -> None:
    """Print the report, or write it."""
    surfaces, tables = _read(folder, "surfaces"), _read(folder, "tables")
    lines = ["# What the steering saves", "",
             "Made by `benchmarks/steering.py`; every design at equal FLOPs, no cooldown reuse "
             "for any. Medians over seeds. Surfaces are steered with the forms meant for formulas "
             "(`standard` in `analysis/steering/forms.py`); searches that train have others "
             "(`trained`), which buy less well on formulas (docs/log.md)."]  # fmt: skip
    if len(surfaces):
        true = surfaces[surfaces["surface"] == "chinchilla"]
        lines += ["", "## Budget to reach an error, true five-parameter law", "",
                  "In units of the largest run; the target is a thousand times that run, the "
                  "smallest a thousandth, noise .4 %.", "", *_thresholds(true)]  # fmt: skip
        lines += ["", "## Other truths, budget 2", "",
                  "Errors at equal FLOPs; random and the 5 x 7 grid are fitted with five "
                  "parameters. Coverage of 90 % intervals at the moment of stopping.", "",
                  *_robust(surfaces)]  # fmt: skip
    if len(tables):
        lines += ["", "## Recorded IsoFLOP tables, a tenth of the pool's FLOPs", ""]
        lines += ["RMSE of log loss of the held-out larger runs.", "", *_isoflop(tables)]
        lines += ["", "## ScaleBench", "", "R^2 on the test rows.", "", *_scalebench(tables)]
    text = "\n".join(lines) + "\n"
    if write is None:
        print(text)
    else:
        write.write_text(text)
        print(write)

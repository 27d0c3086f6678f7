"""Do 90 % intervals cover held-out larger runs? Several ways to make them, on real run tables.

For each table and each hold-out h, a way is fitted to the runs up to the largest compute over h
and predicts those above. Settings that a way has are chosen by interval score on the *other*
sources; what is printed for a table was never used to choose for it. Coverage is averaged over
hold-outs by table, then over tables.

    python benchmarks/coverage.py                  all tables of ../shared/data (some 4 minutes)
    python benchmarks/coverage.py --table RUNS.csv the default way on a table it has never seen
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.calibration import HOLD_OUTS, cut
from analysis.discrepancy import DiscrepancyPrior
from analysis.errors import AnalysisError
from analysis.fitting.fit import fit_law
from analysis.runs import read_runs, validate_runs
from analysis.uncertainty import LEVEL, interval_scores

REPORTED = ("epoch", "llama_3", "marin")
"""Sources whose tables are reported; the others serve to choose settings."""

Z90 = 1.6448536269514722
WAYS: dict[str, "Way"] = {}
Bounds = tuple[np.ndarray, np.ndarray, np.ndarray]
Way = Callable[[pd.DataFrame, pd.DataFrame], Bounds]
"""Maps runs kept and runs held out to the predicted ln L of the latter with both ends."""


def way(name: str) -> Callable[[Way], Way]:
    """Name a way."""

    def keep(function: Way) -> Way:
        WAYS[name] = function
        return function

    return keep


def fitted(kept: pd.DataFrame, held: pd.DataFrame, **settings: object) -> Bounds:
    """Fit with `settings` and predict, noise of one run included."""
    fit = fit_law(kept, bootstrap=100, response="none", **settings)  # type: ignore[arg-type]
    found = fit.predict(held["params"], held["tokens"], noise=True)
    return np.log(found.value), np.log(found.low), np.log(found.high)


_plain = partial(fitted, law="chinchilla", discrepancy="none", priors="none")
_coupled = partial(_plain, law="coupled")
_super = partial(_plain, law="super")
WAYS |= {
    "five parameters": _plain,
    "five parameters, published priors": partial(_plain, priors="weak"),
    "coupled law": _coupled,
    "super-law": _super,
}


@way("ensemble of the three")
def _ensemble(kept: pd.DataFrame, held: pd.DataFrame) -> Bounds:
    """Equal weights; the spread between laws adds to the spread within."""
    found = [np.stack(member(kept, held)) for member in (_plain, _coupled, _super)]
    values = np.stack([f[0] for f in found])
    within = np.mean([((f[2] - f[1]) / 2.0 / Z90) ** 2 for f in found], axis=0)
    half = Z90 * np.sqrt(within + values.var(axis=0, ddof=1))
    mean = values.mean(axis=0)
    return mean, mean - half, mean + half


@way("super-law, conformal")
def _conformal(kept: pd.DataFrame, held: pd.DataFrame) -> Bounds:
    """Scale half widths by the 90 % quantile of standardised errors over rolling origins."""
    ratios: list[float] = []
    for hold_out in (*HOLD_OUTS, 6.0):
        parts = cut(kept, hold_out)
        if parts is not None:
            mean, low, high = _super(*parts)
            off = np.abs(np.log(parts[1]["loss"].to_numpy(dtype=np.float64)) - mean)
            ratios += list(off / ((high - low) / 2.0))
    scale = max(1.0, float(np.quantile(ratios, LEVEL))) if ratios else 1.0
    mean, low, high = _super(kept, held)
    return mean, mean + scale * (low - mean), mean + scale * (high - mean)


def discrepancy_way(law: str, amplitude: float, spread: float, length: float) -> Way:
    """Return the way of a law with a Gaussian process of these priors."""
    prior = DiscrepancyPrior(amplitude, spread, length)

    def predict(kept: pd.DataFrame, held: pd.DataFrame) -> Bounds:
        return fitted(kept, held, law=law, discrepancy=prior)

    return predict


GRID = tuple(itertools.product((0.08, 0.11, 0.15, 0.2), (0.3, 0.5), (4.0, 6.0, 8.0)))
"""Amplitude, its spread, and length."""

FAR = (30.0, 100.0)
"""Hold-outs that count besides when settings are chosen: a law is sold on extrapolation."""


def tables(folder: Path) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield source, table and runs; the five that are reported first."""
    epoch = pd.read_csv(folder / "chinchilla_epoch.csv")
    epoch = epoch[epoch["excluded_in_published_fit"] == 0]
    yield "epoch", "epoch", epoch.rename(columns={"train_loss": "loss"})
    points = pd.read_csv(folder / "isoflops_openathena.csv")
    points = points[points["outlier"] == 0]
    llama = (points["dataset"] == "llama_3") & (points["condition"] == "raw_loss")
    yield "llama_3", "llama_3", points[llama]
    for corpus in ("nemotron", "comma", "dclm"):
        yield "marin", corpus, points[points["dataset"] == corpus]
    quokka = pd.read_csv(folder / "quokka_compute.csv")
    yield "quokka", "quokka", quokka.rename(columns={"train_loss": "loss"})
    farseer = pd.concat(
        [
            pd.read_parquet(folder / f"scalebench/farseer/{part}.parquet")
            for part in ("train", "test")
        ]
    )
    yield "farseer", "farseer", farseer.rename(columns={"N": "params", "D": "tokens"})
    openlm = pd.read_csv(folder / "openlm_overtraining.csv")
    openlm = openlm[openlm["lr"] == 3e-3].rename(columns={"val_loss_openlm": "loss"})
    for corpus, runs in openlm.groupby("dataset"):
        yield "openlm", str(corpus), runs
    grids = pd.read_csv(folder / "steplaw_sldbench.csv")
    best = grids.groupby(["params_non_embedding", "tokens"])["train_loss_smooth"].idxmin()
    names = {"params_non_embedding": "params", "train_loss_smooth": "loss"}
    yield "steplaw", "steplaw", grids.loc[best].rename(columns=names)
    repeated = pd.read_csv(folder / "datablations_c4.csv")
    once = repeated[(repeated["epochs"] <= 1.0001) & repeated["val_loss"].notna()]
    yield "datablations", "datablations", once.rename(columns={"val_loss": "loss"})


def splits(
    all_tables: Iterator[tuple[str, str, pd.DataFrame]],
) -> Iterator[tuple[str, str, float, pd.DataFrame, pd.DataFrame]]:
    """Yield source, table, hold-out, runs kept and runs held out."""
    for source, name, runs in all_tables:
        table = runs[["params", "tokens", "loss"]].astype(float).drop_duplicates()
        for hold_out in (*HOLD_OUTS, *FAR):
            parts = cut(table.reset_index(drop=True), hold_out)
            if parts is not None:
                yield source, name, hold_out, *parts


def measure(predict: Way, parts: list[tuple[str, str, float, pd.DataFrame, pd.DataFrame]]):
    """Return a row of scores for each split."""
    rows = []
    for source, name, hold_out, kept, held in parts:
        mean, low, high = predict(kept, held)
        observed = np.log(held["loss"].to_numpy(dtype=np.float64))
        rows.append(
            {
                "source": source,
                "table": name,
                "hold_out": hold_out,
                "held": len(held),
                **interval_scores(observed, mean, low, high),
            }
        )
    return pd.DataFrame(rows)


def by_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over hold-outs for each table."""
    columns = ["rmse", "coverage", "half_width", "interval_score"]
    return scores.groupby(["source", "table"], sort=False)[columns].mean()


def rotate(found: dict[tuple[float, float, float], pd.DataFrame]) -> tuple[pd.DataFrame, dict]:
    """Return each reported source's scores with settings chosen on the others, and the choices."""
    scores = pd.DataFrame({key: by_table(frame)["interval_score"] for key, frame in found.items()})
    relative = scores.div(scores.min(axis=1), axis=0)
    rows, chosen = [], {}
    for source in REPORTED:
        others = relative[relative.index.get_level_values("source") != source]
        best = others.groupby(level="source").mean().mean().idxmin()
        chosen[source] = best
        rows.append(by_table(near(found[best])).loc[[source]])
    chosen["all sources"] = relative.groupby(level="source").mean().mean().idxmin()
    return pd.concat(rows), chosen


def near(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the splits that are reported."""
    return scores[scores["hold_out"].isin(HOLD_OUTS)]


def line(name: str, frame: pd.DataFrame, baseline: float) -> str:
    """Return one row of the printed table."""
    mean = frame.mean()
    lowest = frame["coverage"].min()
    return (
        f"{name:<36} {mean['rmse']:.4f} {mean['rmse'] / baseline:5.2f} {mean['coverage']:8.0%} "
        f"{lowest:7.0%} {mean['half_width']:10.4f} {mean['interval_score']:8.4f}"
    )


def report(folder: Path, write: Path | None) -> None:
    """Print all ways on the reported tables."""
    parts = list(splits(tables(folder)))
    reported = [part for part in parts if part[0] in REPORTED and part[2] in HOLD_OUTS]
    print(f"{'':36} {'rmse':>6} {'ratio':>5} {'coverage':>8} {'lowest':>7} half width    score")
    baseline, references = None, []
    for name, predict in WAYS.items():
        frame = by_table(measure(predict, reported))
        baseline = baseline or float(frame["rmse"].mean())
        print(line(name, frame, baseline), flush=True)
        if name in ("five parameters", "coupled law", "super-law"):
            law = {"five parameters": "chinchilla", "coupled law": "coupled"}.get(name, "super")
            references.append((law, False, frame))
    for law in ("super", "chinchilla"):
        began = time.perf_counter()
        found = {key: measure(discrepancy_way(law, *key), parts) for key in GRID}
        frame, chosen = rotate(found)
        print(line(f"{law} with discrepancy", frame, baseline or 1.0), flush=True)
        for source, (amplitude, spread, length) in chosen.items():
            print(f"    {source}: amplitude {amplitude}, spread {spread}, length {length}")
        taken = time.perf_counter() - began
        print(f"    ({len(GRID) * len(parts)} fits, {taken / len(GRID) / len(parts):.3f} s each)")
        references.append((law, True, frame))
    default = by_table(measure(fitted, reported))
    print(line("the default, chosen with all in view", default, baseline or 1.0))
    bounded = by_table(measure(partial(fitted, law="bounded"), reported))
    print(line("bounded, the default's settings", bounded, baseline or 1.0))
    references.append(("bounded", True, bounded))
    print("\nchinchilla with discrepancy, by table, settings chosen on the other sources")
    print(frame.round(4).to_string())
    if write is not None:
        save(references, write)
    print(f"rmse over the five-parameter law's: {frame['rmse'].mean() / baseline:.3f}")


def save(references: list[tuple[str, bool, pd.DataFrame]], path: Path) -> None:
    """Write what law files quote as their reference."""
    rows = [
        {
            "law": law,
            "discrepancy": discrepancy,
            "tables": len(frame),
            "coverage": round(float(frame["coverage"].mean()), 3),
            "lowest": round(float(frame["coverage"].min()), 3),
            "half_width": round(float(frame["half_width"].mean()), 4),
            "rmse": round(float(frame["rmse"].mean()), 4),
        }
        for law, discrepancy, frame in references
    ]
    pd.DataFrame(rows).to_csv(path, index=False)


def one_table(path: Path, columns: list[str]) -> None:
    """Print the default way and the plain law on one table."""
    try:
        names = dict(column.split("=", 1) for column in columns)
        runs = validate_runs(read_runs(path, names))
    except (AnalysisError, ValueError) as error:
        sys.exit(f"error: {error}")
    parts = list(splits(iter([("table", path.stem, runs)])))
    if not parts:
        sys.exit(f"{path}: too few runs to hold any out")
    plain = measure(_plain, parts)
    default = measure(lambda kept, held: fitted(kept, held), parts)
    print("the default fit\n" + default.round(4).to_string(index=False))
    print("five parameters\n" + plain.round(4).to_string(index=False))
    ratio = default["rmse"].mean() / plain["rmse"].mean()
    print(f"rmse over the five-parameter law's: {ratio:.3f}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR")
    parser.add_argument("--table", type=Path, metavar="RUNS")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=SOURCE", help="loss=train_loss"
    )
    parser.add_argument(
        "--write", type=Path, metavar="CSV", help="analysis/reference/coverage.csv"
    )
    options = parser.parse_args()
    if options.table is not None:
        one_table(options.table, options.column)
    elif options.data.is_dir():
        report(options.data, options.write)
    else:
        sys.exit(f"{options.data}: no such folder of run tables; name one with --data, or --table")


if __name__ == "__main__":
    main()

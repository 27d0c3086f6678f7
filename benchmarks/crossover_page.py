"""The page and the picture of `crossover.py`, from its run table alone."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

Arms = list[tuple[str, str]]
"""Arms, each with what its runs are called without their seed; an arm may have several sizes."""


def write_page(table: pd.DataFrame, arms: Arms, out: Path) -> None:
    """Write runs.csv, crossover.png and README.md into `out`, and print the latter."""
    table.to_csv(out / "runs.csv", index=False)
    draw(table, arms, out / "crossover.png")
    page = page_of(table, arms)
    (out / "README.md").write_text(page, "utf-8")
    print(page)


def runs_of(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the rows of all seeds of a kind of run."""
    return table[table["trajectory"].str.rpartition("-s")[0] == kind]


def curve(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return a row for each number of epochs, to a tenth: mean, stderr and seeds of the loss."""
    mine = runs_of(table, kind)
    grouped = mine.groupby(mine["epochs"].round(1))["loss"]
    return grouped.agg(mean="mean", stderr="sem", seeds="size")


def page_of(table: pd.DataFrame, arms: Arms) -> str:
    """Return the page: the lowest loss after each number of epochs, and what each arm chose."""
    first = table.iloc[0]
    lines = [
        "# Autoregression against masked diffusion on text that is read again and again",
        "",
        f"`benchmarks/crossover.py`: {table['unique_tokens'].max():,.0f} unique tokens of corpus "
        f"`{first['corpus']}` (tokenizer `{first['tokenizer']}`), a constant rate, batches of "
        f"{first['batch_tokens']:,} tokens, the same validation windows for all. Losses in nats "
        "per token: mean of the seeds, its standard error, and in brackets how many seeds. **The "
        "autoregressive loss is exact, the diffusion loss a bound**: where diffusion is behind, "
        "part of the gap may be the bound's.",
    ]
    for params in sorted(table["params"].unique()):
        sized = table[table["params"] == params]
        mine = [(arm, kind) for arm, kind in arms if len(runs_of(sized, kind))]
        curves = {arm: curve(sized, kind) for arm, kind in mine}
        lines += ["", f"## {params:,} parameters", ""]
        lines.append(f"| epochs | {' | '.join(curves)} | lowest |")
        lines.append("| --- |" + " --- |" * (len(curves) + 1))
        for epochs in sorted({mark for one in curves.values() for mark in one.index}):
            means = {
                arm: one.loc[epochs, "mean"] for arm, one in curves.items() if epochs in one.index
            }
            lowest = min(means, key=lambda arm: means[arm]) if len(means) > 1 else ""
            cells = [_cell(one, epochs) for one in curves.values()]
            lines.append(f"| {epochs:g} | {' | '.join(cells)} | {lowest} |")
        lines += ["", "| arm | recipe | lowest loss, mean of the seeds' | after epochs |"]
        lines.append("| --- | --- | --- | --- |")
        lines += [_lowest(arm, runs_of(sized, kind)) for arm, kind in mine]
        lines += ["", "All recipes that were tried, lowest loss of seed 0:", ""]
        zero = sized[sized["seed"] == 0]
        for trajectory, loss in zero.groupby("trajectory")["loss"].min().items():
            lines.append(f"- {trajectory}: {loss:.4f}")
    return "\n".join([*lines, ""])


def _cell(one: pd.DataFrame, epochs: float) -> str:
    if epochs not in one.index:
        return ""
    row = one.loc[epochs]
    return f"{_with_error(row['mean'], row['stderr'])} ({row['seeds']:.0f})"


def _with_error(mean: float, stderr: float) -> str:
    # One seed has no standard error.
    return f"{mean:.4f}" if pd.isna(stderr) else f"{mean:.4f} +- {stderr:.4f}"


def lowest_rows(mine: pd.DataFrame) -> pd.DataFrame:
    """Return the lowest observation of each seed whose run reached where the longest turned.

    A run that ended before says nothing of how low it would have come.
    """
    rows = mine.loc[mine.groupby("seed")["loss"].idxmin()].set_index("seed")
    last = mine.groupby("seed")["epochs"].max()
    turned = rows["epochs"][last > 0.99 * last.max()].min()
    return rows.assign(last=last)[last > 0.99 * turned]


def _lowest(arm: str, mine: pd.DataFrame) -> str:
    rows = lowest_rows(mine)
    after = ", ".join(
        f"{epochs:.3g} of {end:.3g}"
        for epochs, end in zip(rows["epochs"], rows["last"], strict=True)
    )
    recipe = rows.iloc[0]
    settings = (
        f"lr {recipe['lr']:g}, decay {recipe['weight_decay']:g}, dropout {recipe['dropout']:g}"
    )
    loss = _with_error(rows["loss"].mean(), rows["loss"].sem())
    return f"| {arm} | {settings} | {loss} | {after} |"


def draw(table: pd.DataFrame, arms: Arms, path: Path) -> None:
    """Draw loss over epochs: the mean of each arm's seeds and its standard error."""
    sizes = sorted(table["params"].unique())
    figure, axes = plt.subplots(1, len(sizes), figsize=(5.2 * len(sizes), 3.8), squeeze=False)
    for params, axis in zip(sizes, axes[0], strict=True):
        sized = table[table["params"] == params]
        for arm, kind in arms:
            one = curve(sized, kind)
            if len(one):
                error = one["stderr"].fillna(0.0)
                axis.errorbar(one.index, one["mean"], error, marker="o", ms=4, label=arm)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("epochs of the unique tokens")
        axis.set_title(f"{params:,} parameters")
        axis.legend()
    axes[0][0].set_ylabel("validation loss, nats per token")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

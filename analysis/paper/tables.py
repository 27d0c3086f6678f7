"""The document's sections on the paper's tables, row by row."""

from analysis.paper.epochs import table3, table4
from analysis.paper.laws import ComputeLaws, table1, table2, table5
from analysis.paper.markup import count, markdown, number, shown
from analysis.reference import constants


def tables_1_2_5(laws: ComputeLaws, figures: str) -> str:
    """Return the sections of tables 1, 2 and 5."""
    first = [
        [row["row"], row["quantity"], *shown(row["cell"])] for _, row in table1(laws).iterrows()
    ]
    head = ["printed", "recomputed", "difference", "allowed", "agrees"]
    second = [[r["params"], r["column"], *shown(r["cell"])] for _, r in table2().iterrows()]
    fifth = table5()
    fifth = fifth[fifth["column"].str.startswith("approach2")]
    rounded = [abs(c.difference) for c in table5("printed")["cell"]]
    rows5 = [[r["params"], r["column"], *shown(r["cell"])] for _, r in fifth.iterrows()]
    k_d = [float(constants("isoflop")["k_D"]), 4.10]
    return f"""## Table 1

Quokka 1 from the 87 runs, Quokka 2 from equation 13 (recovered), Chinchilla 1 from table 2's
Chinchilla columns, Chinchilla 3 from the published E, A, B, alpha, beta. Chinchilla 2 has no rows
to recompute it from. No tolerance beyond the printed digits.

{markdown(["row", "quantity", *head], first)}

Chinchilla 3's exponents follow from alpha = .34 and beta = .28 to .45 and .55; .46 and .54 were
published from unrounded constants. Chinchilla 1's factors belong to a = 1/2 exactly and are met to
.8 %; through the rows of table 2 the power law is a = .498, k_N = .099. "2.2 to
6.7 times larger k_D" is {k_d[1]:.2f}/1.88 = {k_d[1] / 1.88:.2f} and
{k_d[0]:.2f}/1.15 = {k_d[0] / 1.15:.2f}.

## Table 2

C = (N / 0.0216)^(1/0.514) and D = C / 6N, tolerance .3 %. Table 5's columns for this approach are
the same numbers. Table 2's Chinchilla columns are Hoffmann et al.'s: they obey D = C / 6N to their
printed digits, but for 67B, where 5.76e23 FLOPs are 1.43T tokens and 1.5T is printed.

{markdown(["N", "column", *head], second)}

## Table 5

C = 6 (N / G)^(1/a) and D = C / 6N from equation 13 as recovered, tolerance 1.55 %. As printed, its
three digits give up to {100 * max(rounded):.1f} % too little: it was made from unrounded ones.

{markdown(["N", "column", *head], rows5)}

![Best size by each law]({figures}/allocation.svg)"""


def tables_3_4(figures: str) -> str:
    """Return the sections of tables 3 and 4."""
    cells = table3()
    rows = []
    for params, group in cells.groupby("params", sort=False):
        shown = [
            f"{row['cell'].printed} / {row['cell'].recomputed:.2f}"
            + (" †" if row["worse"] else "")
            for _, row in group.iterrows()
        ]
        rows.append([str(params), *shown])
    head = ["N \\ U", *cells["unique_tokens"].unique()]
    rough = [
        c.difference
        for c in table3("printed")["cell"]
        if c.recomputed > 1 and float(c.printed) > 9
    ]
    joint = [
        [
            str(row["unique_tokens"]),
            *[
                f"{row[name].printed} / {number(row[name])} ({100 * row[name].difference:+.1f} %)"
                for name in ("params", "epochs", "flops")
            ],
            f"{100 * row['excess']:.3f} %",
        ]
        for _, row in table4().iterrows()
    ]
    return f"""## Table 3

Epochs at which the loss of equation 15 (recovered) turns up again: the outer stationary point of
ln D' in e where there is one, else 1. Printed / recomputed; {count(cells["cell"])}, with a
tolerance of 5e-5 beyond rounding to whole epochs.

{markdown(head, rows)}

† Here one epoch has the lower loss: the stationary point is a second, worse minimum, and a
recommendation is 1. The law's two minima come from its penalty, whose slope is infinite at e = 1.

As printed, equation 15 is too rounded for this table: in cells above 9 it lies
{-100 * max(rough):.0f} to {-100 * min(rough):.0f} % low.

![Table 3]({figures}/table3.svg)

## Table 4

N and e of the lowest loss for U unique tokens (equation 15 recovered). Printed / recomputed.

{markdown(["U", "N", "epochs", "FLOPs (6 N U e)", "loss given up"], joint)}

*Loss given up* is the law's own loss at the printed N and e over its lowest, less one. The printed
epochs grow by a factor of 1.60 in six of eight steps, N by 2.31 to 2.35 in seven: they look like
cells of a coarse search grid, whose spacing the paper does not state.

![Table 4]({figures}/table4.svg)"""

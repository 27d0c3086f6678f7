"""The document: every printed number beside its recomputation, in Markdown."""

from collections.abc import Mapping

import numpy as np

from analysis.approaches import compare_approaches
from analysis.paper.epochs import table3, table4
from analysis.paper.laws import (
    ComputeLaws,
    allocation,
    natural,
    objective,
    table1,
    table2,
    table5,
)
from analysis.paper.markup import count, markdown
from analysis.paper.tables import tables_1_2_5, tables_3_4
from analysis.reference import constants
from analysis.units import format_quantity

_FORMS = [
    (name, status) for name in ("eq15", "eq21", "eq23") for status in ("printed", "recovered")
]

Measured = Mapping[tuple[str, str], float]


def document(laws: ComputeLaws, measured: Measured | None = None, figures: str = "paper") -> str:
    """Return the document.

    Args:
        laws: recomputed from the 87 runs.
        measured: objectives of equations 15, 21 and 23 on the curves, where they are at hand.
        figures: folder of the figures, relative to the document.
    """
    parts = [
        _head(),
        _summary(laws),
        _isoflop(laws, figures),
        _parametric(laws),
        _side_by_side(laws),
        tables_1_2_5(laws, figures),
        tables_3_4(figures),
        _repeated(measured),
        _not_optimal(laws),
    ]
    return "\n\n".join(parts) + "\n"


def _head() -> str:
    return """# The paper, recomputed

Ni et al., "Training Optimal Large Diffusion Language Models" (arXiv 2510.03280v2): its two compute
laws and its tables 1 to 5, recomputed row by row. `make paper` writes this file and its figures
from `analysis/reference/`: the printed tables, the printed constants, the same constants to more
digits where the paper's drawn curves give them ("recovered"), and the 87 runs of its figure 3.

How to read a row. *Difference* is recomputed over printed, less one. *Allowed* is half a unit of
the last printed digit plus the tolerance that is named above the table. Rows beyond it are marked
**no** and explained."""


def _summary(laws: ComputeLaws) -> str:
    iso, tokens = laws.isoflop.params_law, laws.isoflop.tokens_law
    assert iso is not None
    assert tokens is not None
    cells = table3()
    marked = int(cells["worse"].sum())
    second, fifth = table2()["cell"], table5()["cell"]
    joint = table4()
    valley = float(joint["excess"].max())
    best = objective(laws.runs, laws.fit.law.natural(laws.fit.theta))
    rows = [
        [
            "IsoFLOP law",
            "N = 0.0216 C^0.514, D = 7.7 C^0.486",
            f"N = {iso.factor:.4f} C^{iso.exponent:.3f}, "
            f"D = {tokens.factor:.1f} C^{tokens.exponent:.3f}",
            "to the printed digits (N's factor is .02165)",
        ],
        [
            "parametric law, objective",
            f"{objective(laws.runs, natural('eq13', 'printed')):.3e} (its constants)",
            f"{best:.3e} (the optimum)",
            "equation 13 is not the optimum of equation 11",
        ],
        ["table 1", "", "", count(table1(laws)["cell"])],
        ["table 2", "", "", count(second)],
        ["table 5", "", "", count(fifth)],
        [
            "table 3",
            "",
            "",
            f"{count(cells['cell'])}; in {marked} of them one epoch has the lower loss",
        ],
        [
            "table 4",
            "",
            "",
            f"within 15 %: a flat optimum, where that costs at most {100 * valley:.2g} % of loss",
        ],
    ]
    return "## In short\n\n" + markdown(["what", "printed", "recomputed", "verdict"], rows)


def _isoflop(laws: ComputeLaws, figures: str) -> str:
    iso = laws.isoflop.params_law
    assert iso is not None
    low, high = np.nanpercentile(laws.samples[:, 1], [5.0, 95.0])
    wide = np.nanpercentile(laws.samples[:, 1], [2.5, 97.5])
    drawn = laws.fit.samples
    own = np.percentile(drawn[:, 4] / (drawn[:, 3] + drawn[:, 4]), [5.0, 95.0])
    llada = constants("isoflop")
    size = llada["k_N"] * 1.1e23 ** llada["a"]
    rows = [
        [
            _power(row["flops"]),
            str(int(row["runs"])),
            format_quantity(row["params"], 4),
            format_quantity(row["tokens"], 4),
            f"{row['loss']:.4f}",
        ]
        for _, row in laws.isoflop.minima.iterrows()
    ]
    table = markdown(["C", "runs", "best N", "best D", "loss there"], rows)
    return f"""## The IsoFLOP law

A parabola in ln N for each budget, and power laws through the minima. (The paper calls this its
approach 1; Hoffmann et al. call it approach 2.)

{table}

The paper prints no interval. Runs drawn anew within each budget ({len(laws.samples)} resamples)
give a = {iso.exponent:.4f} [{low:.3f}, {high:.3f}] at 90 %, \
[{wide[0]:.3f}, {wide[1]:.3f}] at 95 %.

Parabolas are biased where sizes spread widely or off the best one. Were the best parametric law
the truth, the same parabolas through its noise-free losses at the same N and D would miss its a by
{laws.bias.exponent:+.4f} and its N_opt at {_power(laws.bias.flops)} FLOPs by
{100 * np.expm1(laws.bias.log_params):+.1f} %: the gap between this a and the parametric law's is
not the parabolas' doing. The parametric law's own interval of a, {own[0]:.3f} to {own[1]:.3f} at
90 %, meets this one's only at its edge.

The paper's check on LLaDA, 1.1e23 FLOPs: printed 15B parameters and 1.2T tokens; its law gives
{format_quantity(size, 4)} and {format_quantity(1.1e23 / 6 / size, 4)}.

![IsoFLOP parabolas and parametric laws]({figures}/isoflop.svg)"""


def _parametric(laws: ComputeLaws) -> str:
    best = laws.fit.law.natural(laws.fit.theta)
    named = [
        ("equation 13, printed", natural("eq13", "printed")),
        ("equation 13, recovered from its curves", natural("eq13", "recovered")),
        ("L-BFGS from equation 13 in A, B themselves", laws.stuck),
        ("optimum of equation 11", best),
    ]
    rows = []
    for name, values in named:
        law = allocation(values)
        rows.append(
            [
                name,
                *[f"{v:.4g}" for v in values[:3]],
                *[f"{v:.4f}" for v in values[3:]],
                f"{law.a:.4f}",
                f"{law.k_n:.4f}",
                f"{law.k_d:.3f}",
                f"{1e4 * objective(laws.runs, values):.2f}",
            ]
        )
    head = ["law", "E", "A", "B", "alpha", "beta", "a", "k_N", "k_D", "objective x 1e4"]
    intervals = ", ".join(
        f"{name} {e.value:.4g} [{e.low:.3g}, {e.high:.3g}]"
        for name, e in laws.fit.parameters.items()
    )
    return f"""## The parametric law

L(N, D) = E + A/N^alpha + B/D^beta, the sum over runs of Huber's loss (threshold 1e-3) of the log
residuals at its lowest (equations 10 and 11).

{markdown(head, rows)}

90 % intervals of the optimum, by bootstrap and curvature: {intervals}."""


def _side_by_side(laws: ComputeLaws) -> str:
    found = compare_approaches(laws.runs, 1e23, fit=laws.fit, bootstrap=len(laws.samples), seed=0)
    return f"""## The approaches side by side

Numbered as by Hoffmann et al.; the paper's approaches 1 and 2 are their 2 and 3. N and D are for
1e23 FLOPs, a hundred times the largest run; intervals are of 90 %, from the runs' own scatter. The
last two columns are what an approach would get wrong if the best parametric law were the truth.

{found.markdown().rstrip()}"""


def _repeated(measured: Measured | None) -> str:
    kept = constants("objective", "measured")
    values = {k: kept[f"{k[0]}_{k[1]}"] for k in _FORMS} if measured is None else measured
    stated = constants("objective")
    rows = [
        [
            f"equation {name[2:]}",
            f"{stated[name]:.2f}",
            f"{values[name, 'printed']:.4g}",
            f"{values[name, 'recovered']:.4g}",
        ]
        for name in stated
    ]
    source = (
        "The curves are not part of this repository; the numbers are those of an earlier run over "
        'them, and `make paper ARGS="--data PATH"` computes them anew.'
        if measured is None
        else "The curves are not part of this repository."
    )
    head = ["law", "objective, printed", "of its printed constants", "of its recovered constants"]
    return f"""## The three laws of repeated data

The paper states an objective for each (its section 4.2 and appendix B). The columns to the right
are the sum of Huber's loss (threshold 1e-3) of log residuals over 22,880 evaluations that were
read from the paper's figures 4, 17, 20 and 22: every second epoch of 48 runs, without those before
step 256 and without second descents. {source}

{markdown(head, rows)}"""


def _not_optimal(laws: ComputeLaws) -> str:
    best = laws.fit.law.natural(laws.fit.theta)
    at = {
        "printed": objective(laws.runs, natural("eq13", "printed")),
        "stuck": objective(laws.runs, laws.stuck),
        "best": objective(laws.runs, best),
    }
    stuck, law = laws.stuck, allocation(best)
    llada = law.k_n * 1.1e23**law.a
    return f"""## Where the printed constants are not the optimum of the stated objective

- **Equation 13.** On the paper's own runs its objective is {at["printed"]:.3e}; the lowest is
  {at["best"]:.3e}. L-BFGS that starts at equation 13 and moves A and B themselves, not their
  logarithms, ends at {at["stuck"]:.3e} with A = {stuck[1]:.1f} and B = {stuck[2]:.1f}: they have
  not moved. That is what a fit in unlogged constants looks like that stopped early. The optimum
  spends compute otherwise: a = {law.a:.3f} in place of .50, so that 1.1e23 FLOPs go to
  {format_quantity(llada)} parameters and {format_quantity(1.1e23 / 6 / llada)} tokens.
- **Equations 15, 21 and 23.** The paper ranks them 15, 23, 21. On the curves that its figures
  draw the ranking is 23, 21, 15, with the recovered constants: by this objective, by Huber's loss
  of the loss itself, by mean squares of either, and with second descents kept. The printed
  objectives are of another size; none of these readings gives them.
- **Equation 21.** Its printed mu, 58e-4, does not give the curve that the paper draws: that needs
  1.58e-4, with natural logarithms. The printed one predicts losses up to 290 on these curves.
- **Equation 15.** Its printed constants are right but too rounded to use: at N = 65M, U = 10M and
  200 epochs they give 4.74, the recovered ones 5.03, as drawn.
- **Table 3.** Five cells (†) hold the worse of two minima."""


def _power(flops: float) -> str:
    return f"{flops:.0e}".replace("e+", "e")

"""Time a fit and 1000 bootstraps of the five-parameter law against other ways to do them.

    python benchmarks/fit.py                      under a minute, one thread
    python benchmarks/fit.py --quick              100 bootstraps, one repeat
    python benchmarks/fit.py --peer PYTHON        an interpreter that has PyPI's `chinchilla`

All fit the same rows with the same objective, the sum of Huber(1e-3) of log residuals, and take
turns; each row is the shortest time of all repeats. The rows are Epoch's 240 from
../shared/data where that exists, else simulated ones of the same shape. SciPy is given analytic
gradients, an objective scaled to about 1, and, for bootstraps, the fit of all rows as its start.
`chinchilla` 0.2.0 (`pip install chinchilla==0.2.0`, best in a venv of its own) has no bootstrap;
it is given a grid of 32 starts, a hundredth of what its README uses. The last line is the ratio.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from analysis.fitting.bootstrap import draw, refit
from analysis.fitting.fit import fit_law
from analysis.fitting.problem import Problem, build_problem
from analysis.fitting.solve import PointFit, fit_point
from analysis.laws.base import FloatArray, get_law
from analysis.laws.response import ResponsePrior
from analysis.runs import read_runs, validate_runs

DELTA = 1e-3
KNOWN = (1.81721810, 477.825868, 2143.41736, 0.347310499, 0.367172433)
KNOWN_OBJECTIVE = 1.0182740178e-3
EPOCH = Path(__file__).parents[2] / "shared" / "data" / "chinchilla_epoch.csv"
SCALE = 1e3
TIGHT = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000, "maxfun": 5000}

PEER = """
import json, sys, tempfile, time
import numpy as np
import pandas as pd
rows = json.load(sys.stdin)
from chinchilla import Chinchilla
def loss(true, predicted):
    r = np.log(true) - np.log(predicted)
    psi = np.clip(r, -1e-3, 1e-3)
    return psi * (r - psi / 2)
with tempfile.TemporaryDirectory() as folder:
    pd.DataFrame(rows).to_csv(folder + "/df.csv", index=False)
    grid = dict(E=[1, 2], a=[2, 9], b=[2, 9], alpha=[0.2, 0.6], beta=[0.2, 0.6])
    cc = Chinchilla(folder, param_grid={k: np.array(v, float) for k, v in grid.items()},
                    loss_fn=loss, log_level=50)
    cc.visualizer.optim = lambda *args, **kwargs: None
    start = time.perf_counter()
    cc.fit(parallel=False)
    seconds = time.perf_counter() - start
    value = float(loss(cc._const["y_true"], cc.predict_loss(*(cc.database.df[c].values
                                                              for c in "ND"))).sum())
print(json.dumps([seconds, value]))
"""


def table() -> tuple[pd.DataFrame, str]:
    """Return the rows to fit and what they are."""
    if EPOCH.is_file():
        runs = read_runs(EPOCH, {"loss": "train_loss"})
        kept = runs[runs["excluded_in_published_fit"] == 0]
        return validate_runs(kept), f"Epoch's table, {len(kept)} rows"
    rng = np.random.default_rng(0)
    e, a, b, alpha, beta = KNOWN
    params = np.exp(rng.uniform(np.log(57e6), np.log(16e9), 240))
    tokens = np.exp(rng.uniform(np.log(1e18), np.log(3e21), 240)) / 6 / params
    tokens = np.clip(tokens, 1e9, 5e12)
    noise = 3e-3 * rng.standard_t(3, 240)
    loss = (e + a / params**alpha + b / tokens**beta) * np.exp(noise)
    runs = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    return validate_runs(runs), "simulated rows (the Epoch table is not here), 240 rows"


class SciPy:
    """L-BFGS-B with analytic gradients, in the same centred coordinates and box."""

    def __init__(self, problem: Problem) -> None:
        self.x, self.z = problem.points.log_params, problem.points.log_tokens
        self.y = problem.log_loss
        self.low, self.high = problem.bounds()

    def objective(self, theta: FloatArray, weights: FloatArray) -> tuple[float, FloatArray]:
        """Return the scaled objective and its gradient."""
        e, a, b, alpha, beta = theta
        u, v = np.exp(a - alpha * self.x - e), np.exp(b - beta * self.z - e)
        share = 1.0 / (1.0 + u + v)
        residual = self.y - e + np.log(share)
        psi = np.clip(residual, -DELTA, DELTA)
        pull = weights * psi * share
        of_u, of_v = pull * u, pull * v
        gradient = [-pull.sum(), -of_u.sum(), -of_v.sum(), of_u @ self.x, of_v @ self.z]
        value = (weights * psi) @ (residual - 0.5 * psi)
        return SCALE * float(value), SCALE * np.array(gradient)

    def descend(
        self, start: FloatArray, weights: FloatArray, options: dict[str, float]
    ) -> tuple[FloatArray, float]:
        """Return where L-BFGS-B ends and the objective there."""
        found = minimize(
            self.objective,
            start,
            args=(weights,),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(self.low, self.high, strict=True)),
            options=options,
        )
        return found.x, float(found.fun) / SCALE

    def from_many_starts(self, count: int = 64) -> tuple[FloatArray, float]:
        """Return the best of random starts over the plausible part of the box."""
        rng = np.random.default_rng(0)
        level = float(self.y.mean())
        low = np.array([level - 1.5, level - 4.0, level - 4.0, 0.1, 0.1])
        high = np.array([level, level, level, 0.9, 0.9])
        ones = np.ones_like(self.y)
        found = [self.descend(rng.uniform(low, high), ones, TIGHT) for _ in range(count)]
        return min(found, key=lambda pair: pair[1])

    def bootstrap(
        self, start: FloatArray, weights: FloatArray, options: dict[str, float]
    ) -> FloatArray:
        """Return the objectives of warm-started refits, [B]."""
        return np.array([self.descend(start, w, options)[1] for w in weights])


def clock(call: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that a call took and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def run_peer(python: str, runs: pd.DataFrame) -> tuple[float, float] | str:
    """Return `chinchilla`'s seconds and objective, or why there are none."""
    flops = 6.0 * runs["params"] * runs["tokens"]
    rows = {"C": flops, "N": runs["params"], "D": runs["tokens"], "loss": runs["loss"]}
    text = json.dumps({k: [float(x) for x in v] for k, v in rows.items()})
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [python, "-W", "ignore", "-c", PEER],
                input=text,
                capture_output=True,
                text=True,
                cwd=folder,
                check=False,
            )
        except OSError as error:
            return f"skipped: {error}"
    if done.returncode != 0:
        return f"skipped: {done.stderr.strip().splitlines()[-1]}"
    seconds, value = json.loads(done.stdout.strip().splitlines()[-1])
    return float(seconds), float(value)


def main() -> None:
    """Measure, print the table, and the ratios last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 bootstraps, one repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", default=sys.executable, help="a Python that has `chinchilla`")
    options = parser.parse_args()
    count = 100 if options.quick else 1000
    repeats = 1 if options.quick else options.repeats

    runs, what = table()
    problem = build_problem(
        runs,
        get_law("chinchilla"),
        law_prior=False,
        fit_response=False,
        lr_prior=None,
        response_prior=ResponsePrior(),
    )
    scipy = SciPy(problem)
    point = fit_point(problem, DELTA)
    draws = draw(problem, count, 0)
    weights = draws.weights(problem, slice(None))
    refit(problem, point, draws)
    peer: tuple[float, float] | str = ""

    seconds: dict[str, float] = {}
    results: dict[str, object] = {}
    work: dict[str, Callable[[], object]] = {
        "fit": lambda: [fit_point(problem, DELTA) for _ in range(5)][-1],
        "bootstrap": lambda: refit(problem, point, draws),
        "all": lambda: fit_law(runs, law="chinchilla", huber_delta=DELTA, bootstrap=count),
        "scipy fit": scipy.from_many_starts,
        "scipy bootstrap": lambda: scipy.bootstrap(point.theta, weights, TIGHT),
        "scipy loose": lambda: scipy.bootstrap(point.theta, weights, {}),
    }
    for turn in range(repeats):
        for name, call in work.items():
            # Ours are short: several goes a turn, so that all are as likely to meet a quiet one.
            for _ in range(1 if name.startswith("scipy") else 5):
                taken, results[name] = clock(call)
                seconds[name] = min(seconds.get(name, np.inf), taken)
        if turn == 0:
            peer = run_peer(options.peer, runs)
    seconds["fit"] /= 5
    report(what, count, seconds, results, peer, point)


def report(
    what: str,
    count: int,
    seconds: dict[str, float],
    results: dict[str, object],
    peer: tuple[float, float] | str,
    point: PointFit,
) -> None:
    """Print the table and the ratios."""
    per_thousand = 1000 / count
    ours, boot = seconds["fit"], seconds["bootstrap"] * per_thousand
    print(f"{what}; Huber {DELTA:g} on log loss; {count} resamples; one thread")
    print(f"{'':46}{'fit':>10}{'x ours':>9}{'1000 boots':>12}{'x ours':>9}{'objective x 1e3':>18}")

    def row(
        name: str, fit: float | None = None, many: float | None = None, value: float | None = None
    ) -> None:
        cells = [f"{name:46}"]
        cells += [f"{1e3 * fit:7.1f} ms{fit / ours:9.1f}"] if fit else [" " * 19]
        cells += [f"{1e3 * many:9.0f} ms{many / boot:9.1f}"] if many else [" " * 21]
        cells += [f"{1e3 * value:18.10f}"] if value else []
        print("".join(cells).rstrip())

    best = results["scipy fit"]
    assert isinstance(best, tuple)
    row("quokka-ray (NumPy), second search included", ours, boot, point.objective)
    row("SciPy L-BFGS-B, 64 starts", seconds["scipy fit"], None, best[1])
    row("  warm, to rounding", None, seconds["scipy bootstrap"] * per_thousand)
    row("  warm, default tolerances", None, seconds["scipy loose"] * per_thousand)
    if isinstance(peer, str):
        print(f"chinchilla (PyPI)  {peer}")
    else:
        row("chinchilla 0.2.0 (PyPI), 32 starts", peer[0], None, peer[1])
        print(f"{'':46}its README's 3125 starts: {peer[0] * 3125 / 32:.0f} s at this pace")
    print(f"fit_law with {count} bootstraps, table to intervals: {1e3 * seconds['all']:.0f} ms")

    found = results["bootstrap"].objective  # type: ignore[attr-defined]
    for name in ("scipy bootstrap", "scipy loose"):
        other = results[name]
        excess = (found - other) / other
        print(
            f"objectives against {name}: ours higher by at most {excess.max():.1e}, lower by at "
            f"most {-excess.min():.1e} (shares of the objective)"
        )
    print(f"global check: {point.global_check}")
    if "Epoch" in what:
        print(f"objective less the known optimum: {point.objective - KNOWN_OBJECTIVE:.1e}")
    print(
        f"ratio: fit {seconds['scipy fit'] / ours:.1f} (SciPy, 64 starts), bootstrap "
        f"{seconds['scipy bootstrap'] / seconds['bootstrap']:.1f} (SciPy, warm)"
    )


if __name__ == "__main__":
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if not single.items() <= os.environ.items():
        # Linear algebra reads these once, when it is loaded.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **single})
    main()

"""When a curve of repeated data is past its minimum, and when it falls again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.errors import RunTableError
from analysis.runs import count_rejected, validate_runs
from analysis.ushape import done_after, mark_second_descents, past_minimum, second_descent

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "quokka_data_constrained.csv"
EPOCHS = 2.0 ** np.arange(0, 10, 0.5)


def curve(rng: np.random.Generator, noise: float, turn: float = 32.0) -> np.ndarray:
    """A U-shape in ln e that is lowest at `turn`, with errors in common and errors of its own."""
    u = 2.5 + 0.05 * np.log(EPOCHS / turn) ** 2
    return u * np.exp(noise * rng.normal(size=EPOCHS.size))


def ends(losses: np.ndarray, errors: np.ndarray) -> int | None:
    """Return how many observations are made before the rule ends the curve."""
    count = done_after(losses.tolist(), errors.tolist())
    shown = [
        past_minimum(losses[:n].tolist(), errors[:n].tolist()) for n in range(losses.size + 1)
    ]
    assert count == (shown.index(True) if any(shown) else None)
    return count


@pytest.mark.parametrize("seed", range(10))
def test_a_curve_ends_after_its_minimum_and_soon_after(seed):
    losses = curve(np.random.default_rng(seed), noise=0.002)
    count = ends(losses, np.full(EPOCHS.size, 0.005))
    assert count is not None
    assert losses[:count].argmin() < count - 2
    assert losses[:count].argmin() == losses.argmin()
    assert 32 < EPOCHS[count - 1] <= 32 * 2**2.5


def test_noise_alone_ends_no_falling_curve():
    falling = 3.0 * EPOCHS**-0.05
    for seed in range(200):
        rng = np.random.default_rng(seed)
        losses = falling * np.exp(0.01 * rng.normal(size=EPOCHS.size))
        assert ends(losses, np.full(EPOCHS.size, 0.03)) is None


def test_one_high_loss_is_not_past_and_a_large_error_is_no_rise():
    assert not past_minimum([3.0, 2.5, 2.6], [0.0, 0.01, 0.01])
    assert past_minimum([3.0, 2.5, 2.6, 2.7], [0.0, 0.01, 0.01, 0.01])
    assert not past_minimum([3.0, 2.5, 2.6, 2.7], [0.0, 0.01, 0.1, 0.1])
    assert not past_minimum([3.0, 2.5, 2.52, 2.54], [0.0, 0.0, 0.0, 0.0])
    assert not past_minimum([2.5, 2.6], [0.0, 0.0], points=2)


@pytest.mark.parametrize("seed", range(5))
def test_a_second_descent_begins_after_the_peak(seed):
    rng = np.random.default_rng(seed)
    up = curve(rng, noise=0.001)
    peak = 16
    losses = np.concatenate([up[:peak], up[peak - 1] - 0.06 * np.arange(1, 6)])
    first = second_descent(losses.tolist(), [0.005] * losses.size)
    assert first == peak
    assert second_descent(up.tolist(), [0.005] * up.size) is None


def test_wiggles_past_the_minimum_are_no_second_descent():
    for seed in range(100):
        losses = curve(np.random.default_rng(seed), noise=0.004)
        assert second_descent(losses.tolist(), [0.01] * losses.size) is None


def test_rows_of_a_second_descent_are_left_out_of_fits_and_counted():
    losses = [3.0, 2.5, 2.8, 3.2, 2.9, 2.6]
    runs = pd.DataFrame(
        {
            "trajectory": "t", "params": 1e5, "unique_tokens": 1e4,
            "tokens": 1e4 * 2.0 ** np.arange(6), "loss": losses, "status": "finished",
        }
    )  # fmt: skip
    marked = mark_second_descents(runs.sample(frac=1, random_state=0)).sort_index()
    assert marked["regime"].isna().tolist() == [True] * 4 + [False] * 2
    assert validate_runs(marked)["loss"].tolist() == losses[:4]
    assert count_rejected(marked) == {"second_descent": 2}
    with pytest.raises(RunTableError, match=r"regime 'third' is unknown in row"):
        validate_runs(marked.assign(regime="third"))


def test_the_paper_curves_that_fall_again_are_found():
    if not DATA.is_file():
        pytest.skip("quokka_data_constrained.csv lies outside the repository, in ../shared/data")
    table = pd.read_csv(DATA).rename(columns={"curve_id": "trajectory", "val_loss": "loss"})
    table = table[table["before_step_256"] == 0]
    marked = mark_second_descents(table)
    ours = marked["regime"].notna().groupby(marked["trajectory"]).any()
    theirs = (marked["after_second_peak"] == 1).groupby(marked["trajectory"]).any()
    assert (ours == theirs).mean() > 0.9
    both = marked["regime"].notna() == (marked["after_second_peak"] == 1)
    assert both.mean() > 0.97

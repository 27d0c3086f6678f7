"""The run table: what is read, derived, and refused."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import RunTableError
from analysis.runs import (
    count_rejected,
    read_runs,
    trajectory_index,
    unique_tokens_of,
    validate_runs,
    write_runs,
)


def table(**columns) -> pd.DataFrame:
    base = {"params": [1e6, 2e6, 4e6], "tokens": [1e8, 2e8, 3e8], "loss": [4.0, 3.8, 3.5]}
    return pd.DataFrame({**base, **columns})


def test_tokens_come_from_flops_or_from_epochs():
    runs = table(flops=[6e14, 2.4e15, 7.2e15]).drop(columns="tokens")
    np.testing.assert_allclose(validate_runs(runs)["tokens"], [1e8, 2e8, 3e8])
    runs = table(epochs=[1.0, 2.0, 3.0], unique_tokens=[1e8] * 3).drop(columns="tokens")
    found = validate_runs(runs)
    np.testing.assert_allclose(found["tokens"], [1e8, 2e8, 3e8])
    np.testing.assert_allclose(found["flops"], 6 * found["params"] * found["tokens"])


def test_cells_are_derived_one_by_one():
    runs = table(tokens=[1e8, np.nan, 3e8], flops=[np.nan, 2.4e15, np.nan])
    found = validate_runs(runs)
    np.testing.assert_allclose(found["tokens"], [1e8, 2e8, 3e8])
    np.testing.assert_allclose(found["flops"], [6e14, 2.4e15, 7.2e15])


def test_exact_flops_are_not_inverted_to_tokens():
    runs = table(flops=[1e15] * 3, flops_convention="exact").drop(columns="tokens")
    with pytest.raises(RunTableError, match="tokens are missing"):
        validate_runs(runs)


def test_the_callers_table_is_left_alone():
    runs = table(tokens=["1e8", "2e8", "3e8"])
    before = runs.copy()
    validate_runs(runs)
    pd.testing.assert_frame_equal(runs, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_loss_that_is_none_names_its_row(value):
    runs = table(loss=[4.0, value, 3.5], trajectory=["a", "b", "c"])
    with pytest.raises(RunTableError, match=r"loss must be finite.*row 2 \(b\)"):
        validate_runs(runs)


@pytest.mark.parametrize("column", ["params", "tokens"])
def test_counts_below_or_at_zero_are_refused(column):
    with pytest.raises(RunTableError, match=f"{column} must be above 0.*row 1"):
        validate_runs(table(**{column: [0.0, 1e8, 1e8]}))


def test_a_column_in_billions_is_refused():
    with pytest.raises(RunTableError, match=r"tokens is 1\.4.*multiply"):
        validate_runs(table(tokens=[1.4, 3.0, 30.0]))
    with pytest.raises(RunTableError, match="another unit"):
        validate_runs(table(flops=[0.6, 2.4, 7.2]))


def test_the_same_observation_twice_is_refused_but_replicates_are_not():
    with pytest.raises(RunTableError, match=r"more than once.*rows 1 \(t@1\), 3 \(t@1\)"):
        validate_runs(table(observation=["t@1", "t@2", "t@1"]))
    same = {"trajectory": ["t", "t", "u"], "tokens": [1e8, 1e8, 1e8]}
    with pytest.raises(RunTableError, match="more than once"):
        validate_runs(table(**same))
    assert len(validate_runs(table(params=[1e6] * 3, tokens=[1e8] * 3))) == 3


@pytest.mark.parametrize(
    "column", ["evaluator", "kernel", "corpus", "tokenizer", "seq_len", "params_convention"]
)
def test_mixtures_are_refused_with_the_rows_of_the_fewer(column):
    values = [64, 64, 128] if column == "seq_len" else ["x", "x", "y"]
    with pytest.raises(RunTableError, match=f"mix 2 values of '{column}'.*row 3"):
        validate_runs(table(**{column: values}))


def test_cooled_with_uncooled_rows_are_refused():
    with pytest.raises(RunTableError, match="cooled"):
        validate_runs(table(cooled=[True, False, True]))


def test_unfinished_rows_are_left_out_before_values_are_checked():
    runs = table(loss=[4.0, np.nan, 3.5], status=["finished", "diverged", "finished"])
    assert len(validate_runs(runs)) == 2
    assert count_rejected(runs) == {"diverged": 1}
    with pytest.raises(RunTableError, match="status 'done' is unknown"):
        validate_runs(table(status=["finished", "done", "finished"]))


def test_missing_columns_name_the_remedy():
    with pytest.raises(RunTableError, match=r"no column 'loss'.*val_loss.*--column loss="):
        validate_runs(table().rename(columns={"loss": "val_loss"}))


def test_text_where_a_number_belongs_is_refused():
    with pytest.raises(RunTableError, match=r"'loss' must hold numbers.*row 2.*'n/k'"):
        validate_runs(table(loss=["4.0", "n/k", "3.5"]))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_come_back_as_written(tmp_path, suffix):
    runs = table(trajectory=["a", "b", "c"], lr=[1e-3, 2e-3, 1 / 3])
    write_runs(runs, tmp_path / f"runs{suffix}")
    pd.testing.assert_frame_equal(read_runs(tmp_path / f"runs{suffix}"), runs)
    assert [p.name for p in tmp_path.iterdir()] == [f"runs{suffix}"]


def test_several_files_join_and_columns_are_renamed(tmp_path):
    for name in ("a.csv", "b.csv"):
        table().rename(columns={"loss": "val"}).to_csv(tmp_path / name, index=False)
    found = read_runs([tmp_path / "a.csv", tmp_path / "b.csv"], {"loss": "val"})
    assert len(found) == 6
    assert found["loss"].iloc[-1] == 3.5


def test_a_renamed_column_replaces_the_one_of_that_name(tmp_path):
    table(val=[1.0, 2.0, 3.0]).to_csv(tmp_path / "a.csv", index=False)
    assert list(read_runs(tmp_path / "a.csv", {"loss": "val"})["loss"]) == [1.0, 2.0, 3.0]


def test_unreadable_files_and_unknown_columns_are_refused(tmp_path):
    with pytest.raises(RunTableError, match="no such file"):
        read_runs(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(RunTableError, match="not a readable run table"):
        read_runs(tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("params,tokens,loss\n")
    with pytest.raises(RunTableError, match="no rows"):
        read_runs(tmp_path / "header.csv")
    (tmp_path / "binary.parquet").write_bytes(b"\x00\xff\x00")
    with pytest.raises(RunTableError, match="not a readable run table"):
        read_runs(tmp_path / "binary.parquet")
    table().to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(RunTableError, match="no column 'val'"):
        read_runs(tmp_path / "a.csv", {"loss": "val"})
    with pytest.raises(RunTableError, match="knows"):
        read_runs(tmp_path / "a.csv", {"lossy": "loss"})


def test_rows_without_a_trajectory_stand_alone():
    runs = table(trajectory=["a", None, "a"])
    assert list(trajectory_index(runs)) == [0, 1, 0]
    assert list(trajectory_index(table())) == [0, 1, 2]


def test_a_studys_folder_and_a_compressed_table_are_read(tmp_path):
    (tmp_path / "study").mkdir()
    table().to_csv(tmp_path / "study" / "runs.csv", index=False)
    table().to_csv(tmp_path / "runs.csv.gz", index=False)
    for path in (tmp_path / "study", tmp_path / "runs.csv.gz"):
        pd.testing.assert_frame_equal(read_runs(path), table())


def test_epochs_may_be_rounded_and_unique_tokens_may_exceed_tokens():
    runs = table(unique_tokens=[3e7, 6e7, 9e8], epochs=[3.33, 3.33, 0.33])
    assert len(validate_runs(runs, for_fit=True)) == 3


def test_unique_tokens_that_are_unknown_are_the_tokens():
    assert unique_tokens_of(table()) is None
    assert unique_tokens_of(table(unique_tokens=np.nan)) is None
    found = unique_tokens_of(table(unique_tokens=[1e7, np.nan, 2e7]))
    assert list(found) == [1e7, 2e8, 2e7]

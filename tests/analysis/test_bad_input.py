"""Whatever a table has wrong, `fit` refuses it in words or names what it leaves undecided."""

import json

import numpy as np
import pandas as pd
import pytest
from laboratory import observe, scattered, untuned

from analysis.cli import main


def good(count: int = 24) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    params, tokens = scattered(count, rng)
    return observe(np.round(params), np.round(tokens), rng)


def text_cells(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({"params": "int64", "tokens": "int64"}).astype("object")


def changed(**columns) -> pd.DataFrame:
    return good().assign(**columns)


def cell(column: str, value: object, row: int = 2) -> pd.DataFrame:
    table = text_cells(good())
    table.loc[row, column] = value
    return table


def one_line() -> pd.DataFrame:
    table = good()
    params = np.geomspace(1e3, 1e5, len(table))
    return observe(params, 1e11 / 6 / params, np.random.default_rng(1))


def with_epochs() -> pd.DataFrame:
    table = good()
    epochs = (table["tokens"] / 1e4).round(2)
    epochs.iloc[4] *= 1.02
    return table.assign(unique_tokens=1e4, epochs=epochs)


REFUSED = {
    "no loss in a cell": (cell("loss", None), 2, r"loss must be finite.*row 3"),
    "NaN": (cell("loss", "nan"), 2, r"loss must be finite.*row 3"),
    "infinite": (cell("loss", "inf"), 2, r"loss must be finite.*row 3"),
    "zero loss": (cell("loss", 0), 2, r"finite and positive.*row 3"),
    "two rows": (good(2), 5, r"2 finished runs are too few"),
    "one size": (changed(params=1e5), 5, r"same model size"),
    "one number of tokens": (changed(tokens=1e8), 5, r"same number of tokens"),
    "ten evaluators": (
        changed(evaluator=[f"e{i % 10}" for i in range(24)]),
        2,
        r"cannot mix 10 values of 'evaluator'",
    ),
    "tokens in billions": (
        good().assign(tokens=lambda t: t["tokens"] / 1e9),
        2,
        r"tokens is .*looks like millions or billions",
    ),
    "tokens in billions, flops known": (
        good().assign(
            flops=lambda t: 6 * t["params"] * t["tokens"], tokens=lambda t: t["tokens"] / 1e9
        ),
        2,
        r"multiply the column by 1e9",
    ),
    "tokens in millions": (
        pd.DataFrame(
            {
                "params": np.geomspace(1e8, 1e10, 24),
                "tokens": np.geomspace(2e4, 3e5, 24),
                "loss": np.linspace(3, 2, 24),
            }
        ),
        2,
        r"fewer than 0\.1 tokens per parameter.*multiply the column so that it counts tokens",
    ),
    "a grid's tokens in millions": (
        pd.DataFrame(
            {
                "params": np.tile(np.geomspace(7e6, 1e10, 8), 3),
                "tokens": np.repeat([3e12, 3e13, 3e14], 8)
                / np.tile(np.geomspace(7e6, 1e10, 8), 3),
                "loss": np.linspace(4, 2, 24),
            }
        ),
        2,
        r"fewer than 0\.1 tokens per parameter",
    ),
    "params in millions": (
        pd.DataFrame(
            {
                "params": np.geomspace(100, 9000, 24),
                "tokens": np.geomspace(1e10, 3e11, 24),
                "loss": np.linspace(3, 2, 24),
            }
        ),
        2,
        r"params look like thousands or millions",
    ),
    "flops in EFLOPs": (
        good().assign(flops=lambda t: 6e-18 * t["params"] * t["tokens"]).drop(columns="tokens"),
        2,
        r"flops is .*another unit",
    ),
    "flops in GFLOPs": (
        good().assign(
            params=lambda t: t["params"] * 1e4,
            tokens=lambda t: t["tokens"] * 1e4,
            flops=lambda t: 6e-9 * t["params"] * t["tokens"],
        ),
        2,
        r"the column flops is in another unit, too small by a factor of about 1e9",
    ),
    "tokens off by a million, none below 50": (
        pd.DataFrame(
            {
                "params": np.geomspace(1e4, 1e6, 24),
                "tokens": np.geomspace(2e4, 3e5, 24),
                "flops": 6e6 * np.geomspace(1e4, 1e6, 24) * np.geomspace(2e4, 3e5, 24),
                "loss": np.linspace(3, 2, 24),
            }
        ),
        2,
        r"too small by a factor of about 1e6",
    ),
    "perplexity": (
        good().assign(loss=lambda t: np.exp(t["loss"] + 2)),
        2,
        r"every loss is above 30.*perplexity",
    ),
    "text": (cell("loss", "good"), 2, r"'loss' must hold numbers.*row 3 \(such as 'good'\)"),
    "separators of thousands": (cell("tokens", "1,000,000"), 2, r"row 3.*write 1000000"),
    "decimal comma": (cell("loss", "3,21"), 2, r"row 3.*point as a point: 3\.21"),
    "unit in the loss": (cell("loss", "3M"), 2, r"'loss' must hold numbers.*row 3"),
    "negative tokens": (cell("tokens", -5), 2, r"tokens must be above 0.*row 3"),
    "negative learning rate": (changed(lr=-1e-3), 2, r"lr must be above 0 where it is given"),
    "epochs beside tokens / U": (
        with_epochs(),
        2,
        r"epochs are not tokens / unique_tokens.*row 5",
    ),
    "no tokens at all": (good().drop(columns="tokens"), 2, r"tokens are missing"),
    "no such column": (good().rename(columns={"loss": "nll_loss"}), 2, r"--column loss=nll_loss"),
    "unknown status": (changed(status="done"), 2, r"status 'done' is unknown"),
    "nothing finished": (changed(status="failed"), 2, r"no row has status 'finished'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_fitted_is_refused(name, tmp_path, capsys):
    table, code, message = REFUSED[name]
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    assert main(["fit", str(path), "--bootstrap", "20", "--out", str(tmp_path / "law")]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert pd.Series([printed.err]).str.contains(message).all(), printed.err
    assert not (tmp_path / "law").exists()


CSV = good().to_csv(index=False)
LONG_ROWS = CSV.replace("\n", ",1\n").replace(",1\n", "\n", 1)
FILES = {
    "empty": (b"", 2, "the file is empty"),
    "blank": (b"\n \n", 2, "the file is empty"),
    "a header only": (b"params,tokens,loss\n", 2, "the table has no rows"),
    "UTF-16 with its mark": (CSV.encode("utf-16"), 0, ""),
    "UTF-16 without its mark": (CSV.encode("utf-16-le"), 2, "NUL characters, as in UTF-16"),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + CSV.encode(), 0, ""),
    "Latin-1": (
        CSV.replace("loss", "loss,\u00e9tude").encode("latin-1"),
        2,
        "line 1 holds a byte (0xe9) that is no UTF-8",
    ),
    "semicolons": (CSV.replace(",", ";").encode(), 0, ""),
    "tabs": (CSV.replace(",", "\t").encode(), 0, ""),
    "a workbook": (b"PK\x03\x04rest", 2, "a workbook or an archive"),
    "a column twice": (
        CSV.replace("params", "loss", 1).encode(),
        2,
        "the header names 'loss' more than once",
    ),
    "a cell too many": (LONG_ROWS.encode(), 2, "not a readable run table"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_people_save_them_are_read_or_refused(name, tmp_path, capsys):
    content, code, message = FILES[name]
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    assert main(["fit", str(path), "--bootstrap", "20"]) == code
    assert message in capsys.readouterr().err


def test_a_parquet_that_is_none_is_refused_and_one_by_another_name_is_read(tmp_path, capsys):
    path = tmp_path / "runs.parquet"
    path.write_text(CSV)
    assert main(["fit", str(path), "--bootstrap", "20"]) == 2
    assert "it looks like text: name it .csv" in capsys.readouterr().err
    path.write_bytes(b"PAR1\0\0")
    assert main(["fit", str(path)]) == 2
    assert "not a readable run table" in capsys.readouterr().err
    good().to_parquet(tmp_path / "runs.csv", index=False)
    assert main(["fit", str(tmp_path / "runs.csv"), "--bootstrap", "20"]) == 0


def test_cells_with_units_fit_as_their_numbers_do(tmp_path, capsys):
    table = good()
    plain, units = tmp_path / "plain.csv", tmp_path / "units.csv"
    table.to_csv(plain, index=False)
    in_units = table.assign(
        params=(table["params"] / 1e3).map(repr) + "k",
        tokens=(table["tokens"] / 1e6).map(repr) + " M",
    )
    in_units.to_csv(units, index=False)
    answers = []
    for path in (plain, units):
        assert main(["fit", str(path), "--bootstrap", "20", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["parameters"])
    for name, expected in answers[0].items():
        assert answers[1][name]["value"] == pytest.approx(expected["value"], rel=1e-6)


@pytest.mark.parametrize(
    ("table", "warning", "parameter"),
    [
        (one_line(), "all runs lie on one IsoFLOP line", "E"),
        (untuned(5, 3).drop(columns=["lr", "lr_schedule"]), "do not identify", "alpha"),
        (
            good().assign(tokens=lambda t: 20 * t["params"]),
            "nearly the same tokens per parameter",
            "A",
        ),
    ],
    ids=["one IsoFLOP line", "five runs", "one ratio"],
)
def test_what_a_poor_table_does_not_identify_is_named(table, warning, parameter, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    assert main(["fit", str(path), "--bootstrap", "50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert any(warning in w for w in document["warnings"])
    assert not document["parameters"][parameter]["identified"]
    assert main(["fit", str(path), "--bootstrap", "50"]) == 0
    page = capsys.readouterr().out
    assert "## Read this first" in page
    assert "**no**" in page


def test_rows_without_names_that_repeat_are_replicates_and_copies_are_pointed_out(
    tmp_path, capsys
):
    path = tmp_path / "runs.csv"
    pd.concat([good(), good().head(2)]).to_csv(path, index=False)
    assert main(["fit", str(path), "--bootstrap", "50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"]["count"] == len(good()) + 2
    assert any("2 rows equal another in every column" in w for w in document["warnings"])

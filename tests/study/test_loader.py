"""Study files: precedence, provenance, and what is said when they are wrong."""

from pathlib import Path

import pytest

from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.loader import dump_study, load_study

BASE = """
name: base
search: {params: {low: 1k, high: 1M}, run_flops: {low: 1e9, high: 1e11}}
budget: {flops: 1e12}
target: {flops: 1e18}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def load(source: Path, *overrides: str, **environ: str) -> StudyConfig:
    return load_study([source], overrides, environ)


def complaint(source: Path | str, *overrides: str, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_study([source], overrides, environ)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_quantities_carry_units_and_defaults_fill_the_rest(base: Path) -> None:
    study = load(base)
    assert study.search.params.high == 1e6
    assert study.target.flops == 1e18
    assert study.corpus.source == "python-stdlib"


def test_later_layers_win(base: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("budget: {flops: 2e12}\nseed: 2\nmodel: {seq_len: 32}\n")
    study = load_study(
        [base, second],
        ["seed=4"],
        {"QUOKKA_RAY__SEED": "3", "QUOKKA_RAY__MODEL__SEQ_LEN": "64", "OTHER": "x"},
    )
    assert (study.budget.flops, study.model.seq_len, study.seed) == (2e12, 64, 4)
    assert study.name == "base"


def test_extends_is_relative_to_the_file_that_says_it(base: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    child = tmp_path / "inner" / "child.yaml"
    child.write_text("extends: ../base.yaml\nname: child\n")
    grandchild = tmp_path / "grandchild.yaml"
    grandchild.write_text("extends: [inner/child.yaml]\nseed: 7\n")
    study = load(grandchild)
    assert (study.name, study.seed, study.budget.flops) == ("child", 7, 1e12)


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "a.yaml -> b.yaml -> a.yaml" in complaint(tmp_path / "a.yaml")


def test_a_corpus_string_swaps_the_text_and_keeps_the_tokenizer(base: Path) -> None:
    base.write_text(BASE + "corpus: {source: files, paths: [a, b], tokenizer: t.json, seed: 3}\n")
    corpus = load(base, "corpus=../books/*.parquet").corpus
    assert (corpus.source, corpus.paths) == ("files", ("../books/*.parquet",))
    assert (corpus.tokenizer, corpus.seed) == ("t.json", 3)
    assert load(base, "corpus=hub:org/name").corpus.dataset == "org/name"
    assert load(base, "corpus=*.txt").corpus.paths == ("*.txt",)
    assert load(base, "corpus=python-stdlib", "corpus.seed=5").corpus.seed == 5


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("serach.params.low=3", "search.params.low"),
        ("search.parms={low: 1, high: 2}", "search.params"),
        ("lr=3", "training.lr"),
        ("corpus.text=body", "corpus.text_column"),
        ("search.flops=1e9", "search.run_flops"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    base: Path, override: str, nearest: str
) -> None:
    said = complaint(base, override)
    assert f"--set {override}: {override.partition('=')[0]}" in said
    assert f"did you mean `{nearest}`" in said


def test_each_problem_has_one_line_with_its_origin(base: Path) -> None:
    base.write_text(BASE + "seed: often\nmodle: {seq_len: 3}\n")
    said = complaint(base, "law.huber_delta=x", QUOKKA_RAY__BUDGET__FLOPS="-1").splitlines()
    assert len(said) == 4
    assert any(line.startswith(f"{base}: seed: should be a valid integer") for line in said)
    assert any(line.startswith(f"{base}: modle.seq_len: unknown key") for line in said)
    assert any("environment QUOKKA_RAY__BUDGET__FLOPS: budget.flops" in line for line in said)
    assert any("law.huber_delta: should be 'auto' or should be" in line for line in said)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budget.flops=[1]", "[1] is not a quantity"),
        ("search.unique_tokens=1.5", "1.5 is not a whole number"),
        ("search.params.low=1G", "low (1e+09) is above high (1e+06)"),
        ("model.init_std=.inf", "should be a finite number, not inf"),
        ("search=3", "should be a section with keys, not 3"),
        ("model.seq_len.deep=3", "should be a valid integer"),
        ("name=a/b", "should match pattern"),
        ("budget.flops", "write section.key=value"),
        ("corpus={source: files}", "source 'files' needs paths"),
        ("budget={flops: 1, flops: 2}", "the key 'flops' stands twice"),
    ],
)
def test_a_wrong_value_says_what_was_expected(base: Path, override: str, said: str) -> None:
    assert said in complaint(base, override)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "thin.yaml"
    path.write_text("name: thin\n")
    assert f"{path}: budget: must be set" in complaint(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "line 2, column 1: the key 'name' stands twice"),
        ("name: [a\n", "line 2"),
        ("- a\n", "holds sections"),
        ("1: a\n", "keys are names"),
        ("name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: &x {b: *x}\n", "recursive"),
        ("extends: {a: b}\n", "extends: should be a file name"),
        ("extends: nowhere.yaml\n", "nowhere.yaml does not exist"),
    ],
)
def test_a_file_that_does_not_parse_names_file_and_line(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    message = complaint(path)
    assert message.startswith(str(path))
    assert said in message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert "not UTF-8 at byte 9" in complaint(path)


def test_a_bare_name_is_looked_up_in_search_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "mine.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    assert load_study(["mine"], environ={}).name == "base"
    assert "did you mean mine?" in complaint("minee")


def test_a_dump_reads_back_equal(base: Path, tmp_path: Path) -> None:
    study = load(
        base,
        "corpus=../books/ü*.parquet",
        "search.unique_tokens=20M",
        "search.lr_schedule=[wsd, cosine]",
        "law.huber_delta=1e-3",
        "training.lr=0.1",
        "corpus.cache=/tmp/x",
    )
    (tmp_path / "dump.yaml").write_text(dump_study(study), encoding="utf-8")
    assert load(tmp_path / "dump.yaml") == study


def test_schedules_that_no_single_law_holds_for_are_refused_together(base: Path) -> None:
    assert load(base, "search.lr_schedule=[wsd, cosine]").search.lr_schedule == ("wsd", "cosine")
    assert "no law holds for both" in complaint(base, "search.lr_schedule=[wsd, constant]")

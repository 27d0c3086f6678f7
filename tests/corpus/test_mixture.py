"""Mixtures: exact shares over any stretch, and every part's own prefix and epochs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus.making import config, words, write
from hypothesis import given, settings
from hypothesis import strategies as st

from quokka_ray.corpus import TokenCorpus, WindowOrder, prepare, remote
from quokka_ray.corpus.mixture import MixtureCorpus
from quokka_ray.corpus.turns import RESOLUTION, MixtureOrder, pattern, share_bounds, shares
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import CorpusConfig

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6).map(tuple)


@settings(max_examples=25, deadline=None)
@given(WEIGHTS)
def test_any_stretch_from_the_start_has_exact_shares_within_a_window(
    weights: tuple[float, ...],
) -> None:
    parts = shares(weights)
    assert sum(parts) == RESOLUTION
    exact = np.array(weights) / sum(weights)
    assert np.abs(np.array(parts) / RESOLUTION - exact).max() <= len(parts) / RESOLUTION
    turns = pattern(parts)
    had = (turns[None, :] == np.arange(len(parts))[:, None]).cumsum(axis=1)
    due = np.outer(parts, np.arange(1, len(turns) + 1)) / RESOLUTION
    assert np.abs(had - due).max() < 1
    np.testing.assert_allclose(had[:, -1], due[:, -1])  # so the pattern may repeat


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1, 100)), min_size=2, max_size=6),
    st.integers(0, 2**32),
)
def test_no_weights_within_their_ranges_give_a_share_outside_its_bounds(
    drawn: list[tuple[float, float]], seed: int
) -> None:
    ranges = [(low, low * ratio) for low, ratio in drawn]
    bounds = share_bounds(ranges)
    rng = np.random.default_rng(seed)
    corners = [
        tuple(high if place == number else low for place, (low, high) in enumerate(ranges))
        for number in range(len(ranges))
    ]
    inside = tuple(low * (high / low) ** rng.uniform() for low, high in ranges)
    for weights in (inside, *corners):
        for part, (fewest, most) in zip(shares(weights), bounds, strict=True):
            assert fewest <= part <= most


def test_plain_weights_have_short_patterns() -> None:
    assert len(pattern(shares((0.7, 0.3)))) == 10
    assert len(pattern(shares((1.0, 1.0)))) == 2
    assert shares((2.0, 0.0, 2.0)) == (5000, 0, 5000)


@settings(max_examples=40, deadline=None)
@given(
    WEIGHTS,
    st.integers(0, 5000),
    st.integers(1, 60),
    st.lists(st.integers(3, 40), min_size=6, max_size=6),
)
def test_any_cut_of_the_stream_gives_every_part_its_own_stream(
    weights: tuple[float, ...], first: int, count: int, sizes: list[int]
) -> None:
    parts = shares(weights)
    # Part p's tokens are 1000 p and up, so a window shows where it comes from.
    orders = [
        WindowOrder(np.arange(4 * size) + 1000 * number, 4, seed=number)
        for number, size in zip(range(len(parts)), sizes, strict=False)
    ]
    mixture = MixtureOrder(orders, parts)
    rows = mixture.batch(first, count)
    cut = count // 2
    pieces = [mixture.batch(first, cut), mixture.batch(first + cut, count - cut)]
    np.testing.assert_array_equal(np.concatenate(pieces), rows)
    before, after = mixture.taken(first), mixture.taken(first + count)
    assert after.sum() == first + count
    for number, order in enumerate(orders):
        own = rows[rows[:, 0] // 1000 == number]
        assert len(own) == after[number] - before[number]
        np.testing.assert_array_equal(own, order.batch(int(before[number]), len(own)))


Mix = Callable[..., CorpusConfig]


@pytest.fixture
def mix(tmp_path: Path) -> Mix:
    for number, name in enumerate("ab"):
        write(tmp_path / f"{name}.jsonl", [f"{name} {text}" for text in words(150, number)])

    def made(
        first: float, second: float, validation: float | None = None, **keys: object
    ) -> CorpusConfig:
        parts = [
            {
                "source": "files",
                "paths": [str(tmp_path / f"{name}.jsonl")],
                "weight": weight,
                **({} if validation is None else {"validation_weight": validation}),
            }
            for name, weight in zip("ab", (first, second), strict=True)
        ]
        section = {"cache": str(tmp_path / "cache"), "validation_fraction": 0.2, "mixture": parts}
        return CorpusConfig.model_validate({**section, **keys})

    return made


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> MixtureCorpus:
    folder = tmp_path_factory.mktemp("corpora")
    parts = [
        {
            "source": "files",
            "paths": [str(write(folder / f"{name}.jsonl", words(150, number)))],
            "weight": 1,
        }
        for number, name in enumerate("ab")
    ]
    section = {"cache": str(folder / "cache"), "validation_fraction": 0.2, "mixture": parts}
    return opened(CorpusConfig.model_validate(section))


def opened(made: CorpusConfig) -> MixtureCorpus:
    corpus = TokenCorpus.open(prepare(made))
    assert isinstance(corpus, MixtureCorpus)
    return corpus


def test_other_weights_prepare_nothing_again(mix: Mix) -> None:
    said: list[str] = []
    first = prepare(mix(0.7, 0.3), progress=said.append)
    assert len([line for line in said if "prepared" in line]) == 2
    said.clear()
    second = prepare(mix(0.5, 0.5), progress=said.append)
    assert not said
    assert first != second
    assert sum(path.stat().st_size for path in second.iterdir()) < 10_000
    assert "70.00% of training, 70.00% of validation" in (first / "README.md").read_text()
    corpora = [TokenCorpus.open(path) for path in (first, second)]
    assert corpora[0].hash != corpora[1].hash


def test_a_mixture_is_reweighted_in_memory_and_reads_what_one_of_these_weights_reads(
    mix: Mix, tmp_path: Path
) -> None:
    def cached() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file()}

    base = opened(mix(0.7, 0.3, 0.5))
    made = opened(mix(0.2, 0.8, 0.5))
    before = cached()
    other = base.reweighted((0.2, 0.8))
    assert cached() == before
    assert other.train_tokens == made.train_tokens != base.train_tokens
    assert other.parts[0].train is base.parts[0].train
    rows = [one.window_order(2000, 16, 1).batch(0, 60) for one in (other, made)]
    np.testing.assert_array_equal(*rows)
    # What a loss is measured on stays, and so does what the corpus says it is.
    windows = [one.validation_windows(16, 20, 0) for one in (other, base)]
    np.testing.assert_array_equal(*windows)
    assert (other.hash, other.validation_hash) == (base.hash, base.validation_hash)
    with pytest.raises(ConfigurationError, match="is no mixture"):
        base.parts[0].reweighted((1, 1))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 20), st.floats(1, 20), st.floats(0, 1))
def test_tokens_within_ranges_are_there_at_every_weight(
    corpora: MixtureCorpus, low: float, ratio: float, place: float
) -> None:
    ranges = [(low, low * ratio), (1.0, 1.0)]
    tokens = corpora.train_tokens_within(ranges, 4)
    reweighted = corpora.reweighted((low * ratio**place, 1.0))
    assert tokens <= reweighted.train_tokens
    reweighted.window_order(tokens, 4, 0)
    # And they are not many fewer than at the end that allows fewest.
    ends = [corpora.reweighted((weight, 1.0)).train_tokens for weight in ranges[0]]
    assert tokens > 0.98 * min(ends)


def test_ranges_that_a_part_is_too_short_for_are_refused_with_the_part(
    corpora: MixtureCorpus,
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"highest share of 9.\.\d% files-\w+ has no more"
    ):
        corpora.train_tokens_within([(1, 30), (1, 1)], 16, corpora.train_tokens)
    with pytest.raises(ConfigurationError, match=r"lowest share of .*no window of 16; raise"):
        corpora.train_tokens_within([(0.001, 1), (1, 1)], 16, 4000)


def test_prefixes_of_a_mixture_nest_part_by_part(mix: Mix) -> None:
    corpus = opened(mix(0.7, 0.3))
    tokens = corpus.train_tokens
    assert tokens == min(
        corpus.parts[0].train_tokens * 10 // 7, corpus.parts[1].train_tokens * 10 // 3
    )

    def windows(unique_tokens: int) -> set[bytes]:
        order = corpus.window_order(unique_tokens, 16, seed=0)
        return {row.tobytes() for row in order.batch(0, order.windows)}

    small, large = windows(tokens // 3), windows(tokens)
    # What is read around a part's end of an epoch is not the same windows.
    assert len(small - large) <= 4
    first_letters = np.array([np.frombuffer(row, dtype=np.int64)[0] for row in large])
    assert len(first_letters) > 100


def test_a_mixture_that_is_too_short_names_the_part(mix: Mix) -> None:
    corpus = opened(mix(0.99, 0.01))
    with pytest.raises(ConfigurationError, match=r"files-\w+ has no more; lower search"):
        corpus.window_order(corpus.train_tokens + 1, 16, 0)
    with pytest.raises(ConfigurationError, match=r"make no window of 16"):
        corpus.window_order(1000, 16, 0)
    with pytest.raises(ConfigurationError, match="the validation split is too short"):
        corpus.validation_windows(16, 100_000, 0)


def test_validation_has_shares_of_its_own(mix: Mix) -> None:
    made = mix(0.9, 0.1).model_dump(exclude_unset=True)
    for part, weight in zip(made["mixture"], (0.5, 0.5), strict=True):
        part["validation_weight"] = weight
    corpus = opened(CorpusConfig.model_validate(made))
    rows = corpus.validation_windows(16, 40, seed=0)
    np.testing.assert_array_equal(corpus.validation_windows(16, 20, seed=0), rows[:20])
    own = [part.validation_windows(16, 20, seed=0) for part in corpus.parts]
    found = {row.tobytes() for row in rows}
    assert found == {row.tobytes() for part in own for row in part}
    # Losses compare between weights, since the evaluated text is the same.
    made["mixture"][0]["weight"] = 0.3
    other = opened(CorpusConfig.model_validate(made))
    assert other.validation_hash == corpus.validation_hash
    assert other.hash != corpus.hash


def test_validation_of_one_part_in_the_training_of_another_is_refused(
    mix: Mix, tmp_path: Path
) -> None:
    common = [f"common {text}" for text in words(60, 9)]
    for number, name in enumerate("ab"):
        write(
            tmp_path / f"{name}.jsonl", [f"{name} {text}" for text in words(60, number)] + common
        )
    # Of one seed and fraction, equal documents are on equal sides.
    opened(mix(0.5, 0.5))
    made = mix(0.5, 0.5).model_dump(exclude_unset=True)
    made["mixture"][1]["seed"] = 1
    with pytest.raises(ConfigurationError, match=r"validation documents of files-.* are in the"):
        prepare(CorpusConfig.model_validate(made))


def test_a_mixture_says_the_same_when_it_is_read_back(mix: Mix) -> None:
    tokenizer = str(Path(__file__).parents[2] / "benchmarks" / "books50_tokenizer.json")
    made = mix(0.5, 0.5, tokenizer=tokenizer, seed=3)
    assert [part.seed for part in made.parts] == [3, 3]
    again = CorpusConfig.model_validate(made.model_dump(mode="json"))
    assert again == made
    assert prepare(again) == prepare(made)
    assert opened(made).tokenizer().vocab_size == 51


def test_a_mixture_is_fetched_with_its_parts(mix: Mix, tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    first = opened(mix(0.5, 0.5, store=store))
    other = remote.open_corpus(tmp_path / "node" / first.path.name, store)
    other.verify()
    rows = [one.window_order(2000, 16, 0).batch(0, 50) for one in (first, other)]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mixture": []}, "needs mixture"),
        ({"tokenizer": {"train": "bpe"}}, "cannot train a tokenizer"),
        ({"source": "files", "paths": ["x"]}, "no other source can have one"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(
    mix: Mix, change: dict[str, object], said: str
) -> None:
    made = mix(0.5, 0.5).model_dump(exclude_unset=True)
    with pytest.raises(ValueError, match=said):
        CorpusConfig.model_validate({**made, "source": "mixture", **change})


def test_a_part_that_stands_twice_or_speaks_otherwise_is_refused(mix: Mix, tmp_path: Path) -> None:
    made = mix(0.5, 0.5).model_dump(exclude_unset=True)
    made["mixture"][1]["paths"] = made["mixture"][0]["paths"]
    with pytest.raises(ConfigurationError, match="stands twice"):
        prepare(CorpusConfig.model_validate(made))
    made = mix(0.5, 0.5).model_dump(exclude_unset=True)
    made["mixture"][1]["tokenizer"] = str(
        Path(__file__).parents[2] / "benchmarks" / "books50_tokenizer.json"
    )
    with pytest.raises(ConfigurationError, match="parts share one"):
        prepare(CorpusConfig.model_validate(made))
    assert config(tmp_path, tmp_path / "a.jsonl").mixture == ()

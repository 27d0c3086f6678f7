"""A mixture whose weights a study searches, in its file: what goes together, and what is told."""

from typing import Any

import pytest
from pydantic import ValidationError

from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import Range
from quokka_ray.study.corpus import CorpusConfig
from quokka_ray.study.loader import load_corpus


def section(*parts: dict[str, Any]) -> CorpusConfig:
    """Return a mixture of two parts, each changed by one argument."""
    mixture = [
        {"source": "files", "paths": [name], "name": name, "weight": 1, "validation_weight": 1}
        for name in ("books", "code")
    ]
    return CorpusConfig.model_validate(
        {"mixture": [{**one, **change} for one, change in zip(mixture, parts, strict=True)]}
    )


def test_a_range_is_searched_and_a_number_stays() -> None:
    corpus = section({"weight": {"low": 0.25, "high": 4}}, {})
    assert corpus.searched_weights == {"books": Range(low=0.25, high=4)}
    assert corpus.weights_at({"books": 3.0}) == {"books": 3.0, "code": 1.0}
    assert corpus.weight_ranges == [(0.25, 4), (1, 1)]
    # Prepared by itself, it has the middle of the range.
    assert corpus.weights_at({}) == {"books": 1.0, "code": 1.0}
    assert section({}, {}).searched_weights == {}
    assert CorpusConfig.model_validate(corpus.model_dump(mode="json")) == corpus


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"validation_weight": None}, {}, "losses compare only on one validation set"),
        ({}, {"validation_weight": None}, "losses compare only on one validation set"),
        ({"name": None}, {}, "name: books"),
        ({}, {"name": "books"}, "two parts of the mixture are called 'books'"),
        ({}, {"weight": {"low": 1, "high": 2}}, "only their ratios say anything"),
        ({"weight": {"low": 4, "high": 1}}, {}, "low .4. is above high .1."),
        ({"weight": {"low": 0, "high": 1}}, {}, "greater than 0"),
        ({"name": "two words"}, {}, "pattern"),
    ],
)
def test_weights_that_cannot_be_searched_are_refused_with_the_remedy(
    first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        section({"weight": {"low": 0.25, "high": 4}, **first}, second)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ("{low: 1}", "corpus.mixture.1.weight.high: must be set"),
        ("{low: 4, high: 1}", "corpus.mixture.1.weight: low (4) is above high (1)"),
        ("rest", "corpus.mixture.1.weight: should be a valid number, unable to parse"),
        ("-1", "corpus.mixture.1.weight: should be greater than 0, not -1"),
    ],
)
def test_a_weight_that_is_none_is_told_by_its_key(weight: str, said: str) -> None:
    parts = f"[{{paths: [a], weight: 1}}, {{paths: [b], weight: {weight}}}]"
    with pytest.raises(ConfigurationError) as caught:
        load_corpus([], [f"corpus.mixture={parts}"])
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1

"""A study of repeated data in its file: what goes together, and what a mistake is told."""

import pytest
from pydantic import ValidationError

from quokka_ray.study.config import Range, StudyConfig

STUDY = {
    "name": "repeated",
    "search": {
        "params": {"low": "30k", "high": "200k"},
        "unique_tokens": {"low": "4k", "high": "16k"},
        "run_flops": {"low": 1e10, "high": 1e12},
        "max_epochs": 500,
        "lr_schedule": "constant",
    },
    "budget": {"flops": 1e13},
    "target": {"unique_tokens": "64k"},
}


def study(**sections):
    merged = {name: {**STUDY[name], **values} for name, values in sections.items()}
    return StudyConfig.model_validate({**STUDY, **merged})


def test_a_range_of_unique_tokens_makes_a_study_of_repeated_data():
    config = study()
    assert config.search.repeats
    assert isinstance(config.search.unique_tokens, Range)
    assert config.law_name == "data_constrained"
    assert config.search.early_end.margin == 0.02
    assert study(search={"early_end": None}).search.early_end is None


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"search": {"observations": 3}}, "observation_ratio"),
        ({"search": {"lr_schedule": "cosine"}}, "cosine"),
        ({"search": {"unique_tokens": "4k"}}, "range of search.unique_tokens"),
        ({"target": {"unique_tokens": None}}, "target.unique_tokens is missing"),
    ],
)
def test_what_does_not_go_together_is_said(sections, said):
    with pytest.raises(ValidationError, match=said):
        study(**sections)


def test_a_law_of_repeated_data_needs_a_range_and_a_range_needs_such_a_law():
    values = {**STUDY, "law": {"name": "chinchilla"}}
    with pytest.raises(ValidationError, match="needs no range"):
        StudyConfig.model_validate(values)
    plain = {**STUDY["search"], "unique_tokens": None, "max_epochs": 1}
    values = {**STUDY, "search": plain, "target": {"flops": 1e14}}
    assert not StudyConfig.model_validate(values).search.repeats
    with pytest.raises(ValidationError, match=r"needs a range of search\.unique_tokens"):
        StudyConfig.model_validate({**values, "law": {"name": "muennighoff"}})
    with pytest.raises(ValidationError, match=r"target\.flops is missing"):
        StudyConfig.model_validate({**values, "target": {}})

"""Study files into types and back: precedence, and errors that a reader can act on.

Later wins: defaults, files in order (each after what it `extends`), the environment
(`QUOKKA_RAY__BUDGET__FLOPS=1e15`), then `--set budget.flops=1e15`.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.corpus import CorpusConfig
from quokka_ray.study.layers import Key, Merged, read_layers


def load_study(
    sources: Sequence[str | Path],
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> StudyConfig:
    """Return the study that the sources describe together.

    Args:
        sources: Study files in order: paths, study folders, or bare names (`smoke`).
        overrides: `section.key=value`, the value read as YAML.
        environ: Variables to read; None: those of this process.

    Raises:
        ConfigurationError: a file is missing or does not parse, a key is unknown, or a value is
            of the wrong kind. One line for each problem: where it stands, its dotted key, and
            what was expected.
    """
    merged = read_layers(sources, overrides, os.environ if environ is None else environ)
    try:
        return StudyConfig.model_validate(merged.values)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(error, merged))) from None


def load_corpus(
    sources: Sequence[str | Path],
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> CorpusConfig:
    """Return the corpus section that the sources describe together, of no study or of one.

    Args and errors are those of `load_study`; other sections are not looked at.
    """
    merged = read_layers(sources, overrides, os.environ if environ is None else environ)
    try:
        section = {"corpus": merged.values.get("corpus", {})}
        return _CorpusAlone.model_validate(section).corpus
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(error, merged))) from None


class _CorpusAlone(BaseModel):
    corpus: CorpusConfig


def dump_study(config: StudyConfig) -> str:
    """Return `config` as YAML with every default written out; `load_study` reads it back equal."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=99
    )


def known_keys(model: type[BaseModel] = StudyConfig, prefix: Key = ()) -> Iterator[Key]:
    """Yield every key of a study, sections before what they hold."""
    for name, described in model.model_fields.items():
        key = (*prefix, name)
        yield key
        section = described.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from known_keys(section, key)


def _explain(error: ValidationError, merged: Merged) -> list[str]:
    """Return one line for each key in trouble; a union's complaints share a line."""
    lines: dict[Key, list[str]] = {}
    for problem in error.errors():
        key = _own_key(problem["loc"], merged.values)
        kind = problem["type"]
        if kind == "extra_forbidden":
            key = _whole_unknown_key(key, merged)
            text = "unknown key" + _suggestion(key)
        elif kind == "missing":
            # Of a union's member, whose name stands before the key.
            key = (*_own_key(problem["loc"][:-1], merged.values), str(problem["loc"][-1]))
            text = "must be set"
        else:
            # "Value error, " is pydantic's prefix to messages that are sentences already.
            text = problem["msg"].removeprefix("Value error, ")
            text = text.replace("Input should", "should").replace("String should", "should")
            text = re.sub(r"valid dictionary or instance of \w+", "section with keys", text)
            if kind != "value_error":
                text += f", not {_shown(problem['input'])}"
        complaints = lines.setdefault(key, [])
        if text not in complaints:
            complaints.append(text)
    return [f"{_where(key, merged)}: {_joined(texts)}" for key, texts in lines.items()]


def _own_key(location: tuple[int | str, ...], values: Any) -> Key:
    """Return `location` without what pydantic adds to it: names of a union's members."""
    key: list[str] = []
    for part in location:
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif isinstance(values, (list, tuple)) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            break
        key.append(str(part))
    return tuple(key)


def _whole_unknown_key(key: Key, merged: Merged) -> Key:
    """Return the unknown key down to the value, where only one value stands under it."""
    below = [known for known in merged.origins if known[: len(key)] == key]
    return below[0] if len(below) == 1 else key


def _suggestion(key: Key) -> str:
    known = list(known_keys())
    depth = 1
    while key[:depth] in known:
        depth += 1
    parent, name, rest = key[: depth - 1], key[depth - 1], key[depth:]
    siblings = {other[-1]: other for other in known if other[:-1] == parent}
    matches = get_close_matches(name, siblings, n=1)
    matches = matches or [other for other in siblings if name in other.split("_")][:1]
    close = [siblings[match] for match in matches]
    # A section's name misspelled: the whole key, if the section has such a one.
    found = [match + rest if match + rest in known else match for match in close]
    elsewhere = [other for other in known if other[-1] == key[-1] and other not in found]
    found += elsewhere[: 3 - len(found)] if not rest or not found else []
    if not found:
        leaves = {other[-1]: other for other in known}
        found = [leaves[match] for match in get_close_matches(name, leaves, n=1, cutoff=0.7)]
    if found:
        return f"; did you mean {_listed(found)}?"
    if siblings:
        inside = f"{'.'.join(parent)} has" if parent else "the sections are"
        return f"; {inside} {', '.join(siblings)}"
    return f"; {'.'.join(parent)} takes one value, not a section"


def _listed(keys: Sequence[Key]) -> str:
    names = [f"`{'.'.join(key)}`" for key in keys]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _joined(texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    # A union: "should be 'auto', not 'x'" and "should be a valid number, not 'x'".
    heads = [text.rsplit(", not ", 1)[0] for text in texts]
    tail = texts[-1].rsplit(", not ", 1)
    return " or ".join(heads) + (f", not {tail[1]}" if len(tail) == 2 else "")


def _where(key: Key, merged: Merged) -> str:
    dotted = ".".join(key)
    origin = merged.origin(key)
    if origin is None:
        origin = merged.files[-1] if merged.files else "no study file was given"
    return f"{origin}: {dotted}" if dotted else origin

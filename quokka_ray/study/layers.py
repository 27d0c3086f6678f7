"""Reading: what files, the environment and `--set` say, each value with where it came from.

`loader.py` holds the merged result against the types; of the keys, only `corpus` is known here.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import corpus_section

ENVIRONMENT_PREFIX = "QUOKKA_RAY__"

# What a corpus given as one string decides. The rest of the section (tokenizer, split, seed,
# cache) is kept from the layers below, so that `--set corpus=...` swaps the text alone.
_CORPUS_SOURCE_KEYS = frozenset(
    {
        "source",
        "paths",
        "validation_paths",
        "format",
        "document",
        "text_column",
        "group_column",
        "dataset",
        "dataset_config",
        "split",
        "revision",
        "streaming",
        "vocab_size",
        "end_of_document",
        "licence",
        "mixture",
    }
)

Key = tuple[str, ...]


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice in one mapping is an error."""

    def construct_unique_mapping(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return self.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _UniqueKeyLoader.construct_unique_mapping
)


@dataclass
class Merged:
    """The layers folded into one mapping, with the origin of every value."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def add(self, layer: Mapping[str, Any], origin: str) -> None:
        """Lay `layer` over what is there: mappings merge, everything else replaces."""
        _merge(self.values, layer, origin, (), self.origins)

    def origin(self, key: Key) -> str | None:
        """Return where `key` was last set: its own origin, its parent's, or one below it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return self.origins[key[:length]]
        below = [name for known, name in self.origins.items() if known[: len(key)] == key]
        return below[-1] if below else None


def read_layers(
    sources: Sequence[str | Path], overrides: Sequence[str], environ: Mapping[str, str]
) -> Merged:
    """Return the files in order, then the environment, then the overrides, merged."""
    merged = Merged()
    for source in sources:
        _add_file(merged, find_study_file(source), ())
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            if not all(key):
                raise ConfigurationError(
                    f"environment variable {name}: write it as {ENVIRONMENT_PREFIX}SECTION__KEY"
                )
            merged.add(_nested(key, _parse_value(environ[name], name)), f"environment {name}")
    for override in overrides:
        dotted, equals, text = override.partition("=")
        key = tuple(part.strip() for part in dotted.split("."))
        if not equals or not all(key):
            raise ConfigurationError(
                f"--set {override}: write section.key=value, such as --set budget.flops=1e15"
            )
        origin = f"--set {override}"
        merged.add(_nested(key, _parse_value(text, origin)), origin)
    return merged


def find_study_file(source: str | Path, beside: Path | None = None) -> Path:
    """Return the file that `source` means.

    A path is taken as it is (relative to `beside` where given), a study's folder means its
    `study.yaml`, and a bare name such as `smoke` means `search_spaces/smoke.yaml` in the current
    folder or in the checkout.

    Raises:
        ConfigurationError: there is no such file; the message lists the names that there are.
    """
    path = Path(source).expanduser()
    if beside is not None and not path.is_absolute():
        path = beside / path
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "study.yaml").is_file():
            return path / "study.yaml"
        raise ConfigurationError(f"{path} is a folder without study.yaml: name a study file")
    bare = re.fullmatch(r"[\w.-]+", str(source)) is not None
    named: dict[str, Path] = {}
    for folder in (Path(__file__).parents[2] / "search_spaces", Path.cwd() / "search_spaces"):
        named.update({found.stem: found for found in sorted(folder.glob("*.yaml"))})
    if bare and Path(str(source)).name in named:
        return named[str(source)]
    message = f"study file {source} does not exist"
    close = get_close_matches(Path(str(source)).stem, named, n=1)
    if close:
        message += f"; did you mean {close[0]}?"
    elif bare and named:
        message += f"; the named ones are {', '.join(sorted(named))}"
    raise ConfigurationError(message)


def _add_file(merged: Merged, path: Path, chain: tuple[Path, ...]) -> None:
    resolved = path.resolve()
    if resolved in chain:
        names = " -> ".join(str(link.name) for link in (*chain, resolved))
        raise ConfigurationError(f"{path}: extends goes in a circle: {names}")
    content = _parse_file(path)
    parents = content.pop("extends", None) or []
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(name, str) for name in parents):
        raise ConfigurationError(f"{path}: extends: should be a file name or a list of them")
    for parent in parents:
        try:
            found = find_study_file(parent, beside=path.parent)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: extends: {error}") from None
        _add_file(merged, found, (*chain, resolved))
    merged.add(content, str(path))
    merged.files.append(str(path))


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}{_yaml_problem(error)}") from None
    except ValueError as error:  # such as the impossible date 2026-99-99
        raise ConfigurationError(f"{path}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: a study file holds sections such as `search:`")
    _require_text_keys(content, str(path), ())
    return content


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return f": not YAML: {problem}"
    return f", line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _parse_value(text: str, origin: str) -> Any:
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:
        # `*.txt` or `@name` mean something in YAML; here they can only be meant as text.
        if not text.lstrip().startswith(("[", "{", '"', "'")):
            return text
        problem = _yaml_problem(error) if isinstance(error, yaml.YAMLError) else f": {error}"
        raise ConfigurationError(f"{origin}{problem}") from None
    if isinstance(value, dict):
        _require_text_keys(value, origin, ())
    return value


def _require_text_keys(content: Mapping[Any, Any], origin: str, prefix: Key) -> None:
    for key, value in content.items():
        if not isinstance(key, str):
            dotted = ".".join((*prefix, str(key)))
            raise ConfigurationError(f"{origin}: {dotted}: keys are names; {key!r} is not one")
        if isinstance(value, dict):
            _require_text_keys(value, origin, (*prefix, key))


def _nested(key: Key, value: Any) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _merge(
    base: dict[str, Any],
    layer: Mapping[str, Any],
    origin: str,
    prefix: Key,
    origins: dict[Key, str],
) -> None:
    for name, value in layer.items():
        key = (*prefix, name)
        if key == ("corpus",) and isinstance(value, str):
            kept = base.get(name)
            if isinstance(kept, dict):
                for dropped in _CORPUS_SOURCE_KEYS & kept.keys():
                    del kept[dropped]
            value = corpus_section(value)
        if isinstance(value, Mapping):
            if not isinstance(base.get(name), dict):
                base[name] = {}
            if not value:
                origins[key] = origin
            _merge(base[name], value, origin, key, origins)
        else:
            for known in [known for known in origins if known[: len(key)] == key]:
                del origins[known]
            base[name] = value
            origins[key] = origin

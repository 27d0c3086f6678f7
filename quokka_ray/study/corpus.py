"""The corpus section of a study file: where text comes from, and how it becomes tokens."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from quokka_ray.study.section import Count, Range, Section

_STDIN = "-"
# What the parts of a mixture take over from its section where they say nothing themselves, and
# what is the section's to say.
_INHERITED = ("tokenizer", "validation_fraction", "seed")
_SHARED = ("cache", "store", "workers")


def corpus_section(text: str) -> dict[str, Any]:
    """Return the corpus section that one string stands for: a source's name, or where text is."""
    if text == "python-stdlib":
        return {"source": text}
    if text.startswith("hub:"):
        return {"source": "hub", "dataset": text.removeprefix("hub:")}
    for source in ("megatron", "prepared"):
        if text.startswith(f"{source}:"):
            return {"source": source, "paths": (text.removeprefix(f"{source}:"),)}
    return {"source": "files", "paths": (text,)}


class TokenizerTraining(Section):
    """A tokenizer that the preparation trains on the corpus itself.

    It is trained on training documents only, chosen by a hash of their content: the same text
    gives the same tokenizer, byte for byte, whatever files it stands in and whatever the number
    of processes.
    """

    train: Literal["bpe"]
    """Byte-level byte pair encoding, with `<|endoftext|>` as its only special token."""
    vocab_size: Annotated[Count, Field(ge=257, le=2**31)] = 32_768
    documents: Annotated[Count, Field(ge=1)] = 20_000
    """At most so many documents."""
    characters: Annotated[Count, Field(ge=1)] = 64_000_000
    """At most so much of their text."""


class CorpusConfig(Section):
    """Where the text comes from, and how it becomes tokens.

    In a study file the section may be a single string: the name of a source
    (`python-stdlib`), a path or glob (source `files`), `hub:org/name` (source `hub`),
    `megatron:PREFIX` or `prepared:FOLDER`.
    """

    source: Literal["python-stdlib", "files", "hub", "megatron", "prepared", "mixture"] = (
        "python-stdlib"
    )
    paths: tuple[str, ...] = ()
    """Source `files`: files, folders or globs of text, jsonl or parquet, also compressed (.gz,
    .bz2, .xz, .zst), or `-` for stdin. Source `megatron`: prefixes of .bin and .idx. Source
    `prepared`: the folder of a prepared corpus, or its address on an object store."""
    validation_paths: tuple[str, ...] = ()
    """Files of validation documents; empty: a fraction of `paths` is set apart by document."""
    format: Literal["auto", "text", "jsonl", "parquet"] = "auto"
    document: Literal["file", "line", "blank_line"] = "file"
    """What one document of a text file is: the file, each line, or what stands between blank
    lines. Stdin, which may be endless, is read by lines unless `blank_line` is asked for."""
    undecodable: Literal["error", "skip"] = "error"
    """What happens to a document that is not UTF-8: an error that says where, or it is left out
    and counted."""
    text_column: str = "text"
    group_column: str | None = None
    """Rows that share this column's value fall on the same side of the validation split."""
    dataset: str | None = None
    """Repository id on the hub, or a local folder that `datasets` can load (source `hub`)."""
    dataset_config: str | None = None
    split: str = "train"
    revision: str | None = None
    """Branch, tag or commit; unset: the newest, whose commit the card names."""
    streaming: bool = True
    """Read rows from the hub as they are needed; false: download the dataset first, which a
    preparation that goes on after a kill does not repeat. Offline, the download is used."""
    tokenizer: str | TokenizerTraining = "bytes"
    """`bytes`, the path of a `tokenizers` JSON file, or what to train here, such as
    `{train: bpe, vocab_size: 32k}`. Source `megatron`: what the tokens were made with."""
    vocab_size: Annotated[Count, Field(ge=2)] | None = None
    """Of tokens whose tokenizer is not at hand (source `megatron`)."""
    end_of_document: int | None = Field(default=None, ge=0)
    """The token that ends documents, where `vocab_size` stands for the tokenizer; unset: one more
    than there are."""
    near_duplicates: float | None = Field(default=None, gt=0, lt=1)
    """Drop documents whose sets of five-word shingles have at least this Jaccard similarity to
    one that is kept, such as .8; unset: exact duplicates only."""
    validation_fraction: float = Field(default=0.02, gt=0, lt=0.5)
    seed: int = 0
    licence: str | None = None
    """Written on the corpus's card."""
    mixture: tuple["MixturePart", ...] = ()
    """Corpora that are read together, each with its weight, or with a range that a study searches.
    Parts take over what this section says of the tokenizer, the split and the cache."""
    cache: Path | None = None
    """Where prepared corpora are kept; unset: `~/.cache/quokka-ray/corpora`."""
    store: str | None = None
    """Where machines share prepared corpora, such as s3://bucket/corpora: looked into before
    preparing, written to afterwards, and where a node that lacks a corpus fetches it, once."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes that tokenize; `auto`: one for each core."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            return corpus_section(value)
        if isinstance(value, dict) and value.get("mixture") and "source" not in value:
            return {**value, "source": "mixture"}
        return value

    def absolute(self) -> Self:
        """Return the section with the paths of local files made absolute, for a later process
        that stands elsewhere."""

        def rooted(path: str) -> str:
            if path == _STDIN or is_address(path):
                return path
            return str(Path(path).expanduser().absolute())

        changes: dict[str, Any] = {
            "paths": tuple(map(rooted, self.paths)),
            "validation_paths": tuple(map(rooted, self.validation_paths)),
            "mixture": tuple(part.absolute() for part in self.mixture),
        }
        if self.tokenizer != "bytes" and isinstance(self.tokenizer, str):
            changes["tokenizer"] = rooted(self.tokenizer)
        if self.store is not None:
            changes["store"] = rooted(self.store)
        return self.model_copy(update=changes)

    @property
    def parts(self) -> tuple["MixturePart", ...]:
        """The parts of the mixture, complete."""
        shared = {name: getattr(self, name) for name in _SHARED}
        return tuple(part.model_copy(update=shared) for part in self.mixture)

    @property
    def searched_weights(self) -> dict[str, Range]:
        """The weights that a study searches, by the name of their part."""
        return {
            str(part.name): part.weight for part in self.mixture if isinstance(part.weight, Range)
        }

    @property
    def weight_ranges(self) -> list[tuple[float, float]]:
        """The lowest and the highest weight of each part."""
        return [
            (part.weight.low, part.weight.high)
            if isinstance(part.weight, Range)
            else (part.weight, part.weight)
            for part in self.mixture
        ]

    def weights_at(self, searched: Mapping[str, float]) -> dict[str, float]:
        """Return the weights of all parts, in their order, given those that are searched."""
        return {
            str(part.name): searched.get(str(part.name), part.middle_weight)
            for part in self.mixture
        }

    @property
    def fetched_from(self) -> str | None:
        """Where a node that lacks the prepared corpus fetches it; None: it has to be there."""
        if self.store is None and self.source == "prepared" and is_address(self.paths[0]):
            return self.paths[0].rstrip("/").rpartition("/")[0]
        return self.store

    @property
    def reads_stdin(self) -> bool:
        """Whether the text comes from a pipe, which cannot be read twice."""
        return _STDIN in (*self.paths, *(path for part in self.mixture for path in part.paths))

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        if self.source == "files" and not self.paths:
            raise ValueError("source 'files' needs paths, such as paths: ['data/*.parquet']")
        if self.source == "hub" and not self.dataset:
            raise ValueError("source 'hub' needs dataset, such as dataset: org/name")
        if self.source == "megatron":
            if not self.paths:
                raise ValueError(
                    "source 'megatron' needs paths, such as paths: [data/text_document]"
                )
            if (self.tokenizer == "bytes") == (self.vocab_size is None):
                raise ValueError(
                    "source 'megatron' holds tokens already: say which tokenizer made them, by "
                    "tokenizer (its JSON file) or by vocab_size alone"
                )
            if not isinstance(self.tokenizer, str):
                raise ValueError("source 'megatron' holds tokens already: nothing can be trained")
        elif self.vocab_size is not None or self.end_of_document is not None:
            raise ValueError("vocab_size and end_of_document are for source 'megatron'")
        if self.source == "prepared" and len(self.paths) != 1:
            raise ValueError("source 'prepared' needs one path: the folder of a prepared corpus")
        if self.reads_stdin and (len(self.paths) > 1 or self.validation_paths):
            raise ValueError("stdin (`-`) cannot be read together with files")
        return self

    @model_validator(mode="after")
    def _mixture_is_complete(self) -> Self:
        if (self.source == "mixture") != bool(self.mixture):
            raise ValueError("source 'mixture' needs mixture, and no other source can have one")
        inherited = {name: getattr(self, name) for name in _INHERITED}
        # Decided here, so that a section that was written out says the same when it is read back.
        self.__dict__["mixture"] = tuple(
            part.model_copy(
                update={k: v for k, v in inherited.items() if k not in part.model_fields_set}
            )
            for part in self.mixture
        )
        for part in self.mixture:
            if any(getattr(part, name) != _unset(name) for name in _SHARED):
                raise ValueError("cache, store and workers are said once, beside mixture")
            if part.mixture:
                raise ValueError(
                    "a part of a mixture cannot be a mixture: list all parts side by side"
                )
            if isinstance(part.tokenizer, TokenizerTraining):
                raise ValueError(
                    "parts of a mixture share one tokenizer: train it on a corpus of its own, and "
                    "name its tokenizer.json"
                )
        if self.mixture and isinstance(self.tokenizer, TokenizerTraining):
            raise ValueError(
                "a mixture cannot train a tokenizer: train it on a corpus of its own "
                "(quokka-ray prepare --train-tokenizer), and name its tokenizer.json"
            )
        return self

    @model_validator(mode="after")
    def _searched_weights_compare(self) -> Self:
        names = Counter(part.name for part in self.mixture if part.name is not None)
        twice = [name for name, times in names.items() if times > 1]
        if twice:
            raise ValueError(f"two parts of the mixture are called {twice[0]!r}")
        ranges = [part for part in self.mixture if isinstance(part.weight, Range)]
        if not ranges:
            return self
        if len(ranges) == len(self.mixture):
            raise ValueError(
                "the weights of all parts are searched, and only their ratios say anything: give "
                "one part a number, such as weight: 1, which the others are relative to"
            )
        if any(part.name is None for part in self.mixture):
            raise ValueError(
                "weights are searched, and a part has no name: give each one, such as name: "
                "books, which the run table's column share_books is called by"
            )
        if any(part.validation_weight is None for part in self.mixture):
            raise ValueError(
                "weights are searched, and losses compare only on one validation set: give each "
                "part a validation_weight, a number that stays"
            )
        return self


class MixturePart(CorpusConfig):
    """One corpus of a mixture."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")
    """What the run table calls it; needed where weights are searched."""
    weight: Annotated[
        Annotated[float, Field(gt=0), Tag("number")] | Annotated[Range, Tag("range")],
        Discriminator(lambda value: "range" if isinstance(value, (dict, Range)) else "number"),
    ]
    """Its share of the tokens that are read, over the sum of all weights. A range is searched,
    like the learning rate: `{low: .25, high: 4}` beside a part of weight 1 is a share of 20 to
    80 %. Prepared by itself, such a mixture has the weight in the middle of the range."""
    validation_weight: float | None = Field(default=None, ge=0)
    """Its share of the validation tokens; unset: `weight`. Say it where weights are varied, so
    that losses stay comparable."""

    @property
    def middle_weight(self) -> float:
        """Its weight, of a range the geometric middle."""
        if isinstance(self.weight, Range):
            return math.sqrt(self.weight.low * self.weight.high)
        return self.weight


CorpusConfig.model_rebuild()


def _unset(name: str) -> Any:
    return CorpusConfig.model_fields[name].default


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each part of a mixture."""
    return {part: weight / sum(weights.values()) for part, weight in weights.items()}


def is_address(path: str) -> bool:
    """Return whether `path` names a file system beside the local one, as s3://bucket/x does."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", path) is not None

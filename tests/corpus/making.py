"""Small corpora for the tests of this room."""

import itertools
import json
import random
from pathlib import Path

from quokka_ray.corpus import TokenCorpus
from quokka_ray.study.config import CorpusConfig


def words(count: int, seed: int = 0) -> list[str]:
    """Return `count` documents of random words."""
    rng = random.Random(seed)
    return [
        f"document {index} " + " ".join(rng.choices(["alpha", "beta", "gamma"], k=40))
        for index in range(count)
    ]


def write(path: Path, documents: list[str], **columns: list[object]) -> Path:
    rows = [
        {"text": text, **{name: values[index] for name, values in columns.items()}}
        for index, text in enumerate(documents)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path: Path, *paths: Path, **keys: object) -> CorpusConfig:
    return CorpusConfig.model_validate(
        {
            "source": "files",
            "paths": [str(path) for path in paths],
            "cache": tmp_path / "cache",
            "validation_fraction": 0.2,
            **keys,
        }
    )


def stored(corpus: TokenCorpus, side: str) -> list[str]:
    """Return one side's documents as text, in their order."""
    tokens = getattr(corpus, side)
    offsets = corpus.document_offsets(side)
    tokenizer = corpus.tokenizer()
    for end in offsets[1:]:
        assert tokens[end - 1] == tokenizer.end_of_document
    return [
        tokenizer.decode(tokens[start : end - 1]) for start, end in itertools.pairwise(offsets)
    ]

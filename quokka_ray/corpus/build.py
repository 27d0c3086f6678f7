"""From a source to the files of a corpus: chunks by many processes, then the two sides."""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quokka_ray.corpus.assemble import SIDES, Assembly
from quokka_ray.corpus.card import readable, samples
from quokka_ray.corpus.chunks import Encoder, chunks_of
from quokka_ray.corpus.documents import Source
from quokka_ray.corpus.draws import Draws
from quokka_ray.corpus.meter import Meter
from quokka_ray.corpus.pieces import entry_of
from quokka_ray.corpus.tokenizers import Tokenizer, token_dtype
from quokka_ray.corpus.workers import cores, encoded
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import CorpusConfig

_SAMPLES = 3


def build(
    config: CorpusConfig,
    source: Source,
    tokenizer: Tokenizer,
    draws: Draws,
    work: Path,
    passing: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Write the files of a corpus into `work`/out and return what its card says.

    Args:
        config: The corpus.
        source: Its documents.
        tokenizer: Makes its tokens.
        draws: Say where documents belong.
        work: Folder of the preparation; chunks that lie there are taken as they are.
        passing: Told where the work stands; None: nobody is.

    Raises:
        ConfigurationError: the text cannot be used.
        OSError: the disk is full or cannot be written.
    """
    encoder = Encoder(work / "chunks", tokenizer, draws, config.near_duplicates is not None)
    workers = cores() if config.workers == "auto" else config.workers
    meter = Meter(passing) if passing is not None else None
    notes: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    documents = text = fresh = 0
    for note, known in encoded(chunks_of(source), encoder, workers):
        notes.append(note)
        skipped.update(note["skipped"])
        documents += note["documents"]
        text += note["bytes"]
        fresh += 0 if known else note["bytes"]
        if meter is not None:
            meter.tell(documents, text, fresh, source.done, source.size)
    if not documents:
        raise ConfigurationError(f"the corpus is empty: no text in {source.description}")
    if passing is not None:
        passing(f"{documents:,} documents: dropping duplicates and writing both sides")
    assembly = Assembly(
        work / "chunks", notes, token_dtype(tokenizer.vocab_size), config.near_duplicates
    )
    for side in SIDES:
        if not len(assembly.sides[side]):
            raise ConfigurationError(_one_sided(side, documents, config))
    return _write(config, source, tokenizer, work / "out", assembly, skipped)


def _write(
    config: CorpusConfig,
    source: Source,
    tokenizer: Tokenizer,
    out: Path,
    assembly: Assembly,
    skipped: Counter[str],
) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    meta: dict[str, Any] = {
        "source": source.description,
        "revision": getattr(source, "revision", None),
        "licence": config.licence,
        "tokenizer": tokenizer.id,
        "vocab_size": tokenizer.vocab_size,
        "validation_fraction": 0.0 if config.validation_paths else config.validation_fraction,
        "seed": config.seed,
    }
    files: dict[str, Any] = {}
    for side in SIDES:
        files |= assembly.write(side, out)
        meta[f"{side}_documents"] = len(assembly.sides[side])
        meta[f"{side}_tokens"] = assembly.tokens_of(side)
        meta[f"{side}_bytes"] = assembly.bytes_of(side)
    bytes_per_token = meta["validation_bytes"] / meta["validation_tokens"]
    meta["bytes_per_token"] = bytes_per_token or None
    meta["near_duplicates_from"] = config.near_duplicates
    meta |= assembly.counts
    for reason, count in sorted((source.skipped + skipped).items()):
        meta[f"skipped_{reason.replace(' ', '_')}"] = count
    meta["validation_hash"] = files["validation.bin"]["hash"]
    tokens = np.memmap(out / "train.bin", dtype=token_dtype(tokenizer.vocab_size), mode="r")
    ends = np.load(out / "train.npy", mmap_mode="r")[1 : 1 + _SAMPLES].tolist()
    meta["samples"] = samples(tokens, ends, tokenizer)
    tokenizer.save(out)
    (out / "README.md").write_text(readable(meta), encoding="utf-8")
    for path in itertools.chain(out.glob("tokenizer.json"), out.glob("README.md")):
        files[path.name] = entry_of(path)
    return {**meta, "files": dict(sorted(files.items()))}


def _one_sided(side: str, documents: int, config: CorpusConfig) -> str:
    if side == "train":
        return f"no document is left for training: all {documents:,} fell to validation"
    return (
        f"no document fell to validation ({config.validation_fraction:.1%} of {documents:,} were "
        "asked for): the split is by document, so give more files or rows, raise "
        "corpus.validation_fraction, or set corpus.validation_paths"
    )

"""Preparation: what a study names to a published corpus, once, whole or not at all.

Documents stream through the tokenizer into chunks (`chunks.py`), by many processes; once all are
there, duplicates are dropped and both sides are written in their final order (`assemble.py`).
What a kill or a full disk leaves are whole chunks, and the next preparation goes on from them.
"""

import os
import shutil
from pathlib import Path

from quokka_ray.corpus import remote
from quokka_ray.corpus.bpe import train_tokenizer
from quokka_ray.corpus.build import build
from quokka_ray.corpus.documents import Source
from quokka_ray.corpus.draws import Draws
from quokka_ray.corpus.mixture import publish_mixture
from quokka_ray.corpus.publishing import (
    Progress,
    cache_errors,
    is_whole,
    locked,
    publish,
    sweep,
)
from quokka_ray.corpus.sources import address_of, build_source, named_tokenizer
from quokka_ray.corpus.store import FORMAT, TokenCorpus
from quokka_ray.corpus.tokenizers import Tokenizer, build_tokenizer
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import CorpusConfig, is_address

DEFAULT_CACHE = Path("~/.cache/quokka-ray/corpora")


def prepare(
    config: CorpusConfig, *, progress: Progress | None = None, passing: Progress | None = None
) -> Path:
    """Return the folder of the prepared corpus, made now unless it is there already.

    The folder's name is a hash of the source's content and of every setting that decides the
    tokens, so a changed text or setting is another corpus. Several processes may prepare at
    once: one does the work, the others wait for it. With `config.store`, a corpus that another
    machine made is fetched from there, and one that is made here is sent there.

    Args:
        config: The corpus.
        progress: Told a line at a time what goes on.
        passing: Told where the work stands, a line that replaces the one before.

    Raises:
        ConfigurationError: the text cannot be used: nothing there, not UTF-8, a column missing,
            or too few documents to set any apart for validation.
        MachineError: the cache or the store cannot be written, or the hub cannot be reached. What
            is done is kept, and the next call goes on from there.
    """
    say = progress or (lambda line: None)
    cache = (config.cache or DEFAULT_CACHE).expanduser()
    if config.source == "prepared":
        return _prepared(config, cache, say)
    if config.source == "mixture":
        folders = [prepare(part, progress=progress, passing=passing) for part in config.parts]
        folder = publish_mixture(config, folders, cache, say)
    else:
        folder = _from_source(config, cache, say, passing)
    if config.store is not None:
        remote.send(folder, config.store, say)
    return folder


def _from_source(
    config: CorpusConfig, cache: Path, say: Progress, passing: Progress | None
) -> Path:
    tokenizer = named_tokenizer(config)
    source = build_source(config, tokenizer, cache)
    # A pipe's content is known once it was read: until then its settings name the work.
    content = source.fingerprint() if source.rereadable else "stdin"
    address = address_of(config, content, tokenizer, FORMAT)
    target = cache / f"{config.source}-{address}"
    if source.rereadable and is_whole(target):
        return target
    with locked(cache, address, say):
        sweep(cache, address)
        if source.rereadable and (
            is_whole(target)
            or (config.store is not None and remote.fetch(target, config.store, say))
        ):
            return target
        work = cache / f".preparing-{address}"
        try:
            with cache_errors(cache, work):
                (work / "chunks").mkdir(parents=True, exist_ok=True)
                os.utime(work)
                say(f"preparing the corpus: {source.description}")
                draws = Draws(
                    config.seed, 0.0 if config.validation_paths else config.validation_fraction
                )
                tokenizer = tokenizer or _trained(config, source, draws, work, say)
                meta = build(config, source, tokenizer, draws, work, passing)
                if not source.rereadable:
                    content = source.fingerprint()
                    address = address_of(config, content, named_tokenizer(config), FORMAT)
                    target = cache / f"{config.source}-{address}"
                publish(work / "out", target, {"format": FORMAT, "hash": address, **meta})
        except ConfigurationError:
            # No second attempt would end otherwise.
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    say(f"prepared {target}")
    return target


def _trained(
    config: CorpusConfig, source: Source, draws: Draws, work: Path, say: Progress
) -> Tokenizer:
    """Return the tokenizer that `config` asks to train; kept for an attempt that goes on."""
    assert not isinstance(config.tokenizer, str)
    path = work / "tokenizer.json"
    if not source.rereadable:
        raise ConfigurationError(
            "corpus.tokenizer: a tokenizer cannot be trained on stdin, which is read once: put "
            "the text into a file, or name a tokenizer"
        )
    if not path.exists():
        say(f"training a tokenizer of {config.tokenizer.vocab_size:,} tokens")
        draft = path.with_suffix(".draft")
        draft.write_bytes(train_tokenizer(source, config.tokenizer, draws))
        draft.replace(path)
    return build_tokenizer(path)


def _prepared(config: CorpusConfig, cache: Path, say: Progress) -> Path:
    """Return the folder of a corpus that was prepared before, fetched if it lies elsewhere."""
    (place,) = config.paths
    if is_address(place):
        store, _, name = place.rstrip("/").rpartition("/")
        corpus = remote.open_corpus(cache / name, store, say)
    else:
        corpus = TokenCorpus.open(Path(place).expanduser())
    named = named_tokenizer(config)
    # `bytes` is also what a section has that says nothing.
    if config.tokenizer != "bytes" and named is not None and named.id != corpus.tokenizer_id:
        raise ConfigurationError(
            f"corpus.tokenizer is {named.id}, and {place} was made with {corpus.tokenizer_id}: "
            "leave it out, or prepare the text again with the one you want"
        )
    return corpus.path

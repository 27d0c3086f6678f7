"""What a study names to what reads it: sources, tokenizers, and the address of what they make."""

import hashlib
import json
from pathlib import Path

from quokka_ray.corpus.documents import Source
from quokka_ray.corpus.tokenizers import OpaqueTokenizer, Tokenizer, build_tokenizer
from quokka_ray.study.corpus import CorpusConfig


def build_source(config: CorpusConfig, tokenizer: Tokenizer | None, cache: Path) -> Source:
    """Return the source that `config` names. Its reader is imported only now.

    Args:
        config: The corpus.
        tokenizer: What the tokens of a tokenized source were made with.
        cache: Where the hub's answers are remembered.
    """
    if config.source == "python-stdlib":
        from quokka_ray.corpus.stdlib import StdlibSource

        return StdlibSource()
    if config.source == "files":
        from quokka_ray.corpus.files import FilesSource, StdinSource

        return StdinSource(config) if config.reads_stdin else FilesSource(config)
    if config.source == "megatron":
        from quokka_ray.corpus.megatron import MegatronSource

        assert tokenizer is not None, "the section refuses training here"
        return MegatronSource(config.paths, tokenizer)
    from quokka_ray.corpus.hub import HubSource

    return HubSource(config, cache)


def named_tokenizer(config: CorpusConfig) -> Tokenizer | None:
    """Return the tokenizer that `config` names; None: it has yet to be trained."""
    if config.vocab_size is not None:
        return OpaqueTokenizer(config.vocab_size, config.end_of_document)
    if isinstance(config.tokenizer, str):
        return build_tokenizer(config.tokenizer)
    return None


def address_of(config: CorpusConfig, content: str, tokenizer: Tokenizer | None, form: int) -> str:
    """Return the content address of a corpus, 16 hexadecimal digits.

    Args:
        config: The corpus.
        content: Fingerprint of its source.
        tokenizer: Its tokenizer; None: what it is trained from stands for it.
        form: Version of the corpus's format.
    """
    training = None if isinstance(config.tokenizer, str) else config.tokenizer.model_dump()
    parts = {
        "format": form,
        "source": config.source,
        "content": content,
        "document": config.document,
        "undecodable": config.undecodable,
        "text_column": config.text_column,
        "group_column": config.group_column,
        "tokenizer": tokenizer.id if tokenizer is not None else training,
        "near_duplicates": config.near_duplicates,
        "validation_fraction": config.validation_fraction,
        "seed": config.seed,
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

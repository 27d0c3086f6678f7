"""Training a tokenizer on the corpus that it will be used for."""

import heapq
from collections.abc import Iterator

from quokka_ray.corpus.documents import Source
from quokka_ray.corpus.draws import Draws, content_of, digest_of, normal_hash
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import TokenizerTraining

END = "<|endoftext|>"


def train_tokenizer(source: Source, training: TokenizerTraining, draws: Draws) -> bytes:
    """Return the JSON of a byte-level BPE that was trained on a sample of `source`.

    The sample is the training documents that a hash of their content puts first, as many as
    `training` allows, so neither the order of files nor threads or processes change a byte.

    Raises:
        ConfigurationError: there is no text for training.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=training.vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = list(_sample(source, training, draws))
    if not texts:
        raise ConfigurationError(
            f"corpus.tokenizer: there is no training text in {source.description} to train on"
        )
    backend.train_from_iterator(texts, trainer)
    return str(backend.to_str()).encode("utf-8")


def _sample(source: Source, training: TokenizerTraining, draws: Draws) -> Iterator[str]:
    """Yield the texts that are drawn first, in the order of their draws."""
    known = {
        normal_hash(document, content_of(document)) for document in source.validation_documents()
    }
    # The heap's top is what goes next: the latest draw. Whatever leaves would leave anyhow, since
    # those drawn before it only become more.
    kept: list[tuple[int, str]] = []
    characters = 0
    for document in source.documents():
        content = content_of(document)
        digest = digest_of(content)
        if draws.held_out(document, digest):
            continue
        normal = normal_hash(document, content)
        if normal in known:
            continue
        draw = draws.sample(digest)
        full = len(kept) >= training.documents or characters >= training.characters
        if full and draw >= -kept[0][0]:
            continue
        known.add(normal)
        heapq.heappush(kept, (-draw, document.text))
        characters += len(document.text)
        while len(kept) > training.documents or (
            len(kept) > 1 and characters - len(kept[0][1]) >= training.characters
        ):
            characters -= len(heapq.heappop(kept)[1])
    for _, text in sorted(kept, reverse=True):
        yield text

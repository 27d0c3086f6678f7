"""The card of a corpus: what a person wants to know before trusting a law that was found on it."""

from typing import Any

from quokka_ray.corpus.tokenizers import Tokenizer, Tokens

_SAMPLE_CHARACTERS = 400
_LINES = {
    "source": "Source",
    "revision": "Revision",
    "licence": "Licence",
    "hash": "Content address",
    "tokenizer": "Tokenizer",
    "vocab_size": "Vocabulary, the end of a document counted",
    "train_documents": "Training documents",
    "train_tokens": "Training tokens",
    "train_bytes": "Training bytes of UTF-8",
    "validation_documents": "Validation documents",
    "validation_tokens": "Validation tokens",
    "validation_bytes": "Validation bytes of UTF-8",
    "bytes_per_token": "Bytes a token, validation",
    "validation_fraction": "Share asked for validation",
    "seed": "Seed of order and split",
    "duplicates": "Duplicates dropped",
    "duplicates_of_validation_in_training": "of these, in training what stands in validation",
    "near_duplicates": "Near duplicates dropped",
    "near_duplicates_of_validation_in_training": "of these, in training what is near validation",
    "near_duplicates_from": "Similarity from which documents are near duplicates",
    "validation_hash": "Hash of the validation tokens",
}


def samples(tokens: Tokens, ends: list[int], tokenizer: Tokenizer) -> list[str]:
    """Return the beginnings of the first documents that `ends` bound."""
    begins = [0, *ends[:-1]]
    texts = []
    for begin, end in zip(begins, ends, strict=True):
        text = tokenizer.decode(tokens[begin : min(end, begin + _SAMPLE_CHARACTERS)])
        texts.append(text[:_SAMPLE_CHARACTERS])
    return texts


def readable(card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    rows = [
        f"| {label} | {_shown(card[name])} |"
        for name, label in _LINES.items()
        if card.get(name) is not None
    ]
    rows += [
        f"| Left out: {name.removeprefix('skipped_').replace('_', ' ')} | {_shown(value)} |"
        for name, value in card.items()
        if name.startswith("skipped_")
    ]
    rows += [
        f"| Part {one['folder']} | {one['weight']:.2%} of training, "
        f"{one['validation_weight']:.2%} of validation |"
        for one in card.get("mixture", ())
    ]
    parts = [
        "# A corpus of tokens, made by quokka-ray prepare",
        "\n".join(["| | |", "| --- | --- |", *rows]),
    ]
    if card.get("samples"):
        parts.append("## Samples: how the first training documents begin")
        parts += [
            "````text\n" + text.replace("````", "'''") + "\n````" for text in card["samples"]
        ]
    return "\n\n".join(parts) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).replace("|", "\\|")
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"

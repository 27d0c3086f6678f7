"""Mixtures: corpora that are read together, each with its share of the windows.

Nothing is copied: a mixture's folder names its parts, and the mixture is formed while it is read.
So weights can be varied without preparing anything again.
"""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.card import readable
from quokka_ray.corpus.pieces import entry_of
from quokka_ray.corpus.publishing import Progress, cache_errors, is_whole, locked, publish
from quokka_ray.corpus.store import FORMAT, TokenCorpus
from quokka_ray.corpus.turns import RESOLUTION, MixtureOrder, pattern, share_bounds, shares
from quokka_ray.corpus.windows import Windows
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import CorpusConfig


class MixtureCorpus(TokenCorpus):
    """Several prepared corpora as one. Made by `TokenCorpus.open`.

    Its training tokens are the most for which no part is read twice at the mixture's shares.

    Attributes:
        parts: The corpora.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self._describe(path, meta)
        self.parts = [TokenCorpus.open(path.parent / one["folder"]) for one in meta["mixture"]]
        for part, entry in zip(self.parts, meta["mixture"], strict=True):
            if part.hash != entry["hash"]:
                raise ConfigurationError(
                    f"mixture {path} was made of corpus {entry['hash']}, and {part.path} is "
                    f"{part.hash}; prepare the mixture again"
                )
        self._shares = shares(tuple(one["weight"] for one in meta["mixture"]))
        self._validation_shares = shares(
            tuple(one["validation_weight"] for one in meta["mixture"])
        )

    def verify(self, largest: int | None = None) -> None:
        """Hold every byte of every part against its hash, of files up to `largest` bytes."""
        super().verify(largest)
        for part in self.parts:
            part.verify(largest)

    def reweighted(self, weights: Sequence[float]) -> "MixtureCorpus":
        """Return the same parts at other training weights, in the order of the parts.

        Nothing is read or copied, and validation stays what it is.
        """
        other = copy.copy(self)
        other._shares = shares(tuple(weights))
        other.train_tokens = _train_tokens(self.parts, other._shares)
        return other

    def train_tokens_within(
        self, ranges: Sequence[tuple[float, float]], seq_len: int, unique_tokens: int | None = None
    ) -> int:
        """Return the unique tokens that there are whatever the weights within `ranges`.

        Args:
            ranges: Of each part's weight.
            seq_len: Tokens of a window.
            unique_tokens: How many are wanted; None: as many as there are.

        Raises:
            ConfigurationError: there are fewer than are wanted, or at its lowest weight a part
                makes no window of them.
        """
        bounds = share_bounds(ranges)
        most = [
            part.train_tokens * RESOLUTION // highest
            for part, (_, highest) in zip(self.parts, bounds, strict=True)
        ]
        wanted = min(most) if unique_tokens is None else unique_tokens
        if wanted > min(most):
            short = most.index(min(most))
            raise ConfigurationError(
                f"{wanted:,} unique tokens were asked for, and the mixture has {min(most):,} "
                "whatever its weights: at its highest share of "
                f"{bounds[short][1] / RESOLUTION:.1%} {self.parts[short].path.name} has no more; "
                "lower search.unique_tokens, narrow the ranges of weights, or give it more text"
            )
        for part, (fewest, _) in zip(self.parts, bounds, strict=True):
            own = wanted * fewest // RESOLUTION
            if own < seq_len:
                raise ConfigurationError(
                    f"{wanted:,} unique tokens leave {own:,} for {part.path.name} at its lowest "
                    f"share of {fewest / RESOLUTION:.2%}, which make no window of {seq_len:,}; "
                    "raise search.unique_tokens or the low end of its weight"
                )
        return min(most)

    def window_order(self, unique_tokens: int, seq_len: int, seed: int) -> Windows:
        """Return the order in which a run reads `unique_tokens` tokens of the mixture.

        Part s gives the first floor(unique_tokens x share) of its tokens, so a mixture of fewer
        tokens is part of one of more, part by part.

        Raises:
            ConfigurationError: a part has fewer, or they make no window.
        """
        if unique_tokens > self.train_tokens:
            short = min(
                range(len(self.parts)),
                key=lambda n: self.parts[n].train_tokens / self._shares[n],
            )
            raise ConfigurationError(
                f"{unique_tokens:,} unique tokens were asked for, and the mixture has "
                f"{self.train_tokens:,}: at its weight, {self.parts[short].path.name} has no "
                "more; lower search.unique_tokens, lower its weight, or give it more text"
            )
        orders = []
        for part, share in zip(self.parts, self._shares, strict=True):
            own = unique_tokens * share // RESOLUTION
            if own < seq_len:
                raise ConfigurationError(
                    f"{unique_tokens:,} unique tokens leave {own:,} for {part.path.name}, which "
                    f"make no window of {seq_len:,}; raise search.unique_tokens or its weight"
                )
            orders.append(part.window_order(own, seq_len, seed))
        return MixtureOrder(orders, self._shares)

    def validation_windows(self, seq_len: int, count: int, seed: int) -> NDArray[np.int64]:
        """Return `count` different windows of validation at the validation shares.

        The same for every caller with the same arguments; a smaller count gives the first ones.

        Raises:
            ConfigurationError: a part holds fewer windows.
        """
        turns = pattern(self._validation_shares)
        turns = turns[np.arange(count) % len(turns)]
        rows = np.empty((count, seq_len), dtype=np.int64)
        for number, part in enumerate(self.parts):
            own = np.flatnonzero(turns == number)
            if len(own):
                rows[own] = part.validation_windows(seq_len, len(own), seed)
        return rows

    def document_offsets(self, side: str = "train") -> NDArray[np.int64]:
        """Raise: a mixture's documents lie in its parts."""
        raise ConfigurationError(f"{self.path} is a mixture: ask its parts for their documents")


def publish_mixture(
    config: CorpusConfig, folders: Sequence[Path], cache: Path, say: Progress
) -> Path:
    """Return the folder of the mixture of prepared corpora, written unless it is there.

    Raises:
        ConfigurationError: the parts have different tokenizers, one stands twice, or a document
            of one's validation is in another's training.
        MachineError: the cache cannot be written.
    """
    corpora = [TokenCorpus.open(folder) for folder in folders]
    weights = [part.middle_weight for part in config.mixture]
    validation = [
        part.middle_weight if part.validation_weight is None else part.validation_weight
        for part in config.mixture
    ]
    if not any(validation):
        raise ConfigurationError("corpus.mixture: some validation_weight has to be above 0")
    _require_compatible(corpora, shares(tuple(validation)))
    meta = _described(cache, corpora, weights, validation)
    target = cache / f"mixture-{meta['hash']}"
    with locked(cache, meta["hash"], say):
        if not is_whole(target):
            work = cache / f".preparing-{meta['hash']}"
            with cache_errors(cache, None):
                out = work / "out"
                out.mkdir(parents=True, exist_ok=True)
                corpora[0].tokenizer().save(out)
                (out / "README.md").write_text(readable(meta), encoding="utf-8")
                files = {path.name: entry_of(path) for path in sorted(out.iterdir())}
                publish(out, target, {**meta, "files": files})
                shutil.rmtree(work, ignore_errors=True)
    return target


def _described(
    cache: Path, corpora: list[TokenCorpus], weights: list[float], validation: list[float]
) -> dict[str, Any]:
    parts, checks = shares(tuple(weights)), shares(tuple(validation))
    mixture = [
        {
            "folder": one.path.name if one.path.parent == cache else str(one.path.absolute()),
            "hash": one.hash,
            "weight": part / RESOLUTION,
            "validation_weight": check / RESOLUTION,
        }
        for one, part, check in zip(corpora, parts, checks, strict=True)
    ]
    names = [(one["hash"], one["weight"], one["validation_weight"]) for one in mixture]
    evaluated = [
        (one.validation_hash, check) for one, check in zip(corpora, checks, strict=True) if check
    ]
    sides = {
        f"{side}_documents": sum(one.documents[side] for one in corpora)
        for side in ("train", "validation")
    }
    bytes_per_token = sum(
        one.bytes_per_token * check for one, check in zip(corpora, checks, strict=True) if check
    )
    return {
        "format": FORMAT,
        "hash": _hash(names),
        "source": f"mixture of {', '.join(one.path.name for one in corpora)}",
        "tokenizer": corpora[0].tokenizer_id,
        "vocab_size": corpora[0].vocab_size,
        "train_tokens": _train_tokens(corpora, parts),
        "validation_tokens": sum(
            one.validation_tokens for one, check in zip(corpora, checks, strict=True) if check
        ),
        **sides,
        "bytes_per_token": (None if math.isnan(bytes_per_token) else bytes_per_token / RESOLUTION),
        "validation_hash": _hash(evaluated),
        "mixture": mixture,
    }


def _train_tokens(corpora: Sequence[TokenCorpus], parts: tuple[int, ...]) -> int:
    """Return the most tokens for which no part is read twice at these shares."""
    return min(
        one.train_tokens * RESOLUTION // part for one, part in zip(corpora, parts, strict=True)
    )


def _require_compatible(corpora: list[TokenCorpus], checks: tuple[int, ...]) -> None:
    for number, one in enumerate(corpora):
        if one.tokenizer_id != corpora[0].tokenizer_id:
            raise ConfigurationError(
                f"corpus.mixture: {one.path.name} has tokenizer {one.tokenizer_id}, and "
                f"{corpora[0].path.name} has {corpora[0].tokenizer_id}: parts share one; set "
                "corpus.tokenizer for all"
            )
        for place, other in enumerate(corpora):
            if place == number:
                continue
            if one.hash == other.hash:
                raise ConfigurationError(f"corpus.mixture: {one.path.name} stands twice")
            common = _common(one, other) if checks[number] else 0
            if common:
                raise ConfigurationError(
                    f"corpus.mixture: {common:,} validation documents of {one.path.name} are in "
                    f"the training text of {other.path.name}: give both the same seed and "
                    "validation_fraction and no group_column, which puts equal documents on equal "
                    "sides, or validation_weight: 0 to the one"
                )


def _common(one: TokenCorpus, other: TokenCorpus) -> int:
    """Return how many documents of one's validation are in the other's training."""
    validation, train = one.document_hashes("validation"), other.document_hashes("train")
    places = np.minimum(np.searchsorted(train, validation), len(train) - 1)
    return int((train[places] == validation).sum())


def _hash(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()

"""Text to tokens on disk, and from there to windows in a seeded order."""

from quokka_ray.corpus.prepare import prepare
from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.corpus.tokenizers import Tokenizer, build_tokenizer
from quokka_ray.corpus.windows import WindowOrder

__all__ = ["TokenCorpus", "Tokenizer", "WindowOrder", "build_tokenizer", "prepare"]

"""`quokka-ray prepare`: text to tokens on disk, with a card."""

import argparse
import json
from typing import Any

from quokka_ray.cli.arguments import add_set
from quokka_ray.cli.output import note, passing, say
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import CorpusConfig
from quokka_ray.study.loader import load_corpus, load_study

_EPILOG = """\
examples:
  quokka-ray prepare smoke                                 a study's corpus
  quokka-ray prepare --corpus 'books/*.jsonl.zst'          text by itself
  zcat dump.gz | quokka-ray prepare --corpus -             a pipe
  quokka-ray prepare --corpus hub:org/name --set corpus.revision=main
  quokka-ray prepare --corpus books --train-tokenizer 32k  a tokenizer of it
  quokka-ray prepare --corpus prepared:FOLDER --verify     as it was made?
  quokka-ray prepare --corpus books --set corpus.near_duplicates=.8
"""


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "prepare",
        help="make a corpus: text to tokens on disk",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="*", help="study files whose corpus is made")
    parser.add_argument(
        "--corpus",
        metavar="TEXT",
        help="text instead of the study's: paths, globs, `-` for stdin, hub:NAME, "
        "megatron:PREFIX, prepared:FOLDER",
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a tokenizers JSON file, or `bytes` (the default)"
    )
    parser.add_argument(
        "--train-tokenizer",
        metavar="SIZE",
        help="train a byte-level BPE of this vocabulary on the corpus, such as 32k",
    )
    parser.add_argument("--workers", metavar="N", help="processes (default: one for each core)")
    add_set(parser, example="corpus.near_duplicates=.8")
    parser.add_argument(
        "--verify", action="store_true", help="read every byte and hold it against the hashes"
    )
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    parser.set_defaults(func=run_prepare)


def run_prepare(options: argparse.Namespace) -> int:
    """Prepare the corpus and print its card."""
    from quokka_ray.corpus import TokenCorpus, prepare

    corpus = TokenCorpus.open(prepare(_section(options), progress=note, passing=passing))
    if options.verify:
        corpus.verify()
        note("every byte is as it was made")
    if options.json:
        say(json.dumps({"path": str(corpus.path), **corpus.card}))
        return 0
    facts = {"path": corpus.path, **corpus.card}
    facts.pop("samples", None)
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:<{width}} {'-' if value is None else value}")
    return 0


def _section(options: argparse.Namespace) -> CorpusConfig:
    """Return the corpus that the call describes.

    Raises:
        ConfigurationError: nothing is named, or the section is none.
    """
    if options.tokenizer and options.train_tokenizer:
        raise ConfigurationError("--tokenizer names one and --train-tokenizer makes one: choose")
    overrides = list(options.overrides)
    if options.corpus is not None:
        # As JSON, which YAML reads as text whatever it holds.
        overrides.insert(0, f"corpus={json.dumps(options.corpus)}")
    if options.tokenizer:
        overrides.append(f"corpus.tokenizer={json.dumps(options.tokenizer)}")
    if options.train_tokenizer:
        training = {"train": "bpe", "vocab_size": options.train_tokenizer}
        overrides.append(f"corpus.tokenizer={json.dumps(training)}")
    if options.workers:
        overrides.append(f"corpus.workers={options.workers}")
    if options.corpus is not None:
        return load_corpus(options.study, overrides)
    if not options.study:
        raise ConfigurationError("name a study, or text by --corpus TEXT")
    return load_study(options.study, overrides).corpus

"""`quokka-ray VERB`: the parser, logging, and the documented exit codes."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from analysis.errors import AnalysisError
from quokka_ray import __version__
from quokka_ray.cli import doctor, generate, laws, prepare, run, search, tensorboard
from quokka_ray.errors import QuokkaError

EXIT_CODES = """\
exit codes:
  0    done (a spent budget is done)
  1    a fault of quokka-ray
  2    the call, the study file, or the data that it names
  3    the environment: no cluster, storage not writable, no device
  4    the search ended with failed trials, and --strict was given
  5    too few runs, or the fit was rejected
  130  stopped by Ctrl-C, 143 by SIGTERM, after a checkpoint
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="quokka-ray",
        description="Scaling laws of diffusion language models, found on your own corpus.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quokka-ray {__version__}")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log what is going on to stderr"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    prepare.add_verbs(verbs)
    search.add_verbs(verbs)
    run.add_verbs(verbs)
    generate.add_verbs(verbs)
    laws.add_verbs(verbs)
    tensorboard.add_verbs(verbs)
    doctor.add_verbs(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code. Data goes to stdout, everything else to stderr."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return 2
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(options.func(options))
    except (QuokkaError, AnalysisError) as error:
        print(f"quokka-ray: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; leave nothing for the interpreter's exit to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry_point() -> None:
    """Console script."""
    sys.exit(main())

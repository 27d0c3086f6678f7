"""`tensorboard`: serve a study's event files."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from quokka_ray.errors import ConfigurationError


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser("tensorboard", help="serve a study's TensorBoard on this machine")
    parser.add_argument("folder", type=Path, help="the study's folder, such as runs/smoke")
    parser.add_argument("--port", type=int, default=6006, help="(default: 6006)")
    parser.set_defaults(func=serve)


def serve(options: argparse.Namespace) -> int:
    """Run TensorBoard on the study until it is interrupted."""
    folder = options.folder / "tensorboard"
    if not folder.is_dir():
        raise ConfigurationError(f"{options.folder} holds no tensorboard folder: is it a study?")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    return subprocess.call([*command, "--host", "127.0.0.1", "--port", str(options.port)])

"""TensorBoard's event folders: one trajectory a folder.

A folder's name tells the run (`names`), or its hyperparameters do, as in this project's studies.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.importers.events import Events, read_events, smoothed_end
from analysis.importers.finish import ALIASES
from analysis.importers.names import no_name, read_name
from analysis.importers.options import Imported, ImportOptions
from analysis.laws.base import FloatArray

TOKENS_TAGS = ("loss/by_tokens", "loss vs tokens")
"""Losses whose steps are tokens."""

LOSS_TAGS = (
    *TOKENS_TAGS,
    "lm loss",
    "lm loss validation",
    "loss/validation",
    "val/loss",
    "eval/loss",
    "val_loss",
    "eval_loss",
    "loss",
    "train/loss",
    "train_loss",
)
"""Tags of the loss, the first that a run has is taken; Megatron's is `lm loss`."""

SEQ_LEN = 2048
"""Of the released logs, where no other is given."""

_SEEN = 0.98
"""Share of its tokens that a run must have logged to count as finished."""


def is_event_file(path: Path) -> bool:
    """Whether a file is named as TensorBoard names its event files."""
    return "tfevents" in path.name


def event_files(root: Path) -> Iterator[Path]:
    """Yield all event files in a folder, at any depth."""
    return (path for path in sorted(root.rglob("*tfevents*")) if path.is_file())


def read(source: str, options: ImportOptions) -> Imported:
    """Read all runs of a folder: N and D from names or hyperparameters, the loss from a tag.

    Raises:
        RunTableError: there is no run, a name says nothing, or no run has the tag.
    """
    root = Path(source)
    if is_event_file(root) and root.is_file():
        groups = {root.parent: [root]}
    else:
        groups = {}
        for file in event_files(root):
            groups.setdefault(file.parent, []).append(file)
    if not groups:
        raise RunTableError(f"{source}: no event files (events.out.tfevents.*) in there")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    tags: set[str] = set()
    for folder, files in groups.items():
        events = read_events(files)
        notes += events.notes
        tags.update(events.scalars)
        tag = _tag(events, options)
        if tag is None:
            notes.append(
                f"{folder}: {'no scalars' if not events.scalars else 'no loss'}; left out"
            )
            continue
        rows += _rows(folder, root, events, tag, options, notes)
    wanted_tags = LOSS_TAGS if options.tag is None else (options.tag,)
    if not rows and tags.intersection(wanted_tags):
        raise RunTableError(f"{source}: no run could be used; {notes[-1]}")
    if not rows:
        wanted = "a loss" if options.tag is None else repr(options.tag)
        raise RunTableError(
            f"{source}: no run logged {wanted}; name its tag with --tag, one of "
            f"{', '.join(sorted(tags)) or 'none'}"
        )
    return Imported(pd.DataFrame(rows), tuple(notes))


def _tag(events: Events, options: ImportOptions) -> str | None:
    tags = LOSS_TAGS if options.tag is None else (options.tag,)
    return next((tag for tag in tags if tag in events.scalars), None)


def _rows(
    folder: Path,
    root: Path,
    events: Events,
    tag: str,
    options: ImportOptions,
    notes: list[str],
) -> list[dict[str, Any]]:
    inside = root if root.is_dir() else root.parent
    above = inside.absolute().parts[-2:]
    named = read_name((*above, *folder.relative_to(inside).parts), options.pattern)
    known: dict[str, Any] = {**events.hparams, **(named or {}), **_numbers(options)}
    if named is None and not any(n in known for n in ("params", *ALIASES["params"])):
        raise no_name(folder, options.pattern)
    name = _trajectory(folder, root)
    planned = known.pop("tokens", None)
    # Both are of the whole run; the table derives those of each observation.
    known.pop("flops", None)
    if "unique_tokens" in known:
        known.pop("epochs", None)
    steps, losses = events.scalars[tag]
    if events.notes and tag not in TOKENS_TAGS and not _steps_tell_tokens(known, events):
        notes.append(
            f"{name}: left out, since a damaged run's steps tell no tokens by their share; give "
            "--constant batch_tokens=512k"
        )
        return []
    tokens = steps if tag in TOKENS_TAGS else _tokens(steps, events, known, planned, name, notes)
    row = {**known, "study": above[-1], "trajectory": name, "status": "finished", "tag": tag}
    lr = events.scalars.get("learning-rate")
    if lr is not None and len(lr[1]):
        row.setdefault("lr", float(np.nanmax(lr[1])))
    finite = np.isfinite(losses)
    if not finite.all():
        notes.append(f"{name}: {int((~finite).sum())} losses of {tag!r} are not finite")
    if not finite[-1]:
        row["status"] = "diverged"
    if planned is not None and tokens[-1] < _SEEN * planned:
        row["status"] = "stopped"
        notes.append(f"{name}: ends at {tokens[-1]:.3g} of {planned:.3g} tokens; it is 'stopped'")
    if _takes_all(tag, options):
        return [
            {**row, "tokens": float(d), "loss": float(v), "observation": f"{name}@{d:.0f}"}
            for d, v in zip(tokens[finite], losses[finite], strict=True)
            if d > 0
        ]
    if not finite.any():
        return [{**row, "tokens": float(tokens[-1]), "loss": np.nan}]
    window = options.window if not _validation(tag) else 1
    loss = smoothed_end(steps[finite], losses[finite], window)
    whole = planned is not None and row["status"] == "finished"
    end = float(planned) if whole and planned is not None else float(tokens[-1])
    return [{**row, "tokens": end, "loss": loss, "observation": name}]


def _takes_all(tag: str, options: ImportOptions) -> bool:
    return options.results == "all" or (options.results == "auto" and _validation(tag))


def _validation(tag: str) -> bool:
    return tag in TOKENS_TAGS or any(w in tag.lower() for w in ("val", "eval", "test"))


def _numbers(options: ImportOptions) -> dict[str, Any]:
    from analysis.importers.finish import constant

    return {column: constant(column, text) for column, text in options.constants.items()}


def _tokens(
    steps: FloatArray,
    events: Events,
    known: dict[str, Any],
    planned: float | None,
    name: str,
    notes: list[str],
) -> FloatArray:
    """Return tokens at each step: from logged batch sizes, the name's, or the planned end."""
    seq_len = float(known.get("seq_len", SEQ_LEN))
    logged = events.scalars.get("batch-size")
    if logged is not None and len(logged[0]):
        # Batch sizes may be logged every so many steps; each holds back to the one before.
        every = np.interp(steps, logged[0], _cumulative(logged[0], logged[1]))
        _note_seq_len(known, notes)
        return seq_len * np.asarray(every, dtype=np.float64)
    if "batch_tokens" in known:
        return steps * float(known["batch_tokens"])
    if "global_batch_size" in known:
        _note_seq_len(known, notes)
        known["batch_tokens"] = float(known["global_batch_size"]) * seq_len
        return steps * known["batch_tokens"]
    if planned is None:
        raise RunTableError(
            f"{name}: nothing tells how many tokens a step is; give --constant batch_tokens=512k"
        )
    notes.append(
        "tokens at each step are the name's in proportion to steps: these runs log no batch size, "
        "so that a run which was stopped early is not seen; give --constant batch_tokens=512k"
    )
    return float(planned) * steps / steps[-1]


def _steps_tell_tokens(known: dict[str, Any], events: Events) -> bool:
    """Whether a step's tokens are known by themselves, rather than as a share of the end's."""
    return "batch-size" in events.scalars or bool(
        {"batch_tokens", "global_batch_size"} & set(known)
    )


def _note_seq_len(known: dict[str, Any], notes: list[str]) -> None:
    if "seq_len" not in known:
        notes.append(f"sequences are taken as {SEQ_LEN} tokens; give --constant seq_len=N if not")


def _cumulative(steps: FloatArray, sizes: FloatArray) -> FloatArray:
    """Return the sequences processed up to each step, where `sizes` are of one step each."""
    return np.cumsum(np.diff(steps, prepend=0.0) * sizes)


def _trajectory(folder: Path, root: Path) -> str:
    """Return a run's name: its folder below the source, less parts that say `tensorboard`."""
    inside = root if root.is_dir() else root.parent
    relative = folder.relative_to(inside)
    parts = [part for part in relative.parts if part != "tensorboard"]
    own = inside.absolute()
    return "/".join(parts) or (own.parent.name if own.name == "tensorboard" else own.name)

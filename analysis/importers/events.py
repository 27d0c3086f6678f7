"""Scalars and hyperparameters out of TensorBoard's event files."""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import RunTableError
from analysis.laws.base import FloatArray

_STAMP = re.compile(r"tfevents\.(\d+)")
_HPARAMS = "_hparams_/session_start_info"


@dataclass
class Events:
    """What one run's event files hold.

    Attributes:
        scalars: steps and values by tag, in order of steps, each of shape [S].
        hparams: hyperparameters, where the run logged any.
        notes: files that are damaged, in sentences.
    """

    scalars: dict[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)
    hparams: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_events(files: Iterable[Path]) -> Events:
    """Read a run's event files, in the order of their time stamps.

    A run that was resumed starts a new file: what older files tell of its steps and of later
    ones gives way. Of a damaged file what comes before the damage is kept.

    Raises:
        RunTableError: tensorboard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    except ImportError as error:
        raise RunTableError(
            "reading event files needs tensorboard: pip install 'quokka-ray[search]', or pip "
            "install tensorboard"
        ) from error

    events = Events()
    series: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(files, key=_time_stamp):
        own: dict[str, list[tuple[int, float]]] = {}
        records = 0
        for record in RawEventFileLoader(str(file)).Load():
            records += 1
            if not _take(record, own, events.hparams):
                break
        if records < _frames(file):
            events.notes.append(
                f"{file}: damaged or cut off after {records} records, which were kept"
            )
        for tag, points in own.items():
            first = min(step for step, _ in points)
            kept = [point for point in series.get(tag, []) if point[0] < first]
            series[tag] = kept + points
    for tag, points in series.items():
        # One step told twice counts as told last.
        last = dict(points)
        steps = np.array(sorted(last), dtype=np.float64)
        events.scalars[tag] = steps, np.array([last[int(s)] for s in steps], dtype=np.float64)
    return events


def _take(record: bytes, scalars: dict[str, list[tuple[int, float]]], hparams: Any) -> bool:
    """Add a record's scalars and hyperparameters; return whether it could be read."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    try:
        event = Event.FromString(record)
    except DecodeError:
        return False
    for value in event.summary.value:
        if value.tag == _HPARAMS:
            hparams.update(_hparams(value.metadata.plugin_data.content))
        elif value.HasField("simple_value"):
            scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
        elif value.HasField("tensor") and not value.tensor.tensor_shape.dim:
            number = make_ndarray(value.tensor)
            if np.issubdtype(number.dtype, np.number):
                scalars.setdefault(value.tag, []).append((event.step, float(number)))
    return True


def _hparams(content: bytes) -> dict[str, Any]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told = HParamsPluginData.FromString(content).session_start_info.hparams
    kinds = {"number_value", "string_value", "bool_value"}
    return {
        name: getattr(value, kind)
        for name, value in told.items()
        if (kind := value.WhichOneof("kind")) in kinds
    }


def _time_stamp(file: Path) -> tuple[int, str]:
    match = _STAMP.search(file.name)
    return (int(match.group(1)) if match else 0, file.name)


def _frames(file: Path) -> float:
    """Return how many records a file frames; infinite where the last one is cut off."""
    size = file.stat().st_size
    count = 0
    position = 0
    with file.open("rb") as stream:
        while position < size:
            stream.seek(position)
            header = stream.read(8)
            if len(header) < 8:
                return float("inf")
            # Length, its checksum, the record, its checksum.
            position += 16 + struct.unpack("<Q", header)[0]
            count += 1
    return float("inf") if position > size else count


def smoothed_end(steps: FloatArray, values: FloatArray, window: int) -> float:
    """Return the last value under a Gaussian window that spans `window` steps, 6 sigma wide.

    Only the half before the end has values, so it lags by about .13 windows (40 steps of 301).

    Args:
        steps, values: of a series, in order, [S].
        window: in steps; 1 is the last value itself.
    """
    back = steps[-1] - steps
    near = back <= (window - 1) / 2.0
    weights = np.exp(-0.5 * (back[near] / (window / 6.0)) ** 2)
    return float(weights @ values[near] / weights.sum())

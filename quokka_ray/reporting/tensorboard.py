"""TensorBoard: a run for each trajectory, and one for the study with the pictures of the law.

Our own events rather than Ray's logger: hyperparameters are there from a trial's start, losses
stand against tokens and against FLOPs, and nothing that is not a number is written as one.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

STUDY_RUN = "_study"
FLOPS_PER_STEP = 1e6
"""TensorBoard's steps are 64-bit integers: the steps of `loss/by_flops` are millions of FLOPs,
which reach from a thousandth of the smallest run to 9e24."""

LOSS_BY_TOKENS = "loss/by_tokens"
LOSS_BY_FLOPS = "loss/by_flops"
_PROGRESS = {
    "train_loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "train/tokens_per_second",
    "flops_per_second": "device/flops_per_second",
    "mfu": "device/share_of_matrix_product",
    "mfu_data_sheet": "device/share_of_data_sheet",
    "peak_memory_bytes": "device/peak_memory_bytes",
    "data_seconds": "device/data_seconds",
    "evaluation_seconds": "device/evaluation_seconds",
    "checkpoint_seconds": "device/checkpoint_seconds",
}


class StudyBoard:
    """Writes what `tensorboard --logdir FOLDER` shows; a context manager.

    Only trials in flight have a writer, which is a thread and a file. A study that is resumed
    writes further event files into the same runs.

    Args:
        folder: The log directory; made when the first event is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def trial_started(self, trajectory: str, hparams: Mapping[str, Any]) -> None:
        """Write a trial's hyperparameters, so that it is in the HPARAMS table from now on.

        Args:
            trajectory: Its id.
            hparams: Names to values; None is left out, lists and the like are written as text.
        """
        from torch.utils.tensorboard.summary import hparams as hparams_summaries

        experiment, start, _ = hparams_summaries(
            _plain(hparams), {LOSS_BY_TOKENS: None, LOSS_BY_FLOPS: None}
        )
        writer = self._writer(trajectory)
        _add(writer, experiment)
        _add(writer, start)
        writer.flush()

    def progress(self, row: Mapping[str, Any]) -> None:
        """Write a row of kind `progress`: training loss, learning rate and speed.

        They stand against all tokens processed, since a trunk that is taken up again after a
        branch has fewer tokens behind it than the branch had.
        """
        self._scalars(
            row["trajectory"],
            {tag: row.get(name) for name, tag in _PROGRESS.items()},
            int(row.get("processed_tokens", row["tokens"])),
        )

    def observation(self, row: Mapping[str, Any]) -> None:
        """Write a row of kind `observation`: the loss by tokens and by 6ND FLOPs."""
        trajectory, loss = row["trajectory"], row.get("loss")
        self._scalars(
            trajectory,
            {LOSS_BY_TOKENS: loss, "loss/stderr": row.get("loss_stderr")},
            int(row["tokens"]),
        )
        if row.get("flops") is not None:
            self._scalars(trajectory, {LOSS_BY_FLOPS: loss}, round(row["flops"] / FLOPS_PER_STEP))

    def trial_ended(self, trajectory: str, status: str) -> None:
        """Write how a trial ended, and close its file.

        Args:
            trajectory: Its id.
            status: `finished` is a success; every other one a failure.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.metadata import (
            PLUGIN_DATA_VERSION,
            PLUGIN_NAME,
            SESSION_END_INFO_TAG,
        )
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

        name = "STATUS_SUCCESS" if status == "finished" else "STATUS_FAILURE"
        content = HParamsPluginData(
            session_end_info=SessionEndInfo(status=Status.Value(name)),
            version=PLUGIN_DATA_VERSION,
        )
        metadata = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(
                plugin_name=PLUGIN_NAME, content=content.SerializeToString()
            )
        )
        writer = self._writer(trajectory)
        _add(writer, Summary(value=[Summary.Value(tag=SESSION_END_INFO_TAG, metadata=metadata)]))
        writer.close()
        del self._writers[trajectory]

    def law(
        self, figures: Mapping[str, "Figure"], scalars: Mapping[str, float | None], step: int
    ) -> None:
        """Write the law as it stands to the study's own run.

        Args:
            figures: Pictures by name, shown as `law/<name>`.
            scalars: Numbers by name: budget spent, the optimum, the width of its interval.
            step: How many observations it is fitted to.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self._writer(STUDY_RUN)
        for name, figure in figures.items():
            content, width, height = _png(figure)
            image = Summary.Image(
                encoded_image_string=content, width=width, height=height, colorspace=_RGBA
            )
            _add(writer, Summary(value=[Summary.Value(tag=f"law/{name}", image=image)]), step)
        self._scalars(STUDY_RUN, {f"study/{name}": value for name, value in scalars.items()}, step)

    def close(self) -> None:
        """Close all files. Trials in flight stay without an end, as a resume expects."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: str) -> "SummaryWriter":
        if run not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[run] = SummaryWriter(str(self._folder / run))
        return self._writers[run]

    def _scalars(self, run: str, values: Mapping[str, float | None], step: int) -> None:
        writer = self._writer(run)
        for tag, value in values.items():
            if value is not None:
                writer.add_scalar(tag, float(value), step)
        # The writer keeps events for two minutes otherwise; whoever watches sees them now.
        writer.flush()


_RGBA = 4


def _add(writer: "SummaryWriter", summary: Any, step: int | None = None) -> None:
    # Typed as None in torch, which it is only after `close`.
    file_writer: Any = writer.file_writer
    file_writer.add_summary(summary, step)


def _png(figure: "Figure") -> tuple[bytes, int, int]:
    """Return a figure as PNG, with its width and height in pixels."""
    # Without pyplot, which keeps figures alive and picks a screen back end.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(buffer)
    width, height = canvas.get_width_height()
    return buffer.getvalue(), width, height


def _plain(hparams: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in hparams.items()
        if value is not None
    }

"""Whether a run's blocks are compiled: where the steps that are left save more than it costs.

All blocks of a model are one piece of code with one shape, so it is compiled once and serves
every layer; the head and the optimiser stay as they are. Shapes are static, and evaluation, whose
batches have others, runs uncompiled. A run decides once, from its own measured steps, and keeps
to that through stops and kills: compiled code rounds differently, and a resumed run must equal a
straight one to the bit.
"""

import gc
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.world import ALONE, World

Mode = Literal["eager", "compiled"]

_logger = logging.getLogger(__name__)

_GAIN = {"cpu": 0.12}
"""Share of a step's time that compiled blocks save: measured at d 256 and 6 layers (docs/log.md).
Wider models spend more of it in matrix products, which stay as they are."""
_GAIN_ELSEWHERE = 0.15
"""The same on an accelerator: the passes over activations that are fused. An estimate that asks
little; unlike the figure above it has not been measured by us."""

_COLD_SECONDS, _WARM_SECONDS = 90.0, 10.0
"""What compiling costs the first time, and with the cache of a trial of the same shape: measured
on two shared cores, the second an upper bound."""

_MARGIN = 2.0
"""Savings must be this many times the cost: the gain is an estimate."""

_WARM_UP, _MEASURED = 1, 3
"""Steps before and during the measurement."""

_SHAPES_OF_A_PROCESS = 256
"""Shapes that one process may compile; torch stops at 8 unless told."""


class Compilation:
    """The decision of one run, and its execution.

    Args:
        config: The run.
        blocks: The model's blocks.
        device: Where it trains.
        world: Its ranks; rank 0 decides.

    Attributes:
        mode: What steps run now.
        decided: Whether that is for good.
        cache: Folder of compiled code that trials share; None: torch's own, one for each user of
            a machine.
    """

    def __init__(
        self, config: TrajectoryConfig, blocks: nn.ModuleList, device: str, world: World = ALONE
    ) -> None:
        self.mode: Mode = "eager"
        self.cache: Path | None = None
        self._wanted = config.training.compile
        # Attention within documents follows their lengths: no two steps have equal shapes.
        self.decided = self._wanted == "never" or config.model.document_attention == "within"
        self._steps = config.steps
        self._blocks = blocks
        self._device = device
        self._world = world
        self._first: int | None = None
        self._begun = 0.0

    def before_step(self, step: int, rehearse: Callable[[], None]) -> None:
        """Decide, once enough steps were measured.

        Args:
            step: The step that is about to be taken.
            rehearse: Runs a forward and a backward pass and leaves no trace: where code that does
                not compile fails.
        """
        if self.decided:
            return
        if self._wanted == "always":
            self._settle(True, rehearse)
            return
        if self._first is None:
            self._first = step
        measured = step - self._first - _WARM_UP
        if measured not in (0, _MEASURED):
            return
        if torch.device(self._device).type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if measured:
            seconds = (now - self._begun) / _MEASURED
            left = self._steps - step
            pays = self._world.agree(lambda: self._pays(left, seconds))
            self._settle(pays, rehearse)
        self._begun = now

    def resume(self, mode: Mode | None) -> None:
        """Go on as an earlier attempt of this run did; None: it had not decided."""
        if mode == "compiled":
            self._wanted = "always"
        elif mode == "eager":
            self.decided = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run the blocks uncompiled meanwhile: for shapes that are not the step's."""
        kept = [block._compiled_call_impl for block in self._blocks]
        for block in self._blocks:
            block._compiled_call_impl = None
        try:
            yield
        finally:
            for block, compiled in zip(self._blocks, kept, strict=True):
                block._compiled_call_impl = compiled

    def _pays(self, left: int, seconds: float) -> bool:
        return left > steps_that_pay(seconds, self._device, self._cost())

    def _cost(self) -> float:
        # Only a cache of the study's own says that a trial has filled it.
        filled = self.cache is not None and self.cache.is_dir() and any(self.cache.iterdir())
        return _WARM_SECONDS if filled else _COLD_SECONDS

    def _settle(self, compiled: bool, rehearse: Callable[[], None]) -> None:
        self.decided = True
        if not compiled:
            return
        error = self._compile(rehearse)
        # Ranks that run different code would still agree, but not to the bit.
        if self._world.agree(lambda: error) is None and error is None:
            self.mode = "compiled"
            return
        for block in self._blocks:
            block._compiled_call_impl = None
        _logger.warning("the blocks do not compile and run uncompiled: %s", error)

    def _compile(self, rehearse: Callable[[], None]) -> str | None:
        """Compile the blocks, and return why they would not."""
        if self.cache is not None:
            # Does nothing where the user, or an earlier run of this process, has chosen one.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self.cache))
        try:
            import torch._dynamo
            import torch._inductor.config

            limits = torch._dynamo.config
            limits.recompile_limit = max(limits.recompile_limit, _SHAPES_OF_A_PROCESS)
            limits.accumulated_recompile_limit = max(
                limits.accumulated_recompile_limit, _SHAPES_OF_A_PROCESS
            )
            if torch.device(self._device).type == "cpu":
                # Otherwise processes are started that take the cores of other trials.
                torch._inductor.config.compile_threads = 1
            for block in self._blocks:
                block.compile(fullgraph=True, dynamic=False)
            with warnings.catch_warnings(), _no_collections():
                warnings.simplefilter("ignore")
                rehearse()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return str(error).strip().splitlines()[0]
        return None


@contextmanager
def _no_collections() -> Iterator[None]:
    """Leave Python's cycles alone meanwhile: tracing makes a million objects, and looking through
    all that imports have left, again and again, takes a fifth of its time."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def predicted_saving(steps: int, step_seconds: float, device: str) -> float:
    """Return the seconds that compiled blocks would save over `steps` steps."""
    gain = _GAIN.get(torch.device(device).type, _GAIN_ELSEWHERE)
    return steps * step_seconds * gain


def steps_that_pay(step_seconds: float, device: str, cost: float = _COLD_SECONDS) -> float:
    """Return the steps from which on `auto` compiles; `cost`: of compiling, in seconds."""
    return _MARGIN * cost / predicted_saving(1, step_seconds, device)


def study_cache(folder: Path) -> Path | None:
    """Return where the trials of a study share compiled code, from the folder of one of them.

    None: the run belongs to no study.
    """
    return folder.parent.parent / "compiled" if folder.parent.name == "trajectories" else None

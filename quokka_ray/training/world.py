"""What a process knows of its peers: the ranks that train one trajectory together.

Every rank takes the same decisions at the same step, so whatever depends on a clock, a file or
the user is asked of rank 0 alone (`agree`), and whatever depends on the data is a sum over ranks
(`sum`). In a world of one nothing here costs anything, and no bit of a result changes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Answer = TypeVar("Answer")

_BUCKET_BYTES = 1 << 25


@dataclass(frozen=True)
class World:
    """The ranks that train one trajectory; by default this process alone.

    Attributes:
        rank: This process, 0 .. size - 1. Rank 0 decides, writes the record and reports.
        size: Number of processes.
        host: Group over which ranks agree on what a host decides; None in a world of one. Tensors
            travel over the default group, whose backend fits the devices.
    """

    rank: int = 0
    size: int = 1
    host: Any = None

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, rows: int) -> tuple[int, int]:
        """Return the rows, first and last + 1, of a batch of `rows` that this rank takes.

        `rows` is a multiple of the size (`checks.py`): sharded models need the same number of
        passes on every rank, and uneven shares would wait for the largest.
        """
        assert rows % self.size == 0
        each = rows // self.size
        return self.rank * each, (self.rank + 1) * each

    def rows(self, count: int) -> tuple[slice, int]:
        """Return which of `count` rows to evaluate here, and how many of them to leave out again.

        Every rank gets as many, so that all make the same number of passes: where `count` does
        not divide, the last ranks repeat rows of the ranks before them.
        """
        each = -(-count // self.size)
        begin = min(self.rank * each, count)
        first = min(begin, count - each)
        return slice(first, first + each), begin - first

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, in place.

        Tensors travel in buckets of a layout that depends on their shapes alone. It fixes the
        order of every addition, so a resumed run repeats a straight one to the bit; DDP rebuilds
        its buckets after a process's first step, which with more than two ranks changes it.
        """
        if self.size == 1:
            return
        pending: list[tuple[Any, Tensor, list[Tensor]]] = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            pending.append((dist.all_reduce(flat, async_op=True), flat, bucket))
            if len(pending) > 2:
                _unpack(*pending.pop(0))
        for work in pending:
            _unpack(*work)

    def gather(self, part: Tensor) -> Tensor:
        """Return the parts of all ranks, equal in shape, along a new first axis."""
        if self.size == 1:
            return part[None]
        whole = part.new_empty(self.size * part.numel())
        dist.all_gather_into_tensor(whole, part.reshape(-1).contiguous())
        return whole.view(self.size, *part.shape)

    def total(self, array: np.ndarray, device: str) -> np.ndarray:
        """Return the sum of a float64 array over ranks; exact where one rank alone is not 0."""
        if self.size == 1:
            return array
        tensor = torch.from_numpy(array.copy()).to(device)
        dist.all_reduce(tensor)
        total: np.ndarray = tensor.cpu().numpy()
        return total

    def agree(self, answer: Callable[[], Answer]) -> Answer:
        """Return what `answer` says on rank 0, on every rank; what it raises there, all raise."""
        if self.size == 1:
            return answer()
        said: list[Any] = [None, None]
        if self.first:
            try:
                said[0] = answer()
            except Exception as error:
                said[1] = error
        dist.broadcast_object_list(said, src=0, group=self.host)
        if said[1] is not None:
            raise said[1]
        value: Answer = said[0]
        return value

    def flags(self, mine: Sequence[bool]) -> Sequence[bool]:
        """Return rank 0's flags on every rank: what is asked before and after each step."""
        if self.size == 1:
            return mine
        said = torch.tensor(mine, dtype=torch.uint8)
        dist.broadcast(said, src=0, group=self.host)
        return [bool(flag) for flag in said.tolist()]

    def wait(self) -> None:
        """Return once every rank has come here."""
        if self.size > 1:
            dist.barrier(group=self.host)

    def mesh(self, device: str) -> "DeviceMesh":
        """Return all ranks as the mesh that parameters are sharded over."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(torch.device(device).type, (self.size,))


ALONE = World()


def joined() -> World:
    """Return the world of the default process group: what Ray Train, or torchrun, set up."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    gloo = dist.get_backend() == "gloo"
    host = dist.group.WORLD if gloo else dist.new_group(backend="gloo")
    return World(dist.get_rank(), dist.get_world_size(), host)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is spread over ranks: a DTensor, told without loading that class."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor that is sharded, and any other one as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbours of one type, up to the size of a bucket."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        if bucket and (size + nbytes > _BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += nbytes
    if bucket:
        yield bucket


def _unpack(work: Any, flat: Tensor, bucket: list[Tensor]) -> None:
    work.wait()
    parts = flat.split([tensor.numel() for tensor in bucket])
    views = [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)]
    torch._foreach_copy_(list(bucket), views)

"""Processes that torchrun started, as the peers that ``recalibrate`` shares its work with.

Source: torch.distributed; the environment that torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR …).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from normsurgery.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normsurgery.dtypes import Float64


@dataclass(frozen=True)
class Processes:
    """The processes of torch's default process group; see ``recalibration.Peers``."""

    index: int
    count: int
    device: torch.device

    def add(self, values: Float64) -> Float64:
        """Return the sum of float64 ``values`` over all processes."""
        tensor = torch.from_numpy(values.copy()).to(self.device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.SUM)
        summed: Float64 = tensor.cpu().numpy()
        return summed


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Yield the processes that torchrun started; end the process group if this call began it.

    gloo connects them, since statistics lie in main memory; in a group that somebody else began
    with nccl they go by way of this process's GPU.

    Raises ``UsageError`` outside torchrun, ``MissingPackageError`` for a torch without gloo.
    """
    ours = not distributed.is_initialized()
    if ours:
        if not distributed.is_available() or not distributed.is_gloo_available():
            raise MissingPackageError(
                "this torch is built without gloo; mend it with: pip install --upgrade torch"
            )
        absent = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
        if absent:
            raise UsageError(f"{absent[0]} is not set; start the processes with torchrun")
        distributed.init_process_group("gloo")
    try:
        with_gpu = distributed.get_backend() == "nccl"
        where = torch.device("cuda", torch.cuda.current_device()) if with_gpu else "cpu"
        yield Processes(distributed.get_rank(), distributed.get_world_size(), torch.device(where))
    finally:
        if ours:
            distributed.destroy_process_group()

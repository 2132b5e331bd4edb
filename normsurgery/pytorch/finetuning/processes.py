"""One process or several: what ``torchrun`` says, and the random generators of each process."""

from __future__ import annotations

import contextlib
import inspect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from normsurgery.errors import MissingPackageError, ModelIOError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Which of how many processes this is, and the device that it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, or one around it that averages gradients over the processes."""
        if self.size == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device.index] if self.device.type == "cuda" else None
        # Running statistics are not used in training, and rank 0's are kept: no need to send them
        # at each step. torch 2.13 has another name for that.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        new = "forward_sync_buffers"
        still: dict[str, Any] = {new if new in known else "broadcast_buffers": False}
        # static_graph: a parameter that the chosen output does not use is no error
        return DistributedDataParallel(module, device_ids=ids, static_graph=True, **still)

    def total(self, numbers: list[float]) -> list[float]:
        """Return the sums of ``numbers`` over all processes."""
        if self.size == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def gathered(self, value: Any) -> list[Any]:
        """Return what each process has as ``value``, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def world(device: str) -> Iterator[World]:
    """Yield this process's place among those that ``torchrun`` started: alone if it did not.

    device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``. A process group
    that is there already is used; one that is made here (nccl on CUDA, else gloo) is taken down
    at the end. Raises ``UsageError`` or ``MissingPackageError``, and ``ModelIOError`` in the block
    where another process is gone.
    """
    size, local_rank = _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    running = distributed.is_available() and distributed.is_initialized()
    chosen = _device(device, local_rank if size > 1 else None)
    if not running and size == 1:
        yield World(chosen)
        return
    with contextlib.ExitStack() as stack:
        if chosen.type == "cuda":  # objects are gathered over the current device
            stack.enter_context(torch.cuda.device(chosen))
        if not running:
            try:
                distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
            except (ValueError, RuntimeError) as error:
                why = f"WORLD_SIZE is {size}, but the processes do not find each other: {error}"
                raise UsageError(f"{why}; start them with torchrun, or unset it") from error
            stack.callback(distributed.destroy_process_group)
        try:
            yield World(chosen, distributed.get_rank(), distributed.get_world_size())
        except RuntimeError as error:
            if not lost(error):
                raise
            raise ModelIOError(
                "another of the processes stopped, and this one cannot go on alone; "
                "what that one said is the reason"
            ) from error


def lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone, as torch's back ends put it."""
    told = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    return told or (distributed.is_available() and isinstance(error, distributed.DistError))


@contextlib.contextmanager
def seeded(seed: int, place: World) -> Iterator[None]:
    """Seed torch's generators in the block, each process its own way; put them back after it."""
    devices = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed + place.rank)
        yield


def randoms(place: World) -> dict[str, Tensor]:
    """Return the states of the generators that this process draws from, by kind of device."""
    states = {"cpu": torch.get_rng_state()}
    if place.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(place.device)
    return states


def set_randoms(place: World, states: dict[str, Tensor]) -> None:
    """Go back to states that ``randoms`` gave; a device that is not among them keeps its own."""
    torch.set_rng_state(states["cpu"])
    if place.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], place.device)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if text and not text.isdecimal():
        raise UsageError(f"the environment variable {variable} is {text!r}, which is no number")
    return int(text) if text else default


def _device(name: str, local_rank: int | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"there is no device {name!r}; choose auto, cpu or cuda") from error
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"device {name!r} is not supported; choose auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingPackageError("no CUDA device that this torch can use; --device cpu trains too")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank if local_rank is not None else 0)
    return device

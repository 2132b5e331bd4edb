"""What a training step is fed: batches out of any iterable, shared among processes.

A *source* is a function (epoch, skip) → iterator of batches in the order of that epoch, without
the first ``skip``: so a resumed run goes on where it was cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch

from normsurgery.errors import UsageError

Source: TypeAlias = Callable[[int, int], Iterator[Any]]


@dataclass(frozen=True)
class Batch:
    """One batch as this process trains on it.

    inputs: by position, or by name. targets: whatever the loss takes. size: number of samples.
    weight: what this process's mean loss counts for in the mean over all processes' samples,
    times the number of processes: n_r·world/Σn.
    """

    inputs: tuple[Any, ...] | dict[str, Any]
    targets: Any
    size: int
    weight: float = 1.0


def shuffled(count: int, batch_size: int, seed: int, take: Callable[[np.ndarray], Any]) -> Source:
    """Return a source over ``count`` samples, each once an epoch, in an order drawn by the seed.

    The order of an epoch depends on (seed, epoch) alone, not on what was drawn before. take:
    from indices (n,) int64 to a batch. The last batch may be smaller. Raises ``UsageError``.
    """
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} samples is none; --batch-size is at least 1")
    if count < 1:
        raise UsageError("the training data holds no sample")

    def source(epoch: int, skip: int) -> Iterator[Any]:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for i in range(skip * batch_size, count, batch_size):
            yield take(order[i : i + batch_size])

    return source


def repeated(batches: Iterable[Any], epochs: int) -> Source:
    """Return a source that goes through ``batches`` once an epoch.

    Raises ``UsageError`` if they can be gone through only once and ``epochs`` is more than that.
    """
    if epochs > 1 and iter(batches) is batches:
        raise UsageError(
            f"the batches are an iterator, gone after one epoch of {epochs}: pass a list, a "
            "DataLoader or another iterable that can start again"
        )

    def source(_epoch: int, skip: int) -> Iterator[Any]:
        items = iter(batches)
        for _ in range(skip):  # now, while random generators are where they were at its start
            next(items, None)
        return items

    return source


def count(batches: Iterable[Any]) -> int | None:
    """Return how many batches there are, if the iterable knows."""
    return len(batches) if isinstance(batches, Sized) else None


def shared(batches: Iterator[Any], rank: int, world: int) -> Iterator[Batch]:
    """Yield this process's batch of every ``world`` batches that follow each other.

    Every process reads the same batches and rank r takes the r-th of each group, so that a step
    of n processes is the step of one with n-fold batches. Weights hold that to the last group,
    where a process that has no batch left computes on the first one with weight 0.
    """
    while group := [as_batch(item) for item in islice(batches, world)]:
        own = group[rank] if rank < len(group) else group[0]
        share = own.size * world / sum(b.size for b in group) if rank < len(group) else 0.0
        yield Batch(own.inputs, own.targets, own.size if rank < len(group) else 0, share)


def as_batch(item: Any) -> Batch:
    """Return the batch in an item (inputs, targets) of the caller's iterable, as tensors.

    inputs: an array or tensor, a tuple of them in the order of the model's inputs, or a mapping
    by input name. Raises ``UsageError`` for anything else.
    """
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UsageError(f"a batch is (inputs, targets), not a {type(item).__name__}")
    inputs, targets = item
    named: tuple[Any, ...] | dict[str, Any]
    if isinstance(inputs, Mapping):
        named = {name: as_tensor(value) for name, value in inputs.items()}
        first = next(iter(named.values()), None)
    else:
        values = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        named = tuple(as_tensor(value) for value in values)
        first = named[0] if named else None
    if not isinstance(first, torch.Tensor) or first.dim() == 0 or len(first) == 0:
        raise UsageError("a batch without a sample: inputs are arrays with the batch as first axis")
    return Batch(named, as_tensor(targets), len(first))


def as_tensor(value: Any) -> Any:
    """Return an array as a tensor; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return value


def finite(value: Any) -> bool:
    """Whether all numbers of inputs or targets are finite."""
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(finite(inner) for inner in value.values())
    return not isinstance(value, (tuple, list)) or all(finite(inner) for inner in value)


def to(value: Any, device: torch.device) -> Any:
    """Return inputs or targets with every tensor in them on ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: to(inner, device) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to(inner, device) for inner in value)
    return value

"""From pixels as they are stored to the numbers that a network was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normsurgery.data.inputs import Input


@dataclass(frozen=True)
class Pixels:
    """``(x − mean)/std`` per channel, where 8-bit integers were divided by 255 before.

    mean, std: one number, or one per channel; empty for none.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for a standard deviation that is not above 0, or no number."""
        for what, values in (("mean", self.mean), ("std", self.std)):
            if not np.isfinite(values).all():
                raise UsageError(f"{what} {values} has a value that is not finite")
        if any(not s > 0 for s in self.std):
            raise UsageError(f"std {self.std} has a value that is not above 0")


def fit(batch: NDArray[Any], wanted: Input, pixels: Pixels) -> NDArray[Any]:
    """Return a batch as input ``wanted`` takes it: layout, range, mean and std, type.

    batch: (N, …) as stored. Channels move from the last axis to axis 1 where the input's channels
    are there and not at axis 1. 8-bit integers become 0 … 1 for a float input. A grey image for a
    one-channel input gets its axis. Arithmetic is in float64.

    Raises ``UsageError`` where shape or channels do not fit, and for what are no real numbers or
    numbers that the input's type does not hold.
    """
    if batch.dtype.kind not in "biuf" and batch.dtype != wanted.dtype:
        raise UsageError(f"input {wanted.name!r} takes numbers, the data are {batch.dtype}")
    batch = _layout(batch, wanted)
    for axis, (size, want) in enumerate(zip(batch.shape, wanted.shape, strict=True)):
        if axis and want is not None and size != want:
            raise UsageError(
                f"data of shape {_sizes(batch.shape[1:])} does not fit input {wanted.name!r}, "
                f"which takes {_sizes(wanted.shape[1:])}"
            )
    to_float = wanted.dtype.kind == "f" or wanted.dtype.name == "bfloat16"
    stored_as_bytes = batch.dtype == np.uint8
    if not to_float or not (stored_as_bytes or pixels.mean or pixels.std):
        if wanted.dtype.kind in "iub" and batch.dtype.kind == "f":
            raise UsageError(
                f"input {wanted.name!r} takes {wanted.dtype.name}, the data are {batch.dtype.name}"
            )
        return _as_type(batch, wanted)
    values = batch.astype(np.float64)
    if stored_as_bytes:
        values /= 255.0
    if pixels.mean:
        values -= _per_channel(pixels.mean, batch, wanted, "mean")
    if pixels.std:
        values /= _per_channel(pixels.std, batch, wanted, "std")
    return _as_type(values, wanted)


def _as_type(values: NDArray[Any], wanted: Input) -> NDArray[Any]:
    """Return the values in the input's type. Raises ``UsageError`` where one is out of range."""
    with np.errstate(all="ignore"):
        made = np.ascontiguousarray(values, wanted.dtype)
    if np.can_cast(values.dtype, made.dtype, "safe") or made.dtype.kind == "b":
        return made
    if made.dtype.kind in "iu":
        lost = not np.array_equal(made, values)
    else:
        gone = ~np.isfinite(made)
        lost = bool(gone.any() and np.isfinite(values[gone]).any())
    if lost:
        raise UsageError(f"the data have values that {made.dtype} of {wanted.name!r} cannot hold")
    return made


def _layout(batch: NDArray[Any], wanted: Input) -> NDArray[Any]:
    rank = len(wanted.shape)
    if batch.ndim == rank - 1 and rank == 4 and wanted.shape[1] == 1:
        return batch[:, None]
    if batch.ndim != rank:
        raise UsageError(
            f"data of shape {_sizes(batch.shape[1:])} has {batch.ndim - 1} dimensions behind the "
            f"batch, input {wanted.name!r} takes {rank - 1}: {_sizes(wanted.shape[1:])}"
        )
    channels = wanted.shape[1] if rank > 2 else None
    if channels is not None and batch.shape[1] != channels and batch.shape[-1] == channels:
        return np.moveaxis(batch, -1, 1)
    return batch


def _per_channel(
    values: tuple[float, ...], batch: NDArray[Any], wanted: Input, what: str
) -> NDArray[np.float64]:
    axis = _channel_axis(batch, wanted, len(values))
    if len(values) not in {1, batch.shape[axis]}:
        raise UsageError(
            f"{what} has {len(values)} values, input {wanted.name!r} has {batch.shape[axis]} "
            "channels; give one value, or one a channel"
        )
    shape = [1] * batch.ndim
    shape[axis] = len(values)
    return np.asarray(values, np.float64).reshape(shape)


def _channel_axis(batch: NDArray[Any], wanted: Input, count: int) -> int:
    """Return 1, or the last axis where the input's shape, or else ``count`` alone, says so."""
    last = batch.ndim - 1
    if batch.ndim < 3:
        return 1
    first, behind = wanted.shape[1], wanted.shape[last]
    if first is None and behind is None:
        return last if batch.shape[1] != count == batch.shape[last] else 1
    colours = {1, 3, 4}
    if first is None:
        return last if behind in colours or behind == count else 1
    return last if first != count == behind and behind in colours - {first} else 1


def _sizes(shape: tuple[int | None, ...]) -> str:
    return "×".join("?" if d is None else str(d) for d in shape)

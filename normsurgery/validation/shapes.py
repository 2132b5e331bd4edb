"""In which shapes a model runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normsurgery.errors import InvalidModelError, NormSurgeryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from normsurgery.validation.specs import InputSpec

LADDER = (64, 32, 224, 16, 8, 128, 1)
"""Sizes tried for the dynamic dimensions other than the batch, until the model runs."""
_VOLUME_LADDER = (32, 16, 64, 8, 1)
# Of a signal: one free axis beside the batch. 16,000 is a second of speech.
_SIGNAL_LADDER = (*LADDER, 1024, 16000)


def resolve(
    wanted: Sequence[InputSpec],
    *,
    batch: int = 1,
    size: int = 64,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """A concrete shape per input: `batch` for a dynamic first axis, `size` for the others.

    A dimension name means one size everywhere. `shapes` overrides whole shapes by input name
    and decides the named dimensions that it covers for the other inputs.

    Raises:
        UsageError: `shapes` names no input, or is of another rank or at odds with a fixed size.

    """
    given = dict(shapes or {})
    unknown = sorted(set(given) - {spec.name for spec in wanted})
    if unknown:
        raise UsageError(f"the model has no input {unknown[0]!r} to give a shape")
    known: dict[str, int] = {}
    for spec in wanted:
        if spec.name in given:
            _learn(spec, tuple(given[spec.name]), known)
    resolved = {}
    for spec in wanted:
        shape = []
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            default = batch if axis == 0 else size
            if axis == 1 and spec.channels:
                default = spec.channels
            elif axis == 1 and len(spec.shape) > 3 and not isinstance(spec.shape[-1], int):
                default = 3  # an image of unknown channels; with a fixed last axis it is NHWC
            shape.append(known.setdefault(dim, default) if dim else default)
        resolved[spec.name] = tuple(given.get(spec.name, shape))
    return resolved


def fit(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, tuple[int, ...]]], object],
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The first shapes of the ladder in which `attempt`, a run of the model, succeeds.

    Raises:
        NormSurgeryError: as `attempt` raises it for the first shapes, if none are taken.

    """
    sizes: Sequence[int] = _VOLUME_LADDER if any(len(spec.shape) > 4 for spec in wanted) else LADDER
    if all(sum(isinstance(dim, str) for dim in spec.shape[1:]) < 2 for spec in wanted):
        sizes = _SIGNAL_LADDER
    first: NormSurgeryError | None = None
    tried = []
    for size in sizes:
        candidate = resolve(wanted, batch=batch, size=size, shapes=shapes)
        if candidate in tried:
            continue
        tried.append(candidate)
        try:
            attempt(candidate)
        except NormSurgeryError as failure:
            first = first or failure
        else:
            return candidate
    if isinstance(first, InvalidModelError) and len(tried) > 1:
        shape = ", ".join(f"{name}={'x'.join(map(str, s))}" for name, s in tried[0].items())
        what = f"the model runs with none of {len(tried)} shapes, from {shape} on"
        raise InvalidModelError(f"{what}: give one with --shape; {first}") from first
    raise first or UsageError("the model has no shapes to try")


def smaller(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, tuple[int, ...]]], object],
    found: Mapping[str, tuple[int, ...]],
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shapes of other dynamic dimensions than those of `found`, in which `attempt` succeeds too.

    Smaller ones, since a float64 run may have to follow, but not tiny; `found` if there are none.
    Where height and width are free, the width stays as it is: two axes that somebody swapped look
    alike in a square. A size is odd where the model takes that, and so are halves of it that are
    rounded up, 33, 17, 9: rounding the other way, or padding the other side, shows only then.
    """
    most = _elements(found)
    for size in (other for even in LADDER for other in (even + 1, even)):
        candidate = resolve(wanted, batch=batch, size=size, shapes=shapes)
        if not most / 20 <= _elements(candidate) < most:
            continue
        try:
            attempt(candidate)
        except NormSurgeryError:
            continue
        uneven = _as_wide_as(wanted, candidate, found)
        try:
            attempt(uneven)
        except NormSurgeryError:
            return candidate
        return uneven
    return dict(found)


def _as_wide_as(
    wanted: Sequence[InputSpec],
    shapes: Mapping[str, tuple[int, ...]],
    other: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """`shapes` with the last axis of `other`, where it and the one before are free and unlike."""
    made, known = {}, dict[str, int]()
    for spec in wanted:
        shape = shapes[spec.name]
        last = spec.shape[-1:]
        if len(shape) > 3 and not isinstance(spec.shape[-2], int) and not isinstance(last[0], int):
            shape = (*shape[:-1], other[spec.name][-1])
        made[spec.name] = shape
        for dim, size in zip(spec.shape, shape, strict=True):
            if dim and isinstance(dim, str) and known.setdefault(dim, size) != size:
                return dict(shapes)  # one name, which stands for one size
    return made


def _elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _learn(spec: InputSpec, shape: tuple[int, ...], known: dict[str, int]) -> None:
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, shape, strict=True)
    )
    if not fits or min(shape, default=1) < 1:
        raise UsageError(f"input {spec.name!r} is {spec.shape}, which {shape} does not fit")
    named = zip(spec.shape, shape, strict=True)
    known |= {dim: size for dim, size in named if isinstance(dim, str) and dim}

"""Stored tensors against the values that they should have, in units of the last place."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.dtypes import FLOATS, error_in_ulp, name_of
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from normsurgery.dtypes import Array, Float64
    from normsurgery.tensors import TensorStore
    from normsurgery.validation.pairing import Leaf


@dataclass(frozen=True)
class TensorCertificate:
    """One tensor, or one layer, in ULP.

    Attributes:
        tensor: its name in the candidate.
        count: coefficients compared.
        max_ulp: the largest error, infinite where one is not finite; `mean_ulp` the mean one.
        worst: the index of the largest error; for weights and biases the first is the channel.
        expected: the float64 value there, and `found` the stored one.

    """

    tensor: str
    count: int
    max_ulp: float
    mean_ulp: float
    worst: tuple[int, ...]
    expected: float
    found: float

    @property
    def place(self) -> str:
        """Where the largest error is: ``conv1.weight_folded[3, 0, 1, 1]``."""
        return f"{self.tensor}[{', '.join(map(str, self.worst))}]"


@dataclass
class Compared:
    """All constants of two graphs: those that were computed, and those that are copies."""

    tensors: tuple[TensorCertificate, ...]
    equal: int
    other: tuple[tuple[TensorCertificate, float], ...]  # copies that are none; the share that is
    unlike: tuple[str, ...]
    altered: tuple[str, ...] = ()  # quantized weights of which most are as they were

    def failures(self, bound: float) -> list[str]:
        """Return what a fold would not have written, one line each."""
        wrong = [
            f"`{one.place}` is {one.found:.9g}, {one.max_ulp:.3g} ulp from {one.expected:.9g}"
            for one in self.tensors
            if not one.max_ulp <= bound
        ]
        copies = [
            f"`{one.place}` is {one.found:.9g}, and {one.expected:.9g} in the reference; "
            "fold leaves it alone"
            for one, _ in self.other
        ]
        return [*wrong, *copies, *self.unlike]

    def few(self, bound: float) -> list[str]:
        """Return the copies of which most elements agree and some are off by over ``bound``.

        Integers of 8 bits and fewer are off if they differ.
        """
        floats = [
            f"`{one.place}` is {one.found:.9g}, and {one.expected:.9g} in the reference, which "
            "has the same values elsewhere"
            for one, share in self.other
            if not one.max_ulp <= bound and 0 < share <= 0.5
        ]
        return [*floats, *self.altered]


def compare(leaves: Iterable[Leaf], expected: TensorStore, found: TensorStore) -> Compared:
    """Compare constants in pairs; one tensor after the other, so that one is held at a time."""
    tensors, other, unlike, altered, equal = [], [], [], [], 0
    for ours, theirs in leaves:
        name = theirs.name or ours.name
        if (ours.data_type, list(ours.dims)) != (theirs.data_type, list(theirs.dims)):
            kind = f"{name_of(theirs.data_type)} {list(theirs.dims)}"
            was = f"{name_of(ours.data_type)} {list(ours.dims)}"
            unlike.append(f"`{name}` is {kind} in place of {was}")
            continue
        stored = found.array(theirs)
        payload = expected.payload(ours)
        if isinstance(payload, Computed) and payload.elem_type in FLOATS and stored.size:
            tensors.append(_certify(name, payload, stored))
            continue
        copy = expected.array(ours)
        if _same_bytes(copy, stored):
            equal += 1
        elif ours.data_type in FLOATS:
            wide = copy.astype(np.float64)
            share = float(np.mean(error_in_ulp(wide, stored, ours.data_type) > 0))
            other.append((_entry(name, wide, stored, ours.data_type), share))
        else:
            differ = int(np.sum(copy != stored))
            unlike.append(
                f"`{name}` differs from the reference in {differ} of {copy.size} elements"
            )
            if copy.dtype.itemsize == 1 and copy.dtype.kind != "b" and 2 * differ <= copy.size:
                altered.append(unlike[-1])
    return Compared(tuple(tensors), equal, tuple(other), tuple(unlike), tuple(altered))


def _certify(name: str, payload: Computed, stored: Array) -> TensorCertificate:
    """Compare block by block: a float64 copy of some ten thousand elements at a time."""
    flat, at = stored.reshape(-1), 0
    parts: list[tuple[int, TensorCertificate]] = []
    for exact in payload.blocks():
        piece = flat[at : at + exact.size]
        parts.append((at, _entry(name, exact.ravel(), piece, payload.elem_type)))
        at += exact.size
    first, worst = max(parts, key=lambda part: part[1].max_ulp)
    index = np.unravel_index(first + worst.worst[0], stored.shape)
    return TensorCertificate(
        name,
        at,
        worst.max_ulp,
        sum(part.mean_ulp * part.count for _, part in parts) / at,
        tuple(int(i) for i in index),
        worst.expected,
        worst.found,
    )


def _entry(name: str, exact: Float64, stored: Array, elem_type: int) -> TensorCertificate:
    with np.errstate(invalid="ignore"):
        errors = error_in_ulp(exact, stored, elem_type)
        # what is not finite must be the same NaN or the same infinity
        values = stored.astype(np.float64)
        odd = ~(np.isfinite(exact) & np.isfinite(values))
        same = (exact == values) | (np.isnan(exact) & np.isnan(values))
    errors = np.where(odd, np.where(same, 0.0, np.inf), errors)
    return summed_up(name, errors, exact, values)


def summed_up(name: str, errors: Float64, exact: Float64, values: Float64) -> TensorCertificate:
    """Return the entry of a tensor whose errors in ULP are known, shapes all alike."""
    if not errors.size:
        return TensorCertificate(name, 0, 0.0, 0.0, (), 0.0, 0.0)
    index = np.unravel_index(int(np.argmax(errors)), errors.shape)
    worst = float(errors[index])
    return TensorCertificate(
        name,
        errors.size,
        float("inf") if isnan(worst) else worst,
        float(np.mean(errors)),
        tuple(int(i) for i in index),
        float(exact[index]),
        float(values[index]),
    )


def _same_bytes(one: Array, other: Array) -> bool:
    if one.dtype.kind == "O":  # strings
        return bool(np.array_equal(one, other))
    return one.tobytes() == other.tobytes()

"""What a tensor's bytes are before they are written: a slice of a file, or a computation.

A payload knows its size and yields its bytes in blocks, so that a model of any size passes
through a few megabytes of memory.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from math import inf, isnan
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from normsurgery.dtypes import FLOATS, Array, Float64, Scratch, numpy_dtype, round_to, ulps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normsurgery.source import Source

BLOCK = 1 << 15  # elements of a computed block: its float64 copy stays in a core's cache


class Payload(Protocol):
    """The bytes of one tensor."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def write(self, target: BinaryIO) -> None:
        """Write all bytes to ``target`` at its position."""


@dataclass(frozen=True)
class Slice:
    """``length`` bytes of a source, never copied into this process where the system can."""

    source: Source
    offset: int
    length: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.length

    def view(self) -> memoryview:
        """Return the bytes without copying them."""
        return self.source.view[self.offset : self.offset + self.length]

    def write(self, target: BinaryIO) -> None:
        """Copy from file to file inside the kernel; else from the map."""
        done = self._copy_in_kernel(target)
        view = self.view() if done < self.length else memoryview(b"")
        while done < self.length:
            step = min(self.length - done, 1 << 22)
            target.write(view[done : done + step])
            done += step

    def _copy_in_kernel(self, target: BinaryIO) -> int:
        """Return how many bytes the kernel copied: all, or those before it would not go on."""
        done = 0
        with self.source.file() as source:
            if source is None or not hasattr(os, "copy_file_range"):
                return 0
            try:
                to = target.fileno()
                target.flush()
            except io.UnsupportedOperation:  # no file
                return 0
            with contextlib.suppress(OSError):  # other file system, pipe, old kernel
                while done < self.length and (
                    n := os.copy_file_range(
                        source.fileno(), to, self.length - done, offset_src=self.offset + done
                    )
                ):
                    done += n
        if done:  # tell the buffer of ``target`` where its file is now
            target.seek(0, os.SEEK_CUR)
        return done


@dataclass
class Certificate:
    """How far the written coefficients of one tensor are from their float64 values."""

    count: int = 0
    max_ulp: float = 0.0
    sum_ulp: float = 0.0

    @property
    def mean_ulp(self) -> float:
        """Mean error in units in the last place."""
        return self.sum_ulp / self.count if self.count else 0.0


@dataclass(eq=False)
class Computed:
    """A float tensor that is computed when it is written: ``round(base · factor · factor …)``.

    base: any dtype, shape of the tensor; often a memory map.
    factors: float64, each broadcasts against ``base`` without widening it.
    elem_type: the float type that the product, formed in float64, is rounded to, once.
    """

    base: Array
    factors: tuple[Float64, ...]
    elem_type: int
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        """Give every factor the rank of ``base``, so that both can be cut alike."""
        rank = self.base.ndim
        self.factors = tuple(f.reshape((1,) * (rank - f.ndim) + f.shape) for f in self.factors)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.base.size * np.dtype(numpy_dtype(self.elem_type)).itemsize

    def scaled(self, factor: Float64) -> Computed:
        """Return this tensor times ``factor``, still unrounded."""
        factor = factor.reshape((1,) * (self.base.ndim - factor.ndim) + factor.shape)
        if self.factors and self.factors[-1].shape == factor.shape:
            return Computed(
                self.base, (*self.factors[:-1], self.factors[-1] * factor), self.elem_type
            )
        return Computed(self.base, (*self.factors, factor), self.elem_type)

    def float64(self) -> Float64:
        """Return all values, unrounded: a new array."""
        return _product(self.base, self.factors)

    def blocks(self) -> Iterator[Float64]:
        """Yield the unrounded values, in order, some ten thousand at a time."""
        for base, factors in _blocks(self.base, self.factors):
            yield _product(base, factors)

    def certify(self) -> Certificate:
        """Return the certificate, computing the values if nothing has been written yet."""
        return self.certificate or self._round_all(None)

    def write(self, target: BinaryIO) -> None:
        """Compute, round and write block by block; certify each block on the way."""
        self._round_all(target)

    def _round_all(self, target: BinaryIO | None) -> Certificate:
        certificate = Certificate()
        scratch = Scratch()
        for base, factors in _blocks(self.base, self.factors):
            exact = _product(base, factors, scratch.like(0, base))
            rounded = round_to(exact, self.elem_type)
            if target is not None:
                target.write(np.ascontiguousarray(rounded).view(np.uint8).data)
            if exact.size and self.elem_type in FLOATS:
                worst, total = ulps(exact, rounded, self.elem_type, scratch)
                certificate.count += exact.size
                certificate.max_ulp = max(certificate.max_ulp, inf if isnan(worst) else worst)
                certificate.sum_ulp += total
        self.certificate = certificate
        return certificate


def _product(base: Array, factors: tuple[Float64, ...], out: Float64 | None = None) -> Float64:
    """Return the product in a new array, or in ``out``."""
    values = np.empty(base.shape) if out is None else out
    np.copyto(values, base)
    for factor in factors:
        np.multiply(values, factor, out=values)
    return values


def blocks_of(base: Array) -> Iterator[Array]:
    """Yield ``base`` in views of some ten thousand elements, whole along all axes but the first."""
    rows = max(1, BLOCK * base.shape[0] // max(1, base.size)) if base.ndim else 1
    if base.ndim == 0:
        yield base
        return
    for first in range(0, base.shape[0], rows):
        yield base[first : first + rows]


def _blocks(
    base: Array, factors: tuple[Float64, ...]
) -> Iterator[tuple[Array, tuple[Float64, ...]]]:
    """Cut along the first axes into blocks of about ``BLOCK`` elements (views, not copies)."""
    if base.ndim == 0 or base.size <= BLOCK:
        yield base, factors
        return
    row = base.size // base.shape[0]
    if row > BLOCK and base.ndim > 1:  # one row is too much already: cut within rows
        for i, inner in enumerate(base):
            yield from _blocks(inner, tuple(f[i if f.shape[0] > 1 else 0] for f in factors))
        return
    rows = max(1, BLOCK // row)
    for first in range(0, base.shape[0], rows):
        part = slice(first, first + rows)
        yield base[part], tuple(f[part] if f.shape[0] > 1 else f for f in factors)

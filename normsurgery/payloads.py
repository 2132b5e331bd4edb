"""What a tensor's bytes are before they are written: a slice of a file, or a computation.

A payload knows its size and yields its bytes in blocks, so that a model of any size passes
through a few megabytes of memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass, field
from math import inf, isnan
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from normsurgery.dtypes import Array, Float64, error_in_ulp, numpy_dtype, round_to
from normsurgery.errors import ModelIOError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 1 << 16  # elements of a computed block: its float64 copy stays in a core's cache


class Payload(Protocol):
    """The bytes of one tensor."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def write(self, target: BinaryIO) -> None:
        """Write all bytes to ``target`` at its position."""


class Source:
    """Bytes that payloads are slices of: a file, mapped read-only, or an object in memory."""

    def __init__(self, view: memoryview, file: BinaryIO | None = None) -> None:
        self.view = view
        self.file = file

    @classmethod
    def of_file(cls, file: BinaryIO, path: Path) -> Source:
        """Map an open regular file; it stays open as long as the Source lives."""
        try:
            size = os.fstat(file.fileno()).st_size
            if size == 0:  # an empty file cannot be mapped
                return cls(memoryview(b""))
            return cls(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), file)
        except (OSError, ValueError) as error:
            raise ModelIOError(f"cannot read {path}: {error}") from error


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
        done = 0
        if self.source.file is not None and hasattr(os, "copy_file_range"):
            with contextlib.suppress(OSError):  # other file system, pipe, old kernel
                done = self._copy_in_kernel(self.source.file.fileno(), target)
        while done < self.length:
            step = min(self.length - done, 1 << 22)
            target.write(self.source.view[self.offset + done : self.offset + done + step])
            done += step

    def _copy_in_kernel(self, source: int, target: BinaryIO) -> int:
        target.flush()
        done = 0
        while done < self.length:
            n = os.copy_file_range(
                source, target.fileno(), self.length - done, offset_src=self.offset + done
            )
            if n == 0:
                break
            done += n
        target.seek(0, os.SEEK_CUR if target.seekable() else os.SEEK_SET)
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


@dataclass
class Computed:
    """A float tensor that is computed when it is written: ``round(base · factor · factor …)``.

    base: any dtype, shape of the tensor; often a memory map.
    factors: float64, each broadcasts against ``base`` without widening it.
    elem_type: what the product, formed in float64, is rounded to, once.
    """

    base: Array
    factors: tuple[Float64, ...]
    elem_type: int
    certificate: Certificate | None = field(default=None, compare=False)

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
        for exact in self.blocks():
            rounded = round_to(exact, self.elem_type)
            if target is not None:
                target.write(np.ascontiguousarray(rounded).view(np.uint8).data)
            if exact.size:
                error = error_in_ulp(exact, rounded, self.elem_type)
                worst = float(error.max())
                certificate.count += error.size
                certificate.max_ulp = max(certificate.max_ulp, inf if isnan(worst) else worst)
                certificate.sum_ulp += float(error.sum())
        self.certificate = certificate
        return certificate


def _product(base: Array, factors: tuple[Float64, ...]) -> Float64:
    values = np.array(base, dtype=np.float64)
    for factor in factors:
        values *= factor
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

"""Where stored bytes lie: an object in memory, or a file that is mapped and never read whole.

The model's own file stays open, so that it may be replaced while it is being read. A data file is
open only while somebody looks at its bytes: exporters write models of thousands of data files, one
for each tensor, and a process may not have so many open.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
import weakref
from typing import TYPE_CHECKING, BinaryIO

from normsurgery.errors import ModelIOError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Source:
    """Bytes that payloads are slices of; in memory, unless a subclass says otherwise."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.size = len(data)

    @property
    def view(self) -> memoryview:
        """All bytes, not copied."""
        return self._data

    @contextlib.contextmanager
    def file(self) -> Iterator[BinaryIO | None]:
        """Yield the open file that the bytes lie in, at their own offsets; None if in memory."""
        yield None


class OpenFile(Source):
    """A file that is open as long as this object lives."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Map ``file``, an open regular file. Raises ``ModelIOError``."""
        self._file = file
        try:
            super().__init__(_mapped(file))
        except (OSError, ValueError) as error:
            file.close()
            raise ModelIOError(f"cannot read {path}: {error}") from error
        weakref.finalize(self, file.close)

    @contextlib.contextmanager
    def file(self) -> Iterator[BinaryIO | None]:
        """Yield the file."""
        yield self._file


class ClosedFile(Source):
    """A file that is opened when it is looked at; its map lives as long as the views of it."""

    def __init__(self, opened: Callable[[], BinaryIO], size: int) -> None:
        """``opened`` opens the file and raises if that is not the same file of ``size`` bytes."""
        self._opened = opened
        self._map: Callable[[], mmap.mmap | None] = lambda: None
        self.size = size

    @property
    def view(self) -> memoryview:
        """All bytes, not copied. Raises what ``opened`` raises."""
        mapped = self._map()
        if mapped is not None:
            return memoryview(mapped)
        with self._opened() as file:
            try:
                view = _mapped(file)
            except (OSError, ValueError) as error:
                raise ModelIOError(f"cannot read {file.name}: {error}") from error
        if isinstance(view.obj, mmap.mmap):
            self._map = weakref.ref(view.obj)
        return view

    @contextlib.contextmanager
    def file(self) -> Iterator[BinaryIO | None]:
        """Yield the file, open inside the block only."""
        with self._opened() as file:
            yield file


def sha256(source: Source) -> Callable[[], str]:
    """Start hashing all bytes in a thread, beside other work; the result waits for the hex digest.

    hashlib lets other threads run meanwhile, so on two cores the hash of a file costs no time.
    """
    digest = hashlib.sha256()

    def update() -> None:
        view = source.view
        for first in range(0, len(view), 1 << 20):
            digest.update(view[first : first + (1 << 20)])

    thread = threading.Thread(target=update, daemon=True)
    thread.start()

    def result() -> str:
        thread.join()
        return digest.hexdigest()

    return result


def _mapped(file: BinaryIO) -> memoryview:
    if os.fstat(file.fileno()).st_size == 0:  # an empty file cannot be mapped
        return memoryview(b"")
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

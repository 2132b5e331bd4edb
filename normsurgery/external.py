"""Hardened access to external data: the only place that follows a path found in a model.

A model may name files for its tensors (``external_data`` of TensorProto, docs/ExternalData.md of
onnx). A hostile one names ``/etc/passwd`` or a pipe; so a location has to be a regular file with
one name, inside the model's own folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

from normsurgery.errors import GraphError, MissingDataError, UnsafeModelError
from normsurgery.payloads import Slice
from normsurgery.source import ClosedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import TensorProto

    from normsurgery.source import Source


def allowed_folders(model: Path) -> tuple[Path, ...]:
    """Return the real folders that a model's data may lie in.

    Download caches lay a model out as a symbolic link into a folder of blobs, its data beside it
    likewise: then the folder that the model's link points into is allowed too.
    """
    return (model.parent.resolve(), model.resolve().parent)


def open_data(location: str, model: Path, tensor: str) -> ClosedFile:
    """Find the file that ``tensor`` names; ``model`` is the path of the model that names it.

    Raises ``UnsafeModelError`` for anything but a regular file inside the model's folder, and
    ``MissingDataError`` where there is none.
    """
    what = f"external data {location!r} of tensor {tensor!r}"
    windows = PureWindowsPath(location)
    if not location or "\0" in location or windows.is_absolute() or windows.drive or windows.root:
        raise UnsafeModelError(f"{what} is not a relative path; repair the model's external_data")
    if ".." in windows.parts:
        raise UnsafeModelError(f"{what} leaves the model's folder; repair the model")
    with _told(what):
        folders = allowed_folders(model)
        path = next((p for f in folders if os.path.lexists(p := f / location)), None)
        if path is None:
            raise FileNotFoundError(f"it is not there; put the file beside {model}")
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(folder) for folder in folders):
            raise UnsafeModelError(
                f"{what} is a link that leaves the model's folder; copy the file"
            )
        status = real.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeModelError(f"{what} is not a regular file; copy the data into one")
    if status.st_nlink > 1:
        raise UnsafeModelError(f"{what} is a hard link to another file; copy it")
    opened = partial(_open_same, real, status, what)
    opened().close()  # say now that it cannot be read
    return ClosedFile(opened, status.st_size)


def _open_same(real: Path, status: os.stat_result, what: str) -> BinaryIO:
    """Open the file that ``status`` was taken of, and no other that took its place."""
    # not blocking: a FIFO would wait for a writer; not following: the path is resolved
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    with _told(what):
        file = os.fdopen(os.open(real, flags | getattr(os, "O_BINARY", 0)), "rb", buffering=0)
    now = os.fstat(file.fileno())
    if _identity(now) != _identity(status):
        file.close()
        raise UnsafeModelError(f"{what} changed while it was in use; try again")
    return file


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn errors of the file system into ``MissingDataError``."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise MissingDataError(f"{what} cannot be read: {reason}") from error


def slice_of(tensor: TensorProto, source: Source, size: int) -> Slice:
    """Return the bytes that ``tensor`` claims in ``source``; it must need exactly ``size``.

    Raises ``GraphError`` for another length, and ``MissingDataError`` where the file is too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size)))
    except ValueError:
        raise GraphError(f"tensor {tensor.name!r}: offset or length is no number") from None
    if offset < 0 or length != size:
        raise GraphError(
            f"tensor {tensor.name!r} needs {size} bytes, its external data is {length} at {offset}"
        )
    if offset + length > source.size:
        raise MissingDataError(
            f"external data of tensor {tensor.name!r} ends at byte {offset + length}, the file at "
            f"{source.size}; fetch the file again"
        )
    return Slice(source, offset, length)

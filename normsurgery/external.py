"""Hardened access to external data: the only place that follows a path found in a model.

A model may name files for its tensors (``external_data`` of TensorProto, docs/ExternalData.md of
onnx). A hostile one names ``/etc/passwd`` or a pipe; so a location has to be a regular file with
one name, inside the model's own folder.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from normsurgery.errors import GraphError, MissingDataError, ModelIOError, UnsafeModelError
from normsurgery.payloads import Slice, Source

if TYPE_CHECKING:
    from onnx import TensorProto


def allowed_folders(model: Path) -> tuple[Path, ...]:
    """Return the real folders that a model's data may lie in.

    Download caches lay a model out as a symbolic link into a folder of blobs, its data beside it
    likewise: then the folder that the model's link points into is allowed too.
    """
    return (model.parent.resolve(), model.resolve().parent)


def open_data(location: str, model: Path, tensor: str) -> Source:
    """Map the file that ``tensor`` names; ``model`` is the path of the model that names it.

    Raises ``UnsafeModelError`` for anything but a regular file inside the model's folder, and
    ``MissingDataError`` where there is none.
    """
    what = f"external data {location!r} of tensor {tensor!r}"
    windows = PureWindowsPath(location)
    if not location or "\0" in location or windows.is_absolute() or windows.drive or windows.root:
        raise UnsafeModelError(f"{what} is not a relative path; repair the model's external_data")
    if ".." in windows.parts:
        raise UnsafeModelError(f"{what} leaves the model's folder; repair the model")
    candidates = [folder / location for folder in allowed_folders(model)]
    path = next((p for p in candidates if os.path.lexists(p)), None)
    if path is None:
        raise MissingDataError(f"{what} is not there; put the file beside {model}")
    try:
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(folder) for folder in allowed_folders(model)):
            raise UnsafeModelError(
                f"{what} is a link that leaves the model's folder; copy the file"
            )
        # not blocking: a FIFO would wait for a writer; not following: the path is resolved
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
        before = real.stat()
        if not stat.S_ISREG(before.st_mode):
            raise UnsafeModelError(f"{what} is not a regular file; copy the data into one")
        file = os.fdopen(os.open(real, flags | getattr(os, "O_BINARY", 0)), "rb", buffering=0)
        status = os.fstat(file.fileno())
        if not os.path.samestat(before, status):
            raise UnsafeModelError(f"{what} changed while it was opened; try again")
        if status.st_nlink > 1:
            raise UnsafeModelError(f"{what} is a hard link to another file; copy it")
    except OSError as error:
        if isinstance(error, ModelIOError):
            raise
        raise MissingDataError(f"{what} cannot be read: {error.strerror or error}") from error
    return Source.of_file(file, real)


def slice_of(tensor: TensorProto, source: Source, size: int) -> Slice:
    """Return the bytes that ``tensor`` claims in ``source``; it must need exactly ``size``."""
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
    if offset + length > len(source.view):
        raise MissingDataError(
            f"external data of tensor {tensor.name!r} ends at byte {offset + length}, the file at "
            f"{len(source.view)}; fetch the file again"
        )
    return Slice(source, offset, length)

"""Write the external data file that goes with a saved model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, BinaryIO, cast

from onnx import TensorProto

from normsurgery import atomic, wire
from normsurgery.tensors import clear_payload, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from normsurgery.content import Content
    from normsurgery.payloads import Payload

ALIGNMENT = 4096  # of every tensor, so that runtimes can map it
SMALLEST = 1024  # bytes; what is smaller stays in the model


@contextlib.contextmanager
def moved_out(
    content: Content, path: Path, *, was_external: list[bool], checksum: bool
) -> Iterator[Path | None]:
    """Move large tensors of ``content`` to a file beside ``path``; yield its path, None if none is.

    Initializers go, and attributes that were external before (not every runtime reads others).
    The name holds the SHA-256 of the file, so that an older output's data is never overwritten.
    If the block ends with an error, the file goes, unless ``path`` uses it: because the block had
    put the model there already, or because an older output has the same data.

    was_external: for each tensor of ``content``, in order. checksum: also write the SHA-1 that
    ``external_data`` may carry. Raises ``OSError``.
    """
    tensors = _movable(content, was_external)
    if not tensors:
        yield None
        return
    before = atomic.identity(path)
    with contextlib.ExitStack() as undo:
        with atomic.temporary(path) as (name, file):
            places: dict[int, dict[str, str]] = {}
            for _, index in tensors:
                if index not in places:
                    places[index] = _write(content.payloads[index][0], file)
            digest = _digest(file, "sha256")
            data_path = path.with_name(f"{_portable(path.name)}.{digest[:16]}.data")
            sha1 = {"checksum": _digest(file, "sha1")} if checksum else {}
            for tensor, index in tensors:
                _point(tensor, {"location": data_path.name} | places[index] | sha1)
            if not _holds(data_path, digest):  # else it stays: an older output may be mapped
                undo.callback(_remove_unused, data_path, path, before)
                atomic.commit(file, name, data_path)
        yield data_path
        undo.pop_all()


def _movable(content: Content, was_external: list[bool]) -> list[tuple[TensorProto, int]]:
    """Return the tensors to move and their tokens, which copies of a tensor share."""
    initializers = {_token(tensor, content) for tensor in content.proto.graph.initializer}
    return [
        (tensor, index)
        for tensor, external in zip(tensors_in(content.proto), was_external, strict=True)
        if (index := _token(tensor, content)) is not None
        and (external or index in initializers)
        and content.payloads[index][0].nbytes >= SMALLEST
    ]


def _token(tensor: TensorProto, content: Content) -> int | None:
    return wire.token_index(tensor.raw_data, content.nonce)


def _write(payload: Payload, file: BinaryIO) -> dict[str, str]:
    """Write a payload and return the entries that say where."""
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    offset = file.tell()
    payload.write(file)
    return {"offset": str(offset), "length": str(payload.nbytes)}


def _holds(path: Path, digest: str) -> bool:
    """Whether a file of this content is there, of the kind that loading accepts."""
    if path.is_symlink() or not path.is_file() or path.stat().st_nlink > 1:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _remove_unused(data_path: Path, path: Path, before: tuple[int, ...] | None) -> None:
    if atomic.identity(path) == before:
        data_path.unlink(missing_ok=True)


def _portable(name: str) -> str:
    """Return a name that every system, and a location inside a model, can have."""
    return re.sub(r"[^\w.+-]", "_", name)


def _digest(file: BinaryIO, name: str) -> str:
    file.seek(0)
    digest = hashlib.file_digest(cast("BufferedReader", file), name).hexdigest()
    file.seek(0, os.SEEK_END)
    return digest


def _point(tensor: TensorProto, entries: dict[str, str]) -> None:
    clear_payload(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)

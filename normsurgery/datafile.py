"""Write the external data file that goes with a saved model."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO, cast

from onnx import TensorProto

from normsurgery import atomic, wire
from normsurgery.tensors import clear_payload, tensors_in

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

    from normsurgery.io import Content

ALIGNMENT = 4096  # of every tensor, so that runtimes can map it
SMALLEST = 1024  # bytes; what is smaller stays in the model


def move_out(content: Content, path: Path, *, was_external: list[bool], checksum: bool) -> Path:
    """Write large tensors of ``content`` to a file beside ``path`` and point the model at it.

    Initializers go, and attributes that were external before (not every runtime reads others).
    The name holds the SHA-256 of the file, so that an older output's data is never overwritten.
    checksum: also write the SHA-1 that ``external_data`` may carry.
    """
    movable = {id(tensor) for tensor in content.proto.graph.initializer}
    with atomic.temporary(path) as (name, file):
        moved: list[tuple[TensorProto, int, int]] = []
        for tensor, external in zip(tensors_in(content.proto), was_external, strict=True):
            index = wire.token_index(tensor.raw_data, content.nonce)
            if index is None or not (external or id(tensor) in movable):
                continue
            payload = content.payloads[index][0]
            if payload.nbytes >= SMALLEST:
                offset = _align(file)
                payload.write(file)
                moved.append((tensor, offset, payload.nbytes))
                del content.payloads[index]
        file.flush()
        digest = _digest(file, "sha256")
        data_path = path.with_name(f"{path.name}.{digest[:16]}.data")
        sha1 = _digest(file, "sha1") if checksum else None
        for tensor, offset, size in moved:
            _point(tensor, data_path.name, offset, size, sha1)
        atomic.commit(file, name, data_path)
    return data_path


def _align(file: BinaryIO) -> int:
    at = file.tell()
    gap = -at % ALIGNMENT
    file.write(b"\0" * gap)
    return at + gap


def _digest(file: BinaryIO, name: str) -> str:
    file.seek(0)
    digest = hashlib.file_digest(cast("BufferedReader", file), name).hexdigest()
    file.seek(0, os.SEEK_END)
    return digest


def _point(tensor: TensorProto, location: str, offset: int, length: int, sha1: str | None) -> None:
    clear_payload(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    if sha1 is not None:
        entries["checksum"] = sha1
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)

"""Load a model as a skeleton with its weights left on disk, and save it so that nothing is lost.

``save`` streams what was not touched straight from source to target and computes what was. The
target appears whole or not at all: temporary files in its folder, fsync, then ``os.replace``, data
before model, so that a kill or a full disk leaves the old output as it was.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from normsurgery import atomic, datafile
from normsurgery.content import Content
from normsurgery.errors import InvalidModelError, ModelIOError, OutputExistsError, UsageError
from normsurgery.source import OpenFile, Source
from normsurgery.tensors import TensorStore, foreign_names, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOBUF_LIMIT = (1 << 31) - 1  # bytes of one protobuf message


@dataclass
class Model:
    """A model in memory: a small ModelProto, and the store that its large tensors lie in.

    proto: an ordinary ModelProto, but for tokens in the ``raw_data`` of large tensors.
    store: gives every tensor's values; the only reader of tokens and external data.
    external, checksum: whether it came with external data, and with checksums of it.
    source: the bytes that it was loaded from.
    trailer: gives serialized fields to write last (protobuf joins repeated ones), when they are
    needed: what they say may still be computed while the weights are written.
    """

    proto: ModelProto
    store: TensorStore
    path: Path | None = None
    external: bool = False
    checksum: bool = False
    source: Source | None = None
    trailer: Callable[[], bytes] = bytes


def load(path: str | os.PathLike[str]) -> Model:
    """Load the model file at ``path`` without reading its weights.

    Raises ``ModelIOError``, ``InvalidModelError``, ``UnsafeModelError`` or ``MissingDataError``.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelIOError(f"{path} is not a regular file; pass - to read standard input")
        file = path.open("rb", buffering=0)
    except ModelIOError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ModelIOError(f"cannot read {path}: {_reason(error)}") from error
    return _load(OpenFile(file, path), path, str(path))


def from_bytes(data: bytes, path: Path | None = None, name: str = "the input") -> Model:
    """Load a serialized model; ``path`` says where its external data would lie.

    name: what messages call it. Raises what ``load`` raises.
    """
    return _load(Source(memoryview(data)), path, name)


def from_proto(proto: ModelProto, path: Path | None = None) -> Model:
    """Load a copy of ``proto``; the caller's object is never changed.

    Raises ``UsageError`` if it is over protobuf's 2 GiB, and what ``load`` raises.
    """
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise UsageError(
            f"the ModelProto is over 2 GiB; save it and pass its path: {error}"
        ) from error
    return from_bytes(data, path, "the ModelProto")


def _load(source: Source, path: Path | None, name: str) -> Model:
    if source.size == 0:
        raise InvalidModelError(f"{name} is empty; fetch the file again")
    store = TensorStore(path)
    proto = ModelProto()
    try:
        proto.ParseFromString(store.cut(source))
    except DecodeError:
        raise InvalidModelError(f"{name} is not an ONNX model: no protobuf") from None
    except InvalidModelError as error:
        raise type(error)(f"{name}: {error}") from None
    if not proto.HasField("graph") or proto.ir_version < 1:
        raise InvalidModelError(f"{name} is not an ONNX model: it has no graph or no ir_version")
    bad = next(foreign_names(proto), None)
    if bad is not None:
        raise InvalidModelError(f"{name} is not an ONNX model: the name {bad!r} is no UTF-8")
    outside = []
    for tensor in tensors_in(proto):
        store.check(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            outside.append(tensor)
    checksum = any(entry.key == "checksum" for t in outside for entry in t.external_data)
    return Model(proto, store, path, bool(outside), checksum, source)


def to_proto(model: Model) -> ModelProto:
    """Return the whole model as one ModelProto, all data inside.

    Raises ``UsageError`` if that is over protobuf's 2 GiB.
    """
    buffer = BytesIO()
    write(model, buffer)
    whole = ModelProto()
    whole.ParseFromString(buffer.getvalue())
    return whole


def write(model: Model, target: BinaryIO) -> None:
    """Write the model to a stream, all data inside.

    Raises ``UsageError`` if that is over protobuf's 2 GiB.
    """
    content = Content.of(model.proto, model.store, model.trailer)
    if content.size() > PROTOBUF_LIMIT:
        raise UsageError("the result is over 2 GiB, too large for one message; save it to a file")
    content.write(target)


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    external: bool | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path | None:
    """Save the model at ``path``, atomically; return the data file written beside it, if any.

    external: write large tensors to a data file; None does as the source did, and where one file
    would be over protobuf's 2 GiB. Its name holds the hash of its content, so that an older
    output's data is never touched.
    check: called with the finished temporary file before it becomes ``path``; if it raises, no
    output is left behind.

    Raises ``OutputExistsError`` without ``force``, ``ModelIOError`` where writing fails.
    """
    path = Path(path)
    check_output(path, force=force)
    content = Content.of(model.proto, model.store, model.trailer)
    too_large = content.size() > PROTOBUF_LIMIT
    if external is None:
        external = model.external or too_large
    beside: contextlib.AbstractContextManager[Path | None] = contextlib.nullcontext()
    if external:
        was = [t.data_location == TensorProto.EXTERNAL for t in tensors_in(model.proto)]
        beside = datafile.moved_out(content, path, was_external=was, checksum=model.checksum)
    try:
        with beside as data_path:
            if too_large and (not external or content.size() > PROTOBUF_LIMIT):
                where = "even with its initializers outside" if external else "without a data file"
                raise UsageError(f"{path} would be over 2 GiB {where}")
            with atomic.temporary(path) as (name, target):
                content.write(target)
                target.flush()
                if check is not None:
                    check(name)
                atomic.commit(target, name, path)
    except ModelIOError:
        raise
    except OSError as error:
        raise ModelIOError(f"cannot write {path}: {_reason(error)}") from error
    return data_path


def check_output(path: Path, *, force: bool) -> None:
    """Raise before any work where ``path`` cannot be written or must not be replaced.

    A symbolic link at ``path`` is replaced itself, not the file that it points to.
    Raises ``ModelIOError``, ``OutputExistsError``.
    """
    try:
        if "\0" in path.name:
            raise ModelIOError(f"cannot write {path}: its name has a null byte")
        if not path.parent.is_dir():
            raise ModelIOError(f"cannot write {path}: there is no folder {path.parent}")
        if path.exists() and not path.is_file():
            raise ModelIOError(f"cannot write {path}: it is not a regular file")
        if not force and os.path.lexists(path):
            raise OutputExistsError(f"{path} exists; pass --force (force=True) to replace it")
        if not os.access(path.parent, os.W_OK):
            raise ModelIOError(f"cannot write {path}: the folder {path.parent} is read-only")
    except ModelIOError:
        raise
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise ModelIOError(f"cannot write {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

"""Field by field equality of two models, with the path of the first difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import Message
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = {"raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"}


def first_difference(one: Any, other: Any, path: str = "model") -> str | None:
    """Return where two messages differ first, or None.

    A tensor's values may be stored in another field; its bytes, type and shape are the same.
    """
    if isinstance(one, TensorProto) and _same_values(one, other):
        one, other = _without_values(one), _without_values(other)
    if not isinstance(one, Message):
        return None if one == other else f"{path}: {one!r} != {other!r}"
    ours, theirs = dict(_fields(one)), dict(_fields(other))
    if ours.keys() != theirs.keys():
        return f"{path}: fields {sorted(ours.keys() ^ theirs.keys())} on one side only"
    found = (_difference_in(ours[k], theirs[k], f"{path}.{k}") for k in ours)
    return next((f for f in found if f), None)


def _difference_in(one: Any, other: Any, path: str) -> str | None:
    if not isinstance(one, list):
        return first_difference(one, other, path)
    if len(one) != len(other):
        return f"{path}: {len(one)} and {len(other)} items"
    pairs = enumerate(zip(one, other, strict=True))
    found = (first_difference(a, b, f"{path}[{i}]") for i, (a, b) in pairs)
    return next((f for f in found if f), None)


def _fields(message: Message) -> Iterator[tuple[str, Any]]:
    for descriptor, value in message.ListFields():
        yield descriptor.name, list(value) if _repeated(value) else value


def _repeated(value: Any) -> bool:
    return not isinstance(value, (Message, str, bytes)) and hasattr(value, "__len__")


def _same_values(one: TensorProto, other: TensorProto) -> bool:
    if (one.data_type, list(one.dims)) != (other.data_type, list(other.dims)):
        return False
    if TensorProto.STRING in {one.data_type, other.data_type}:
        return False
    return _bytes(one) == _bytes(other)


def _bytes(tensor: TensorProto) -> bytes:
    return np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes()


def _without_values(tensor: TensorProto) -> TensorProto:
    bare = TensorProto()
    bare.CopyFrom(tensor)
    for name in VALUES:
        bare.ClearField(name)
    return bare

"""TensorStore: the payloads of a model's tensors, wherever they lie.

A skeleton's TensorProto holds a small payload itself, or names a file (external data), or holds a
token of ``wire`` in ``raw_data`` that stands for a payload of this store. Nobody else looks at
those fields: everything reads tensors through ``array`` and makes them through ``put``.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import Message
from onnx import GraphProto, TensorProto, numpy_helper

from normsurgery import dtypes, external, wire
from normsurgery.errors import GraphError, MissingDataError, UnsafeModelError
from normsurgery.payloads import Computed, Payload, Slice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from normsurgery.source import ClosedFile, Source

LARGE = 1 << 14  # bytes; smaller payloads live in the skeleton
MAX_ELEMENTS = 1 << 40  # no tensor that fits a disk has more
# The types whose elements a payload field holds as they are; raw_data holds those of any.
_TYPES_OF_FIELD = {wire.FLOAT_DATA: (1, 14), wire.DOUBLE_DATA: (11, 15)}
# The names that a graph hangs together by, in messages on the way to a tensor.
_NAMES = {
    "NodeProto": ("name", "op_type", "domain", "input", "output"),
    "AttributeProto": ("name",),
    "TensorProto": ("name",),
    "ValueInfoProto": ("name",),
    "FunctionProto": ("name", "domain", "input", "output"),
}


class TensorStore:
    """Payloads by token, and the mapped files that external tensors point into."""

    def __init__(self, path: Path | None) -> None:
        """``path``: the model's file, that external data lies beside; None if it has none."""
        self.path = path
        self.nonce = os.urandom(wire.TOKEN_LENGTH - 4)
        self.payloads: dict[int, tuple[Payload, int]] = {}
        self._files: dict[str, ClosedFile] = {}

    def cut(self, source: Source) -> bytes:
        """Return the skeleton of a serialized model, and keep where its large payloads lie."""
        skeleton, cuts = wire.cut(source.view, self.nonce, LARGE)
        for index, one in enumerate(cuts):
            self.payloads[index] = (Slice(source, one.offset, one.length), one.field)
        return skeleton

    def payload(self, tensor: TensorProto) -> Payload | None:
        """Return the payload of a tensor; None if the TensorProto holds its data itself.

        External data comes before anything inside, as in onnx. Raises the errors of
        ``external.open_data``.
        """
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external(tensor)
        index = wire.token_index(tensor.raw_data, self.nonce)
        return None if index is None else self.payloads[index][0]

    def check(self, tensor: TensorProto) -> None:
        """Raise ``GraphError`` unless the payload has the size that dims and type ask for."""
        size = size_of(tensor)
        payload = self.payload(tensor)
        if not isinstance(payload, Slice):
            return
        index = wire.token_index(tensor.raw_data, self.nonce)
        field = wire.RAW_DATA if index is None else self.payloads[index][1]
        fits = tensor.data_type in _TYPES_OF_FIELD.get(field, (tensor.data_type,))
        if size != payload.nbytes or not fits:
            raise GraphError(
                f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {size} bytes of "
                f"{dtypes.name_of(tensor.data_type)} and has {payload.nbytes}"
                + ("" if fits else " of another type")
            )

    def array(self, tensor: TensorProto) -> dtypes.Array:
        """Return a tensor's values in its own dtype: a read-only view where that is possible.

        Raises ``GraphError`` where size and shape do not agree.
        """
        payload = self.payload(tensor)
        if isinstance(payload, Computed):
            return np.concatenate(
                [dtypes.round_to(b, payload.elem_type).ravel() for b in payload.blocks()]
            ).reshape(tuple(tensor.dims))
        self.check(tensor)
        if not isinstance(payload, Slice):
            return _to_array(tensor)
        dtype = dtypes.numpy_dtype(tensor.data_type)
        if dtype is not None:
            return np.frombuffer(payload.view(), dtype).reshape(tuple(tensor.dims))
        whole = TensorProto()
        whole.CopyFrom(tensor)
        clear_payload(whole)
        whole.raw_data = bytes(payload.view())
        return _to_array(whole)

    def put(self, tensor: TensorProto, payload: Payload) -> None:
        """Make ``payload`` the data of ``tensor``, whatever it held before."""
        clear_payload(tensor)
        index = len(self.payloads)
        self.payloads[index] = (payload, wire.RAW_DATA)
        tensor.raw_data = wire.token(self.nonce, index)

    def _external(self, tensor: TensorProto) -> Slice:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if not isinstance(location, str):  # protobuf gives bytes where a string is no UTF-8
            raise UnsafeModelError(f"tensor {tensor.name!r} lies in {location!r}: no UTF-8")
        if self.path is None:
            raise MissingDataError(
                f"tensor {tensor.name!r} lies in {location!r} and the model came without a folder; "
                "pass its path, or load its external data first"
            )
        size = size_of(tensor)
        if size is None:
            raise GraphError(f"tensor {tensor.name!r}: its type cannot be external data")
        if location not in self._files:
            self._files[location] = external.open_data(location, self.path, tensor.name)
        return external.slice_of(tensor, self._files[location], size)


def _to_array(tensor: TensorProto) -> dtypes.Array:
    """Return what the TensorProto itself holds. Raises ``GraphError`` if it cannot be read."""
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise GraphError(f"tensor {tensor.name!r} cannot be read: {error}") from error


def size_of(tensor: TensorProto) -> int | None:
    """Return the bytes that dims and type ask for; None for types without a raw form."""
    if any(dim < 0 for dim in tensor.dims):
        raise GraphError(f"tensor {tensor.name!r} has a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if count > MAX_ELEMENTS:
        raise UnsafeModelError(
            f"tensor {tensor.name!r} claims {count} elements; no file holds them"
        )
    return dtypes.nbytes(tensor.data_type, count)


def clear_payload(tensor: TensorProto) -> None:
    """Empty every field that can hold a tensor's data, or say where it is."""
    for name in (
        "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data",
        "string_data", "external_data", "data_location",
    ):  # fmt: skip
        tensor.ClearField(name)


def tensors_in(message: Message, kind: str = "ModelProto") -> Iterator[TensorProto]:
    """Yield every TensorProto below ``message``: initializers, attributes, bodies, functions."""
    if isinstance(message, TensorProto):
        yield message
        return
    for child, inner in _children(message, kind):
        yield from tensors_in(child, inner)


def _children(message: Message, kind: str) -> Iterator[tuple[Message, str]]:
    children = wire.CHILDREN[kind]
    if not children:
        return
    for field, value in message.ListFields():  # those that are set: few of the many there are
        child = children.get(field.number)
        if child is None:
            continue
        if isinstance(value, Message):
            yield value, child
        else:
            yield from ((item, child) for item in value)


def foreign_names(message: Message, kind: str = "ModelProto") -> Iterator[bytes]:
    """Yield the names of nodes, values and tensors that are no UTF-8: protobuf gives bytes then."""
    named: list[Message] = [message]
    if isinstance(message, GraphProto):
        named += (*message.input, *message.output)
    for one in named:
        for field in _NAMES.get(one.DESCRIPTOR.name, ()):
            value = getattr(one, field)
            for name in (value,) if isinstance(value, (str, bytes)) else value:
                if isinstance(name, bytes):
                    yield name
    for child, inner in _children(message, kind):
        yield from foreign_names(child, inner)

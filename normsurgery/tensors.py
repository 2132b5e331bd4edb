"""TensorStore: the payloads of a model's tensors, wherever they lie.

A skeleton's TensorProto holds a small payload itself, or names a file (external data), or holds a
token of ``wire`` in ``raw_data`` that stands for a payload of this store. Nobody else looks at
those fields: everything reads tensors through ``array`` and makes them through ``put``.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import Message
from onnx import TensorProto, numpy_helper

from normsurgery import dtypes, external, wire
from normsurgery.errors import GraphError, MissingDataError, UnsafeModelError
from normsurgery.payloads import Computed, Payload, Slice, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 1 << 14  # bytes; smaller payloads live in the skeleton
MAX_ELEMENTS = 1 << 40  # no tensor that fits a disk has more


class TensorStore:
    """Payloads by token, and the mapped files that external tensors point into."""

    def __init__(self, path: Path | None) -> None:
        """``path``: the model's file, that external data lies beside; None if it has none."""
        self.path = path
        self.nonce = secrets.token_bytes(wire.TOKEN_LENGTH - 4)
        self.payloads: dict[int, tuple[Payload, int]] = {}
        self._files: dict[str, Source] = {}

    def cut(self, source: Source) -> bytes:
        """Return the skeleton of a serialized model, and keep where its large payloads lie."""
        skeleton, cuts = wire.cut(source.view, self.nonce, LARGE)
        for index, one in enumerate(cuts):
            self.payloads[index] = (Slice(source, one.offset, one.length), one.field)
        return skeleton

    def payload(self, tensor: TensorProto) -> Payload | None:
        """Return the payload of a tensor; None if the TensorProto holds its data itself."""
        index = wire.token_index(tensor.raw_data, self.nonce)
        if index is not None:
            return self.payloads[index][0]
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external(tensor)
        return None

    def check(self, tensor: TensorProto) -> None:
        """Raise ``GraphError`` unless the payload has the size that dims and type ask for."""
        payload = self.payload(tensor)
        if isinstance(payload, Slice):
            size = size_of(tensor)
            if size != payload.nbytes:
                raise GraphError(
                    f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {size} bytes of "
                    f"{dtypes.name_of(tensor.data_type)} and has {payload.nbytes}"
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
        if payload is None:
            try:
                return numpy_helper.to_array(tensor)
            except (ValueError, TypeError, KeyError) as error:
                raise GraphError(f"tensor {tensor.name!r} cannot be read: {error}") from error
        self.check(tensor)
        assert isinstance(payload, Slice)  # noqa: S101
        dtype = dtypes.numpy_dtype(tensor.data_type)
        if dtype is None:
            whole = TensorProto()
            whole.CopyFrom(tensor)
            clear_payload(whole)
            whole.raw_data = bytes(payload.view())
            return numpy_helper.to_array(whole)
        return np.frombuffer(payload.view(), dtype).reshape(tuple(tensor.dims))

    def put(self, tensor: TensorProto, payload: Payload) -> None:
        """Make ``payload`` the data of ``tensor``, whatever it held before."""
        clear_payload(tensor)
        index = len(self.payloads)
        self.payloads[index] = (payload, wire.RAW_DATA)
        tensor.raw_data = wire.token(self.nonce, index)

    def _external(self, tensor: TensorProto) -> Slice:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
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
    for number, child in wire.CHILDREN[kind].items():
        field = message.DESCRIPTOR.fields_by_number.get(number)
        if field is None:  # an older onnx does not know the field
            continue
        value = getattr(message, field.name)
        if isinstance(value, Message):
            if message.HasField(field.name):
                yield from tensors_in(value, child)
        else:
            for item in value:
                yield from tensors_in(item, child)

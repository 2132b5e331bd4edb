"""The protobuf wire format of a ModelProto: cut large payloads out, splice them back in.

A message is a run of fields, each a key ``(number << 3) | wire_type`` and a value; strings, bytes
and sub-messages are length-prefixed (protobuf encoding guide,
https://protobuf.dev/programming-guides/encoding/). So a file of any size can be walked by hopping
over lengths, and only messages that are longer than a payload's minimum size are worth entering.

``cut`` puts a 20-byte token where a payload was and says where the payload lies; everything else,
unknown fields included, stays byte for byte. ``splice`` is its inverse. A token is 16 random
bytes, drawn anew for every load, and a 32-bit index: no model can contain one by design.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery.errors import InvalidModelError, TruncatedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer = bytes | memoryview

# Which field of which message holds which message: the ways to a TensorProto (onnx.proto3).
CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "TensorProto": {},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
}
# Fields of a TensorProto whose bytes on the wire are the little-endian elements themselves.
FLOAT_DATA, RAW_DATA, DOUBLE_DATA = 4, 9, 10
PAYLOADS = (FLOAT_DATA, RAW_DATA, DOUBLE_DATA)
# Tensors in fields that are not repeated: protobuf merges such a field where it comes twice.
SINGLE = {"AttributeProto": (5, 22), "SparseTensorProto": (1, 2)}

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
MAX_DEPTH = 100  # what protobuf itself allows
TOKEN_LENGTH = 20


@dataclass(frozen=True)
class Cut:
    """Where a payload lies in the file, and in which TensorProto field (``PAYLOADS``) it was."""

    offset: int
    length: int
    field: int


def token(nonce: bytes, index: int) -> bytes:
    """Return the 20 bytes that stand for payload ``index``."""
    return nonce + struct.pack("<I", index)


def token_index(value: bytes, nonce: bytes) -> int | None:
    """Return the index in a token of this ``nonce``; None if ``value`` is no such token."""
    if len(value) != TOKEN_LENGTH or not value.startswith(nonce):
        return None
    return int(struct.unpack_from("<I", value, len(nonce))[0])


def cut(data: Buffer, nonce: bytes, minimum: int) -> tuple[bytes, list[Cut]]:
    """Return the model with every payload of at least ``minimum`` bytes cut out, and the cuts.

    Raises ``TruncatedModelError`` where a field runs past its message and ``InvalidModelError``
    where the bytes are no protobuf.
    """
    cuts: list[Cut] = []
    view = memoryview(data)
    return _cut(view, 0, len(view), "ModelProto", nonce, minimum, cuts, 0), cuts


def _cut(
    data: memoryview,
    start: int,
    end: int,
    message: str,
    nonce: bytes,
    minimum: int,
    cuts: list[Cut],
    depth: int,
) -> bytes:
    if depth > MAX_DEPTH:
        raise InvalidModelError(f"not an ONNX model: messages nested over {MAX_DEPTH} deep")
    children = CHILDREN[message]
    parts: list[Buffer] = []
    copied = start
    divided: set[int] | None = None
    for number, wire_type, key_at, begin, stop in fields(data, start, end):
        payload = message == "TensorProto" and number in PAYLOADS
        if wire_type != LENGTH or stop - begin < minimum or not (payload or number in children):
            continue
        if divided is None:  # not before it matters: a message can have millions of fields
            divided = _divided(data, start, end, message)
        if number in divided:
            continue
        if payload:
            cuts.append(Cut(begin, stop - begin, number))
            body, number = token(nonce, len(cuts) - 1), RAW_DATA  # noqa: PLW2901
        else:
            body = _cut(data, begin, stop, children[number], nonce, minimum, cuts, depth + 1)
        parts += (data[copied:key_at], header(number, len(body)), body)
        copied = stop
    parts.append(data[copied:end])
    return b"".join(parts)


def _divided(data: Buffer, start: int, end: int, message: str) -> set[int]:
    """Return the fields that come in several pieces where a token could stand for one only.

    Protobuf joins, merges or overrides such pieces, so they have to stay what they are. A tensor
    has one payload: two payload fields of it are pieces too.
    """
    watched = PAYLOADS if message == "TensorProto" else SINGLE.get(message, ())
    if not watched:
        return set()
    found = Counter(f[0] for f in fields(data, start, end) if f[0] in watched)
    if message == "TensorProto" and found.total() > 1:
        return set(PAYLOADS)
    return {number for number, count in found.items() if count > 1}


def splice(
    skeleton: bytes, nonce: bytes, payloads: dict[int, tuple[int, int]]
) -> list[bytes | int]:
    """Return the pieces of the model, in order: bytes of the skeleton, and payloads by index.

    ``payloads`` maps an index to (field, length in bytes); a token that it does not name is kept.
    """
    pieces, _ = _splice(skeleton, 0, len(skeleton), "ModelProto", nonce, payloads)
    return pieces


def _splice(
    data: bytes,
    start: int,
    end: int,
    message: str,
    nonce: bytes,
    payloads: dict[int, tuple[int, int]],
) -> tuple[list[bytes | int], int]:
    pieces: list[bytes | int] = []
    length = 0
    copied = start
    children = CHILDREN[message]
    for number, wire_type, key_at, begin, stop in fields(data, start, end):
        # bytes.find runs at memory speed, so that messages without a token cost nothing
        if wire_type != LENGTH or data.find(nonce, begin, stop) < 0:
            continue
        inner: list[bytes | int]
        if number in children:
            inner, size = _splice(data, begin, stop, children[number], nonce, payloads)
        else:
            index = token_index(data[begin:stop], nonce)
            if message != "TensorProto" or index is None or index not in payloads:
                continue
            number, size = payloads[index]  # noqa: PLW2901
            inner = [index]
        key = header(number, size)
        pieces += (data[copied:key_at], key, *inner)
        length += key_at - copied + len(key) + size
        copied = stop
    pieces.append(data[copied:end])
    return pieces, length + end - copied


def fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (number, wire type, key offset, value offset, value end) of each field of a message."""
    at = start
    while at < end:
        key_at = at
        key, at = varint(data, at, end)
        number, wire_type = key >> 3, key & 7
        begin = at
        if wire_type == LENGTH:
            size, begin = varint(data, at, end)
            at = begin + size
        elif wire_type == VARINT:
            _, at = varint(data, at, end)
        elif wire_type == FIXED32:
            at += 4
        elif wire_type == FIXED64:
            at += 8
        elif wire_type == GROUP:
            at = _end_of_group(data, at, end, number, 0)
        else:
            raise InvalidModelError(f"not an ONNX model: wire type {wire_type} at byte {key_at}")
        if number == 0:
            raise InvalidModelError(f"not an ONNX model: field number 0 at byte {key_at}")
        if at > end:
            raise TruncatedModelError(
                f"the model ends in the middle of a field: byte {key_at} asks for {at - end} bytes "
                "more than there are; fetch the file again"
            )
        yield number, wire_type, key_at, begin, at


def _end_of_group(data: Buffer, at: int, end: int, number: int, depth: int) -> int:
    """Return where a group (deprecated, but legal as an unknown field) ends."""
    while at < end and depth < MAX_DEPTH:
        key, after = varint(data, at, end)
        if key & 7 == END_GROUP:
            if key >> 3 == number:
                return after
            break
        if key & 7 == GROUP:
            at = _end_of_group(data, after, end, key >> 3, depth + 1)
        else:
            at = next(fields(data, at, end))[4]
    raise InvalidModelError(f"not an ONNX model: a group of field {number} has no end")


def varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return the base-128 number at ``at`` and the offset behind it."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise InvalidModelError(f"not an ONNX model: a number over 64 bits at byte {at}")
    raise TruncatedModelError("the model ends in the middle of a number; fetch the file again")


def header(number: int, length: int) -> bytes:
    """Return key and length prefix of a length-delimited field."""
    return _varint(number << 3 | LENGTH) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

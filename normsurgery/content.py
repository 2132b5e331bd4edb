"""What is about to be written: a skeleton in which every large payload is a token."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from google.protobuf.message import EncodeError
from onnx import ModelProto

from normsurgery import wire
from normsurgery.errors import UsageError
from normsurgery.tensors import clear_payload, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.payloads import Payload
    from normsurgery.tensors import TensorStore


WRITE_BACK = 1 << 23  # bytes
TRAILER = 256  # bytes that a trailer has at most


@dataclass
class Content:
    """A copy of a skeleton, that may be edited on its way out.

    payloads: by token, each with the ``wire`` field that it is written to.
    trailer: gives serialized fields of the model that come last; asked when they are written.
    """

    proto: ModelProto
    payloads: dict[int, tuple[Payload, int]]
    nonce: bytes
    trailer: Callable[[], bytes] = bytes

    @classmethod
    def of(
        cls, proto: ModelProto, store: TensorStore, trailer: Callable[[], bytes] = bytes
    ) -> Content:
        """Copy ``proto``, with external tensors as tokens too."""
        copy = ModelProto()
        copy.CopyFrom(proto)
        used: dict[int, tuple[Payload, int]] = {}
        fresh = len(store.payloads)
        for tensor in tensors_in(copy):
            payload = store.payload(tensor)
            if payload is None:
                continue
            index = wire.token_index(tensor.raw_data, store.nonce)
            if tensor.data_location != tensor.EXTERNAL and index is not None:
                used[index] = store.payloads[index]
                continue
            clear_payload(tensor)
            tensor.raw_data = wire.token(store.nonce, fresh)
            used[fresh] = (payload, wire.RAW_DATA)
            fresh += 1
        return cls(copy, used, store.nonce, trailer)

    def size(self) -> int:
        """Return the size in bytes, up to a few hundred more for the trailer."""
        last = TRAILER if self.trailer is not bytes else 0
        return last + sum(
            self.payloads[piece][0].nbytes if isinstance(piece, int) else len(piece)
            for piece in self._pieces()
        )

    def write(self, target: BinaryIO) -> None:
        """Write the skeleton with its payloads spliced in."""
        written = target.tell() if target.seekable() else 0
        for piece in self._pieces():
            if isinstance(piece, int):
                self.payloads[piece][0].write(target)
                if target.tell() - written > WRITE_BACK:
                    written = _write_back(target, written)
            else:
                target.write(piece)
        target.write(self.trailer())

    def _pieces(self) -> list[bytes | int]:
        sizes = {i: (field, payload.nbytes) for i, (payload, field) in self.payloads.items()}
        try:
            skeleton = self.proto.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise UsageError(f"the model without its weights is over 2 GiB: {error}") from error
        return wire.splice(skeleton, self.nonce, sizes)


def _write_back(target: BinaryIO, since: int) -> int:
    """Let the system start writing to disk what is new, so that fsync has less to wait for."""
    target.flush()
    end = target.tell()
    with contextlib.suppress(OSError, AttributeError):  # no file, or not this system
        os.posix_fadvise(target.fileno(), since, end - since, os.POSIX_FADV_DONTNEED)
    return end

"""What is about to be written: a skeleton in which every large payload is a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from google.protobuf.message import EncodeError
from onnx import ModelProto

from normsurgery import wire
from normsurgery.errors import UsageError
from normsurgery.tensors import clear_payload, tensors_in

if TYPE_CHECKING:
    from normsurgery.payloads import Payload
    from normsurgery.tensors import TensorStore


@dataclass
class Content:
    """A copy of a skeleton, that may be edited on its way out.

    payloads: by token, each with the ``wire`` field that it is written to.
    """

    proto: ModelProto
    payloads: dict[int, tuple[Payload, int]]
    nonce: bytes

    @classmethod
    def of(cls, proto: ModelProto, store: TensorStore) -> Content:
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
        return cls(copy, used, store.nonce)

    def size(self) -> int:
        """Return the size in bytes."""
        return sum(
            self.payloads[piece][0].nbytes if isinstance(piece, int) else len(piece)
            for piece in self._pieces()
        )

    def write(self, target: BinaryIO) -> None:
        """Write the skeleton with its payloads spliced in."""
        for piece in self._pieces():
            if isinstance(piece, int):
                self.payloads[piece][0].write(target)
            else:
                target.write(piece)

    def _pieces(self) -> list[bytes | int]:
        sizes = {i: (field, payload.nbytes) for i, (payload, field) in self.payloads.items()}
        try:
            skeleton = self.proto.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise UsageError(f"the model without its weights is over 2 GiB: {error}") from error
        return wire.splice(skeleton, self.nonce, sizes)

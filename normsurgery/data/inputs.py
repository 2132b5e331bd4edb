"""What a model wants to be fed: name, type and shape of each input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx.onnx_ml_pb2 import ValueInfoProto


@dataclass(frozen=True)
class Input:
    """One graph input. shape: None for a dimension that is not fixed; the batch comes first."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]

    @property
    def batch(self) -> int | None:
        """The size of the batch, if it is fixed."""
        return self.shape[0] if self.shape else None


def inputs_of(proto: ModelProto) -> tuple[Input, ...]:
    """Return the inputs of a model that no initializer gives a default.

    Raises ``UsageError`` for an input that is no tensor of numbers.
    """
    defaults = {tensor.name for tensor in proto.graph.initializer}
    return tuple(_input(info) for info in proto.graph.input if info.name not in defaults)


def _input(info: ValueInfoProto) -> Input:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or tensor.elem_type in {0, TensorProto.STRING}:
        raise UsageError(f"input {info.name!r} is not a tensor of numbers; no data fits it")
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    return Input(info.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)

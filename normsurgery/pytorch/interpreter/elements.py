"""ONNX element types as torch dtypes, and stored tensors as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from normsurgery import dtypes
from normsurgery.errors import UnsupportedModelError

if TYPE_CHECKING:
    from onnx import TensorProto

    from normsurgery.tensors import TensorStore

TORCH = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16,
    6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64,
    12: torch.uint32, 13: torch.uint64, 16: torch.bfloat16,
}  # fmt: skip
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def torch_dtype(elem_type: int) -> torch.dtype:
    """Return the dtype of a ``TensorProto`` element type.

    Raises ``UnsupportedModelError`` for those that torch cannot compute with, such as strings.
    """
    if elem_type not in TORCH:
        raise UnsupportedModelError(f"torch has no {dtypes.name_of(elem_type)}")
    return TORCH[elem_type]


def from_numpy(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return a copy of ``array`` on the CPU, bfloat16 of ``ml_dtypes`` included."""
    if array.dtype.name == "bfloat16":
        bits = torch.from_numpy(np.array(array).view(np.int16))
        return bits.view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the values on the CPU; bfloat16 becomes float32, which holds all of it."""
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())


def from_proto(tensor: TensorProto, store: TensorStore) -> torch.Tensor:
    """Return a stored tensor's values on the CPU.

    Raises ``UnsupportedModelError`` for a type that torch has not, and what the store raises.
    """
    if tensor.data_type not in TORCH:
        name = dtypes.name_of(tensor.data_type)
        raise UnsupportedModelError(f"tensor {tensor.name!r} is of {name}, which torch has not")
    return from_numpy(np.asarray(store.array(tensor)))

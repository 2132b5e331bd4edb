"""OneHot: ``onnx.reference`` takes no ``depth`` of rank 1, which the specification allows."""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun


class OneHot(OpRun):
    """https://onnx.ai/onnx/operators/onnx__OneHot.html."""

    op_domain = ""

    def _run(
        self, indices: np.ndarray, depth: np.ndarray, values: np.ndarray, axis: int = -1
    ) -> tuple[np.ndarray]:
        """Indices in [−depth, depth) count from either end; others are nowhere on."""
        count = int(np.asarray(depth).reshape(-1)[0])
        off, on = values
        index = np.asarray(indices).astype(np.int64)
        index = np.where((index >= -count) & (index < count), index % max(count, 1), -1)
        axis = axis % (index.ndim + 1)
        shape = [1] * (index.ndim + 1)
        shape[axis] = count
        there = np.expand_dims(index, axis) == np.arange(count).reshape(shape)
        return (np.where(there, on, off).astype(values.dtype),)

"""Softmax, LogSoftmax and Hardmax at every opset.

Before opset 13 they flatten the input into a matrix at ``axis``, which is 1 by default;
``onnx.reference`` has the new meaning alone, and the new default of −1.
"""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun


def rows(operator: OpRun, x: np.ndarray, axis: int | None) -> tuple[np.ndarray, int]:
    """x as the operator sees it, and the axis that it normalizes over."""
    given = {attribute.name for attribute in operator.onnx_node.attribute}
    if operator.run_params["opsets"].get("", 13) >= 13:
        return x, -1 if axis is None else axis
    first = axis if "axis" in given and axis is not None else 1
    first %= max(x.ndim, 1)
    return x.reshape(int(np.prod(x.shape[:first])), -1), 1


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """x − log ∑ exp x along `axis`, from the largest element on."""
    shifted = x - x.max(axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


class Softmax(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Softmax.html."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        if not x.size:
            return (x,)
        seen, over = rows(self, x, axis)
        powers = np.exp(seen - seen.max(over, keepdims=True))
        return ((powers / powers.sum(over, keepdims=True)).reshape(x.shape),)


class LogSoftmax(OpRun):
    """https://onnx.ai/onnx/operators/onnx__LogSoftmax.html."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        if not x.size:
            return (x,)
        seen, over = rows(self, x, axis)
        return (log_softmax(seen, over).reshape(x.shape),)


class Hardmax(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Hardmax.html."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        seen, over = rows(self, x, axis)
        hard = np.zeros_like(seen)
        np.put_along_axis(hard, seen.argmax(over, keepdims=True), 1, over)
        return (hard.reshape(x.shape),)

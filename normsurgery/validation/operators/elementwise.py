"""Elementwise operators that ``onnx.reference`` computes in float32 or not at all.

Its Erf rounds to float32 (``np.vectorize(erf, otypes=["f"])``), and with it every exact GELU;
its Sigmoid, Softplus and Dropout are right, and stay its own.
"""

from __future__ import annotations

import math

import numpy as np
from onnx.reference.op_run import OpRun


def erf(x: np.ndarray) -> np.ndarray:
    """The error function to float64 accuracy; NumPy has none."""
    values = map(math.erf, x.ravel().tolist())
    return np.fromiter(values, np.float64, x.size).reshape(x.shape)


class Erf(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Erf.html."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Gelu.html."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        if approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return (0.5 * x * (1 + np.tanh(inner)),)
        return (0.5 * x * (1 + erf(x * math.sqrt(0.5))),)

"""MatMul and Gemm: as in ``onnx.reference``, but counted, and without a float32 ``alpha``."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx.reference.op_run import OpRun

from normsurgery.validation.budget import spend


class MatMul(OpRun):
    """https://onnx.ai/onnx/operators/onnx__MatMul.html."""

    op_domain = ""

    def _run(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
        columns = b.shape[-1] if b.ndim > 1 else 1
        batches = prod(b.shape[:-2]) if b.ndim > a.ndim else 1
        spend(self, a.size * columns * batches)
        return (np.asarray(np.matmul(a, b)),)


class Gemm(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Gemm.html."""

    op_domain = ""

    def _run(
        self,
        a: np.ndarray,
        b: np.ndarray,
        c: np.ndarray | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        transA: int | None = None,
        transB: int | None = None,
        broadcast: int | None = None,
    ) -> tuple[np.ndarray]:
        left = a.T if transA else a
        right = b.T if transB else b
        spend(self, left.size * right.shape[1])
        y = left @ right
        if alpha != 1:
            y = y * np.asarray(alpha, y.dtype)
        if c is not None and beta != 0:
            y = y + (c if beta == 1 else c * np.asarray(beta, y.dtype))
        return (y,)

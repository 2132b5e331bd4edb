"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import functions, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call

functions({"MatMul": torch.matmul})


@operator("Gemm")
def gemm(call: Call) -> Callable[..., Any]:
    """alpha·A'·B' + beta·C; a plain linear layer where it is one."""
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    left, right = call.integer("transA", 0), call.integer("transB", 0)
    call.integer("broadcast", 0)  # opset 1: C is broadcast or has the shape already
    if not call.has(2):
        beta = 1.0
    bias = call.dims(2) if call.has(2) else (1,)
    if right and not left and alpha == beta == 1 and bias is not None and len(bias) == 1:
        rows = (call.dims(1) or (None,))[0]
        if not call.has(2) or (rows is not None and bias[0] == rows):
            return F.linear

    def run(A: torch.Tensor, B: torch.Tensor, C: torch.Tensor | None = None) -> torch.Tensor:
        y = torch.matmul(A.t() if left else A, B.t() if right else B)
        if alpha != 1:
            y = alpha * y
        if C is None:
            return y
        return y + (C if beta == 1 else beta * C)

    return run


@operator("Einsum")
def einsum(call: Call) -> Callable[..., Any]:
    """Any sum of products, by its equation."""
    equation = call.text("equation", "").replace(" ", "")
    return lambda *tensors: torch.einsum(equation, *tensors)

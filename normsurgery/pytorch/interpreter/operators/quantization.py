"""Linear quantization; gradients pass DequantizeLinear, and none passes a rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from normsurgery.pytorch.interpreter.table import Kernel, operator

if TYPE_CHECKING:
    from normsurgery.pytorch.interpreter.call import Call
    from normsurgery.pytorch.interpreter.program import Context


def _spread(values: torch.Tensor, x: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    """Return parameters per axis, or per block of it, so that they broadcast against ``x``."""
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if values.dim() == 1 and values.numel() > 1:
        wide = [1] * x.dim()
        wide[axis] = values.numel()
        return values.reshape(wide)
    return values.reshape(()) if values.numel() == 1 else values


@operator("DequantizeLinear")
def dequantize_linear(call: Call) -> Kernel:
    """(x − zero point) · scale."""
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    call.integer("output_dtype", 0)

    def run(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None) -> Any:
        wide = x.double()  # int32 does not fit float32
        if zero is not None:
            wide = wide - _spread(zero, x, axis, block).double()
        return (wide * _spread(scale, x, axis, block).double()).to(scale.dtype)

    return Kernel(run)


@operator("QuantizeLinear")
def quantize_linear(call: Call) -> Kernel:
    """round(x / scale) + zero point, half to even, saturated to the type of the zero point."""
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    call.integer("saturate", 1), call.integer("precision", 0)
    if call.integer("output_dtype", 0):
        raise call.refuse("output_dtype is not known")

    def run(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None) -> Any:
        dtype = torch.uint8 if zero is None else zero.dtype
        steps = torch.round(x / _spread(scale, x, axis, block))
        if zero is not None:
            steps = steps + _spread(zero, x, axis, block).to(steps.dtype)
        info = torch.iinfo(dtype)
        return steps.clamp(info.min, info.max).to(dtype)

    return Kernel(run)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(_: Call) -> Kernel:
    """Quantize to uint8 over the range of the data, 0 included."""

    def run(context: Context, x: torch.Tensor) -> Any:
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = (high - low) / 255
        zero = torch.round((0 - low / scale).clamp(0, 255))
        y = (torch.round(x / scale) + zero).clamp(0, 255)
        return y.to(torch.uint8), scale, zero.to(torch.uint8)

    return Kernel(run, context=True, several=True)

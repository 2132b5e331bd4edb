"""Arithmetic, comparison and logic, element by element, with broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch.interpreter.table import Kernel, functions, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery.pytorch.interpreter.call import Call

functions(
    {
        "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log,
        "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Floor": torch.floor,
        "Ceil": torch.ceil, "Round": torch.round, "Sign": torch.sign, "Erf": torch.erf,
        "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin,
        "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh,
        "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh, "Not": torch.logical_not,
        "IsNaN": torch.isnan, "BitwiseNot": torch.bitwise_not,
    }
)  # fmt: skip


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Integers are divided as in C: towards 0."""
    if a.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _divide,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "Equal": torch.eq, "Less": torch.lt, "Greater": torch.gt,
    "LessOrEqual": torch.le, "GreaterOrEqual": torch.ge,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


@operator(*_BINARY)
def binary(call: Call) -> Kernel | Callable[..., Any]:
    """Give one function of two tensors; before opset 7 the second is lined up by ``axis``."""
    function = _BINARY[call.node.op_type]
    axis = call.attribute("axis")
    if not call.integer("broadcast", 0) or axis is None:
        return function

    def aligned(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = axis.i % a.dim()
        return function(a, b.reshape(b.shape + (1,) * (a.dim() - first - b.dim())))

    return aligned


@operator("Pow")
def power(call: Call) -> Kernel | Callable[..., Any]:
    """The result has the type of the base; small whole exponents are products."""
    exponent = call.const(1)
    call.attribute("axis"), call.integer("broadcast", 0)  # opset 1: of a constant, no matter
    if exponent is not None and exponent.numel() == 1 and exponent.dim() == 0:
        number = exponent.item()
        if number == 2:  # also for negative numbers, and exactly
            return Kernel(torch.square, (0,))
        return Kernel(lambda x: torch.pow(x, number).to(x.dtype), (0,))
    return lambda x, y: torch.pow(x, y).to(x.dtype)


@operator("Mod")
def modulo(call: Call) -> Callable[..., Any]:
    """fmod = 1: sign of the dividend, as in C; else that of the divisor, as in Python."""
    return torch.fmod if call.integer("fmod", 0) else torch.remainder


@operator("BitShift")
def bit_shift(call: Call) -> Callable[..., Any]:
    """Shift integers; for unsigned bytes a logical shift, as it has to be."""
    left = call.choice("direction", "", "LEFT", "RIGHT") == "LEFT"
    return torch.bitwise_left_shift if left else torch.bitwise_right_shift


_VARIADIC: dict[str, Callable[[Any, Any], Any]] = {
    "Sum": torch.add, "Max": torch.maximum, "Min": torch.minimum,
}  # fmt: skip


@operator(*_VARIADIC)
def variadic(call: Call) -> Callable[..., Any]:
    """Combine any number of tensors from the left."""
    function = _VARIADIC[call.node.op_type]
    if len(call.operands) == 2:
        return function
    return lambda *tensors: reduce(function, tensors)


@operator("Mean")
def mean(_: Call) -> Callable[..., Any]:
    """Take the mean of any number of tensors."""
    return lambda *tensors: reduce(torch.add, tensors) / len(tensors)


@operator("Where")
def where(_: Call) -> Callable[..., Any]:
    """Choose by a condition."""
    return torch.where


@operator("IsInf")
def is_inf(call: Call) -> Callable[..., Any]:
    """Find infinities, of one sign where the other is not asked for."""
    negative, positive = call.integer("detect_negative", 1), call.integer("detect_positive", 1)
    if negative and positive:
        return torch.isinf
    if negative:
        return torch.isneginf
    return torch.isposinf if positive else lambda x: torch.zeros_like(x, dtype=torch.bool)


@operator("Clip")
def clip(call: Call) -> Kernel | Callable[..., Any]:
    """Clamp to bounds, attributes before opset 11 and inputs since; min over max gives max."""
    low, high = call.attribute("min"), call.attribute("max")
    if low is not None or high is not None or len(call.operands) < 2:
        return _clamp(*(None if bound is None else bound.f for bound in (low, high)))
    if all(not call.has(slot) or call.const(slot) is not None for slot in (1, 2)):
        return _clamp(*(_number(call.const(slot)) for slot in (1, 2)))

    def clamp(x: torch.Tensor, small: Any, large: Any = None) -> torch.Tensor:
        if small is not None:
            x = torch.maximum(x, small.reshape(()))
        return x if large is None else torch.minimum(x, large.reshape(()))

    return clamp


def _clamp(low: Any, high: Any) -> Kernel:
    """Clamp to numbers by the function whose gradient is fastest: that of clamp takes twice as
    long as a 1×1 convolution. At a bound hardtanh and relu pass no gradient, as torch's ReLU6.
    """
    if low is None and high is None:
        return Kernel(lambda x: x, (0,))
    if low is not None and high is not None and low < high:
        return Kernel(
            lambda x: (F.hardtanh if x.is_floating_point() else torch.clamp)(x, low, high), (0,)
        )
    if low == 0 and high is None:
        return Kernel(torch.relu, (0,))
    return Kernel(lambda x: torch.clamp(x, low, high), (0,))


def _number(bound: torch.Tensor | None) -> Any:
    return None if bound is None or bound.numel() == 0 else bound.reshape(()).item()

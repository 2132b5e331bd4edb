"""Arithmetic, comparisons, logic and activation functions, in every opset that differs."""

from __future__ import annotations

import numpy as np
import pytest
from pytorch.interpreter.nodes import by_module, check, feeds_of, node_model, randoms

from normsurgery.pytorch import to_module

UNARY = {
    "Abs": None, "Neg": None, "Exp": None, "Log": "positive", "Sqrt": "positive",
    "Reciprocal": "positive", "Floor": None, "Ceil": None, "Round": "halves", "Sign": None,
    "Erf": None, "Sin": None, "Cos": None, "Tan": "unit", "Asin": "unit", "Acos": "unit",
    "Atan": None, "Sinh": None, "Cosh": None, "Asinh": None, "Acosh": "over one", "Atanh": "unit",
    "Relu": None, "Sigmoid": None, "Tanh": None, "Softplus": None, "Softsign": None,
    "Identity": None, "IsNaN": "odd",
}  # fmt: skip
DOMAINS = {
    None: lambda x: x,
    "positive": lambda x: np.abs(x) + 0.1,
    "unit": lambda x: np.tanh(x) * 0.99,
    "over one": lambda x: 1 + np.abs(x),
    "halves": lambda x: np.round(4 * x) / 2,
    "odd": lambda x: np.where(x > 0, x, np.nan),
}
# onnxruntime's CPU kernels are float32 alone, and that is what is asked of them


@pytest.mark.parametrize("op_type", UNARY)
def test_unary(op_type):
    (x,) = randoms(0, (3, 7))
    check(op_type, [DOMAINS[UNARY[op_type]](2 * x)], opset=20)


def test_hard_swish_is_x_over_six():
    """The oracle, an expansion, has the float32 nearest to 1/6."""
    (x,) = randoms(0, (3, 7))
    check("HardSwish", [4 * x], opset=20, oracle=False)
    model = node_model("HardSwish", [4 * x], opset=20, dtype=np.float64)
    (found,) = by_module(to_module(model, check=False), {"i0": 4 * x})
    np.testing.assert_allclose(found, 4 * x * np.clip(4 * x + 3, 0, 6) / 6, rtol=1e-14)


def test_mish_and_softplus_of_large_numbers():
    x = np.array([-100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 39.0, 41.0, 100.0])
    check("Softplus", [x])
    check("Mish", [x], opset=18)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 3)), ((2, 3, 4), (3, 1)), ((4,), (2, 3, 1)), ((2, 3), ())]
)
def test_arithmetic(op_type, shapes):
    x, y = randoms(0, *shapes)
    check(op_type, [np.abs(x) + 0.5, y], settings=(1,))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic_of_opset_6(op_type):
    x, y = randoms(0, (2, 3, 4, 5), (3, 4))
    # onnxruntime dropped opset 6; the oracle's Add is numpy's: lined up by hand
    model = node_model(op_type, [x, y], opset=6, broadcast=1, axis=1, dtype=np.float64)
    (found,) = by_module(to_module(model, check=False), feeds_of(model, [x, y], np.float64))
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op_type]
    np.testing.assert_allclose(found, function(x, y[:, :, None]), rtol=1e-14)


@pytest.mark.parametrize("exponent", [2.0, 0.5, 3.0, -1.0])
def test_power_by_a_number(exponent):
    (x,) = randoms(0, (3, 4))
    check("Pow", [np.abs(x) + 0.1, np.array(exponent)], settings=(1,))
    check("Pow", [np.abs(x) + 0.1, np.array([exponent])], settings=(1,))


def test_power_has_the_type_of_its_base():
    check("Pow", [np.array([1, 2, 3]), np.array(2.0)], settings=(1,))
    check("Pow", [np.array([-1.5, 2.0]), np.array(2)], settings=(1,))


def test_integers_are_divided_towards_zero():
    check("Div", [np.array([-7, 7, -7, 7]), np.array([2, 2, -2, -2])])
    check("Mod", [np.array([-7, 7, -7, 7]), np.array([2, 2, -2, -2])])
    check("Mod", [np.array([-7, 7, -7, 7]), np.array([2, 2, -2, -2])], fmod=1)
    check("Mod", [*randoms(0, (5,), (5,))], fmod=1)


@pytest.mark.parametrize("op_type", ["Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"])
def test_comparisons(op_type):
    x, y = randoms(0, (3, 4), (4,))
    check(op_type, [np.round(x), np.round(y)], settings=(1,))


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type):
    check(op_type, [np.array([True, False, True, False]), np.array([True, True, False, False])])
    check("Not", [np.array([True, False])])


@pytest.mark.parametrize("op_type", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bits(op_type):
    check(op_type, [np.array([5, 12, -1]), np.array([3, 10, 7])], opset=18)


def test_shifts():
    x, n = np.array([1, 200, 255], np.uint8), np.array([1, 2, 3], np.uint8)
    check("BitShift", [x, n], direction="RIGHT")
    check("BitShift", [x, n], direction="LEFT")
    check("BitwiseNot", [np.array([5, -1])], opset=18)


@pytest.mark.parametrize("op_type", ["Sum", "Max", "Min", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(op_type, count):
    check(op_type, randoms(0, (2, 3), (3,), (2, 1))[:count])


def test_where_and_infinities():
    x, y = randoms(0, (3, 4), (4,))
    check("Where", [x > 0, x, y])
    odd = np.array([np.inf, -np.inf, 1.0, np.nan])
    for negative, positive in ((1, 1), (0, 1), (1, 0)):
        check("IsInf", [odd], detect_negative=negative, detect_positive=positive, opset=20)


@pytest.mark.parametrize(
    "bounds",
    [(-0.5, 0.5), (None, 0.5), (-0.5, None), (0.0, None), (0.5, -0.5), (None, None), (0.0, 6.0)],
)
def test_clip(bounds):
    arrays = [*randoms(0, (3, 4)), *(None if b is None else np.array(b) for b in bounds)]
    given = tuple(n + 1 for n, b in enumerate(bounds) if b is not None)
    crossed = bounds == (0.5, -0.5)  # onnxruntime refuses such constants
    check("Clip", arrays, settings=given, opset=13, onnxruntime=not crossed)
    named = {k: b for k, b in zip(("min", "max"), bounds, strict=True) if b is not None}
    check("Clip", arrays[:1], opset=7, onnxruntime=not crossed, oracle=False, **named)


def test_clip_of_integers():
    check("Clip", [np.arange(-5, 5), np.array(-2), np.array(3)], settings=(1, 2), opset=13)


@pytest.mark.parametrize(
    ("op_type", "attributes", "opset"),
    [
        ("LeakyRelu", {}, 16), ("LeakyRelu", {"alpha": 0.3}, 16), ("Elu", {}, 6),
        ("Elu", {"alpha": 0.7}, 6), ("Celu", {"alpha": 0.7}, 12), ("Selu", {}, 6),
        ("Selu", {"alpha": 1.1, "gamma": 0.9}, 6), ("ThresholdedRelu", {"alpha": 0.4}, 10),
        ("HardSigmoid", {}, 6), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, 6),
        ("Gelu", {}, 20), ("Gelu", {"approximate": "tanh"}, 20),
        ("Shrink", {"bias": 0.2, "lambd": 0.6}, 9),
    ],
)  # fmt: skip
def test_activations_with_attributes(op_type, attributes, opset):
    (x,) = randoms(0, (4, 9))
    check(op_type, [2 * x], opset=opset, **attributes)


def test_swish():
    check("Swish", randoms(0, (4, 5)), opset=24, alpha=0.5, onnxruntime=False)


@pytest.mark.parametrize("slope", [(3, 1, 1), (1,), (1, 1, 5), (3, 4, 5)])
def test_prelu(slope):
    check("PRelu", [*randoms(0, (2, 3, 4, 5), slope)], settings=(1,), opset=16)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax(op_type, axis, opset):
    check(op_type, randoms(0, (2, 3, 4)), opset=opset, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((3,), (3, 4)),
                                    ((2, 3), (5, 3, 2)), ((2, 3), (3,))])  # fmt: skip
def test_matmul(shapes):
    check("MatMul", randoms(0, *shapes), settings=(1,))


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("right", [0, 1])
@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (3, 1), (1,), ()])
def test_gemm(left, right, bias):
    shapes = [(2, 3) if left else (3, 2), (4, 2) if right else (2, 4)]
    arrays = randoms(0, *shapes, *([] if bias is None else [bias]))
    settings = (1,) if bias is None else (1, 2)
    check("Gemm", arrays, settings=settings, transA=left, transB=right)
    check("Gemm", arrays, settings=settings, transA=left, transB=right, alpha=0.5, beta=0.3)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij, bkj -> bik", "ii->i", "bchw->bc"])
def test_einsum(equation):
    sizes = dict(zip("bijkchw", (2, 3, 4, 5, 3, 2, 2), strict=True))
    terms = equation.split("->")[0].replace(" ", "").split(",")
    check("Einsum", randoms(0, *[[sizes[c] for c in t] for t in terms]), equation=equation)

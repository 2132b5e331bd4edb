from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto

from normsurgery import dtypes
from normsurgery.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16, error_in_ulp, round_to

# Significant bits, and the exponents of the smallest and the largest normal number (IEEE 754).
FORMATS = {
    FLOAT: (24, -126, 127),
    FLOAT16: (11, -14, 15),
    BFLOAT16: (8, -126, 127),
    DOUBLE: (53, -1022, 1023),
}
float_types = st.sampled_from(list(FORMATS))


def exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def exactly_rounded(value: float, elem_type: int) -> float:
    """Round to nearest, ties to even, in rational arithmetic."""
    bits, lowest, highest = FORMATS[elem_type]
    if not math.isfinite(value) or value == 0:
        return value
    quantum = Fraction(2) ** (max(exponent(value), lowest) - bits + 1)
    result = round(Fraction(value) / quantum) * quantum  # Python rounds halves to even
    if abs(result) >= Fraction(2) ** (highest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(result), value)


def near(elem_type: int, significand: int, power: int, nudge: int) -> float:
    """Return a number at, or just beside, the middle between two neighbours of the type."""
    bits, lowest, _ = FORMATS[elem_type]
    whole = (1 << bits - 1) + significand % (1 << bits - 1)
    middle = math.ldexp(whole + 0.5, max(power, lowest - bits) - bits + 1)
    for _ in range(abs(nudge)):
        middle = math.nextafter(middle, math.inf if nudge > 0 else 0.0)
    return middle


hard_numbers = st.builds(
    near, float_types, st.integers(0, 2**24), st.integers(-150, 127), st.integers(-2, 2)
)
numbers = st.one_of(
    st.floats(), hard_numbers, st.floats(-1e-37, 1e-37), st.floats(-7e4, 7e4), hard_numbers.map(abs)
)


@given(st.lists(numbers, min_size=1, max_size=20), float_types)
# in one step this is above the middle of two bfloat16; float32 in between makes it a tie
@example([1 + 2.0**-8 + 2.0**-40], BFLOAT16)
@example([1 + 3 * 2.0**-8 - 2.0**-40], BFLOAT16)
@example([1 + 2.0**-11 + 2.0**-50], FLOAT16)
@example([65519.99, 65520.0, -65520.0, 2.0**-25, 2.0**-25 * (1 + 2**-50), 3 * 2.0**-25], FLOAT16)
@example([3.4028235677973366e38, 3.4028235677973362e38], FLOAT)
@example([3.3961775292304957e38, 3.396177529230495e38], BFLOAT16)
@example([2.0**-134, 2.0**-134 * (1 + 2**-50), 2.0**-150, 5e-324, -5e-324], BFLOAT16)
@example([math.nan, math.inf, -math.inf, 0.0, -0.0], BFLOAT16)
def test_rounding_is_correct(values: list[float], elem_type: int) -> None:
    rounded = round_to(np.array(values), elem_type)
    assert rounded.dtype == dtypes.numpy_dtype(elem_type)
    for value, result in zip(values, rounded.astype(np.float64).tolist(), strict=True):
        expected = exactly_rounded(value, elem_type)
        assert result == expected or (math.isnan(result) and math.isnan(expected))
        assert math.isnan(value) or math.copysign(1, result) == math.copysign(1, value)


def test_rounding_to_bfloat16_once_differs_from_twice() -> None:
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    dtype = dtypes.numpy_dtype(BFLOAT16)
    assert value.astype(np.float32).astype(dtype) == 1
    assert round_to(value, BFLOAT16) == 1 + 2.0**-7


@pytest.mark.parametrize("elem_type", FORMATS)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (3, 2, 1)])
def test_rounding_keeps_the_shape(shape: tuple[int, ...], elem_type: int) -> None:
    values = np.full(shape, 0.1)
    rounded = round_to(values, elem_type)
    assert rounded.shape == shape
    assert error_in_ulp(values, rounded, elem_type).shape == shape


def test_rounding_of_what_does_not_lie_in_a_row() -> None:
    values = np.arange(24.0).reshape(4, 6).T[::-2] / 7
    for elem_type in FORMATS:
        rounded = round_to(values, elem_type)
        assert np.array_equal(rounded, round_to(values.copy(), elem_type))
        assert error_in_ulp(values, rounded, elem_type).max() <= 0.5


@pytest.mark.parametrize("elem_type", [TensorProto.STRING, TensorProto.INT4, 17])
def test_types_that_are_not_rounded_to(elem_type: int) -> None:
    with pytest.raises(TypeError, match="is no type to round to"):
        round_to(np.zeros(1), elem_type)


def test_integers() -> None:
    rounded = round_to(np.array([-2.0, 0.5, 1.5, 7.0]), TensorProto.INT32)
    assert rounded.dtype == np.int32
    assert rounded.tolist() == [-2, 0, 2, 7]


def neighbours(value: Any, elem_type: int) -> list[float]:
    """Return the numbers of the type just below and just above."""
    bits, lowest, _ = FORMATS[elem_type]
    power = exponent(value) if value else lowest
    above = math.ldexp(1, max(power, lowest) - bits + 1)
    is_power = value == math.ldexp(1, power) and power > lowest
    return [value - (above / 2 if is_power else above), value + above]


@given(numbers.map(abs), st.sampled_from([FLOAT, FLOAT16, BFLOAT16]))
@example(2 - 0.6 * 2.0**-23, FLOAT)
@example(1 + 0.4 * 2.0**-10, FLOAT16)
def test_half_an_ulp_tells_correct_from_wrong(exact: float, elem_type: int) -> None:
    right = exactly_rounded(exact, elem_type)
    error = float(error_in_ulp(np.array(exact), np.array(right), elem_type))
    if not math.isfinite(exact) or math.isinf(right):
        assert not math.isfinite(error)
        return
    assert error <= 0.5
    for other in neighbours(right, elem_type):
        wrong = float(error_in_ulp(np.array(exact), np.array(other), elem_type))
        assert wrong > 0.5 or (wrong == 0.5 and error == 0.5)


@pytest.mark.parametrize(
    ("exact", "rounded", "elem_type", "expected"),
    [
        (1 + 2.0**-24, 1.0, FLOAT, 0.5),
        (1 - 2.0**-25, 1.0, FLOAT, 0.5),
        (3.0, 3.0, BFLOAT16, 0.0),
        (2.0**-25, 0.0, FLOAT16, 0.5),
        (2.0**-149, 0.0, FLOAT, 1.0),
        (5e-324, 0.0, DOUBLE, 1.0),
        (1.5, 1.0, FLOAT16, 512.0),
    ],
)
def test_error_in_ulp(exact: float, rounded: float, elem_type: int, expected: float) -> None:
    assert error_in_ulp(np.array([exact]), np.array([rounded]), elem_type) == [expected]


def test_error_of_what_is_not_finite() -> None:
    exact = np.array([1e39, np.inf, np.nan, 1.0])
    error = error_in_ulp(exact, np.array([np.inf, np.inf, np.nan, np.nan]), FLOAT)
    assert not np.isfinite(error).any()


def test_every_element_type_of_onnx_has_its_size() -> None:
    for name, elem_type in TensorProto.DataType.items():
        if name in {"UNDEFINED", "STRING"}:
            assert dtypes.nbytes(elem_type, 3) is None
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        found = re.fullmatch("U?INT([24])|FLOAT([46])E.*", name)
        packed = int(found[1] or found[2]) if found else None
        bits = packed or dtype.itemsize * 8
        assert dtypes.nbytes(elem_type, 5) == math.ceil(5 * bits / 8), name
        if packed is None:
            assert dtypes.numpy_dtype(elem_type) == dtype
            assert dtypes.name_of(elem_type) == dtype.name


@pytest.mark.parametrize("elem_type", FORMATS)
def test_limits(elem_type: int) -> None:
    bits, lowest, highest = FORMATS[elem_type]
    assert dtypes.tiny(elem_type) == math.ldexp(1, lowest)
    assert Fraction(dtypes.largest(elem_type)) == (2 - Fraction(2) ** (1 - bits)) * 2**highest
    assert dtypes.name_of(999) == "element type 999"

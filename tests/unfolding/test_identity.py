"""The constants that unfold puts in are the identity to the last bit, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery import dtypes
from normsurgery.moments import Moments
from normsurgery.unfolding.identity import (
    LARGEST_EPSILON,
    _divides,
    _exact_divisor,
    identity,
)

EXACT = [(dtypes.FLOAT, np.float32), (dtypes.DOUBLE, np.float64)]
deviations = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=20).map(
    np.array
)
powers = st.integers(-8, 8).map(lambda e: 2.0**e)


def moments(deviation: Any, mean: Any) -> Moments:
    return Moments(100, np.broadcast_to(mean, deviation.shape) * 1.0, 100 * np.square(deviation))


def applied(norm: Any, x: Any, wide: Any) -> list[Any]:
    """Return the norm of x by each order of operations that runtimes use, in their type."""
    scale, B, mean, var = (v.astype(wide) for v in (norm.scale, norm.B, norm.mean, norm.var))
    root = np.sqrt(var + wide(norm.epsilon))
    factors = (scale / root, scale * (wide(1) / root), (wide(1) / root) * scale)
    return [a * x + (B - mean * a) for a in factors]


@pytest.mark.parametrize(("elem_type", "wide"), EXACT)
@given(deviation=deviations, mean=st.floats(-1e6, 1e6), k=powers, seed=st.integers(0, 2**32 - 1))
def test_the_bits_of_x_come_out(
    elem_type: int, wide: Any, deviation: Any, mean: float, k: float, seed: int
) -> None:
    norm = identity(moments(deviation, mean), elem_type, k)
    assert norm is not None
    rng = np.random.default_rng(seed)
    x = (mean + rng.normal(0, 3, (50, deviation.size)) * (deviation + 1)).astype(wide)
    for y in applied(norm, wide(k) * x, wide):
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(("elem_type", "wide"), EXACT)
@given(deviation=deviations, mean=st.floats(-1e3, 1e3), k=powers)
def test_statistics_are_those_of_the_data(
    elem_type: int, wide: Any, deviation: Any, mean: float, k: float
) -> None:
    """scale is σ and B is μ, as a BatchNormalization that was there would have them after folding.

    σ to half a step and two steps more, where a step is 2**-10 for float32; to 500 steps of 2**-25
    for float64; √ε/k where σ is less than that. var + ε is (k·scale)².
    """
    norm = identity(moments(deviation, mean), elem_type, k)
    assert norm is not None
    assert norm.var.min() >= 0
    reach = {dtypes.FLOAT: 2.5 * 2.0**-10, dtypes.DOUBLE: 500.5 * 2.0**-25}[elem_type]
    np.testing.assert_array_equal(norm.mean, k * norm.B)
    half_step = 2.0**-150 / min(k, 1.0)  # of the subnormal numbers that B and k·B are among
    np.testing.assert_allclose(norm.B, mean, rtol=2.0**-24, atol=half_step)
    alive = k * deviation > np.sqrt(norm.epsilon)
    assert norm.dead == np.sum(~alive)
    np.testing.assert_allclose(norm.scale[alive], deviation[alive], rtol=reach)
    np.testing.assert_array_equal(norm.scale[~alive], np.sqrt(norm.epsilon) / k)
    np.testing.assert_allclose(norm.var + norm.epsilon, np.square(k * norm.scale), rtol=2.0**-24)
    for values in (norm.scale, norm.B, norm.mean, norm.var):
        np.testing.assert_array_equal(values.astype(wide).astype(np.float64), values)


@pytest.mark.parametrize("epsilon", [2.0**-16, 2.0**-30])
@pytest.mark.parametrize("exponent", [-6, 0, 1, 12, 13])
def test_every_significand_has_a_divisor_within_two_steps(epsilon: float, exponent: int) -> None:
    sigma = np.arange(1024, 2048) * 2.0 ** (exponent - 10)
    s = _exact_divisor(sigma.copy(), epsilon, dtypes.FLOAT)
    assert _divides(s, epsilon, dtypes.FLOAT).all()
    assert np.abs(s - sigma).max() <= 2 * 2.0 ** (exponent - 10)


def test_every_channel_of_a_wide_double_layer_has_a_divisor() -> None:
    sigma = np.random.default_rng(0).integers(2**25, 2**26, 200_000) * 2.0**-25
    assert identity(moments(sigma, 0.0), dtypes.DOUBLE) is not None


def test_a_mean_that_is_subnormal_keeps_zeros() -> None:
    deviation = np.array([0.0, 1.0])
    norm = identity(moments(deviation, 3.088022657652613e-39), dtypes.FLOAT, 0.5)
    assert norm is not None
    for y in applied(norm, np.zeros((1, 2), np.float32), np.float32):
        np.testing.assert_array_equal(y, 0)


def test_epsilon_is_usual_unless_the_layer_is_quiet() -> None:
    one = identity(moments(np.array([0.5, 1.0, 0.0]), 0.0), dtypes.FLOAT)
    quiet = identity(moments(np.array([0.5, 1.0, 0.0]) * 1e-5, 0.0), dtypes.FLOAT)
    assert one is not None
    assert quiet is not None
    assert one.epsilon == LARGEST_EPSILON
    assert quiet.epsilon < 1e-10 / 1000
    assert one.dead == quiet.dead == 1


@pytest.mark.parametrize(
    ("elem_type", "deviation"), [(dtypes.FLOAT16, 0.02), (dtypes.FLOAT16, 200), (16, 1e3)]
)
def test_narrow_types_change_less_than_half_a_unit(elem_type: int, deviation: float) -> None:
    """Near and above the deviation the result rounds to x; below, the error is that of those."""
    norm = identity(moments(deviation * np.linspace(0.5, 1.2, 40), 0.0), elem_type)
    assert norm is not None
    dtype = dtypes.numpy_dtype(elem_type)
    rng = np.random.default_rng(0)
    x = (deviation * rng.normal(0, 1, (500, 40))).astype(dtype)
    for y in applied(norm, x.astype(np.float32), np.float32):
        np.testing.assert_array_equal(y.astype(dtype), x)


def test_a_variance_that_float16_cannot_hold() -> None:
    assert identity(moments(np.array([1.0, 300.0]), 0.0), dtypes.FLOAT16) is None

"""Moments merge exactly, whatever the cut."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.errors import UsageError
from normsurgery.moments import Moments, merge_all


def exact(values: np.ndarray) -> tuple[float, float]:
    """Return mean and M2 by rational arithmetic."""
    whole = [Fraction(float(v)) for v in values]
    mean = sum(whole) / len(whole)
    return float(mean), float(sum((v - mean) ** 2 for v in whole))


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e8])
def test_of_is_exact_to_rounding_far_from_zero(offset: float) -> None:
    values = np.random.default_rng(0).standard_normal(500) + offset
    found = Moments.of(values.reshape(10, 1, 50))
    mean, M2 = exact(values)
    assert found.count == 500
    assert found.mean[0] == pytest.approx(mean, rel=1e-15)
    # the values themselves are rounded; what is computed from them is not worse than 1e-13
    assert found.M2[0] == pytest.approx(M2, rel=1e-13)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_any_cut_gives_the_moments_of_the_whole(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(100, 3, (size, 4, 5)) for size in sizes]
    merged = merge_all(Moments.of(part) for part in parts)
    whole = Moments.of(np.concatenate(parts))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.M2, whole.M2, rtol=1e-11)


def test_other_axis_and_half_precision() -> None:
    values = np.random.default_rng(1).standard_normal((3, 5, 7)).astype(np.float16)
    found = Moments.of(values, axis=2)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(axis=(0, 1)), rtol=1e-13)
    np.testing.assert_allclose(found.var, wide.var(axis=(0, 1)), rtol=1e-13)
    np.testing.assert_allclose(found.unbiased_var, wide.var(axis=(0, 1), ddof=1), rtol=1e-13)


def test_none_is_neutral_and_has_no_variance() -> None:
    some = Moments.of(np.arange(6.0).reshape(3, 2))
    for both in (some.merge(Moments.none(2)), Moments.none(2).merge(some)):
        assert both.count == 3
        np.testing.assert_array_equal(both.M2, some.M2)
    assert math.isnan(Moments.none(1).var[0])


def test_constant_channel_has_no_variance_at_all() -> None:
    found = Moments.of(np.full((7, 1, 3), 0.1))
    assert found.M2[0] == 0
    assert found.merge(found).M2[0] == 0


def test_arrays_there_and_back() -> None:
    some = Moments.of(np.random.default_rng(2).standard_normal((4, 3)))
    again = Moments.from_arrays(some.to_arrays())
    assert again.count == some.count
    np.testing.assert_array_equal(again.mean, some.mean)
    np.testing.assert_array_equal(again.M2, some.M2)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="2 and 3 channels"):
        Moments.none(2).merge(Moments.none(3))
    with pytest.raises(UsageError, match="no moments to merge"):
        merge_all([])
    with pytest.raises(UsageError, match="need count, mean and M2"):
        Moments.from_arrays({"count": np.asarray(1)})
    with pytest.raises(UsageError, match=r"M2 \(3,\)"):
        Moments.from_arrays({"count": np.asarray(1), "mean": np.zeros(2), "M2": np.zeros(3)})

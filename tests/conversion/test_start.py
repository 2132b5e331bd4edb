from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.affine import ChannelAffine
from normsurgery.conversion.start import GAUGES, BatchNorm, Gauge, Start, start, weight_factor
from normsurgery.dtypes import Float64

SHAPES = [(8, 1), (8, 2), (8, 8), (12, 3), (1, 1)]


def some_bn(channels: int, seed: int, *, epsilon: float = 1e-3) -> BatchNorm:
    rng = np.random.default_rng(seed)
    scale, B = rng.normal(1, 0.8, channels), rng.normal(0, 1, channels)
    return BatchNorm(scale, B, rng.normal(0, 2, channels), rng.uniform(0.05, 4, channels), epsilon)


def input_of(bn: BatchNorm, seed: int, *, samples: int = 3, positions: int = 50) -> Float64:
    """An input (N, C, positions) each of whose samples has exactly the running statistics."""
    x = np.random.default_rng(seed).normal(0, 1, (samples, bn.channels, positions))
    x -= x.mean(axis=2, keepdims=True)
    x /= x.std(axis=2, keepdims=True)
    return np.asarray(x * np.sqrt(bn.var)[:, None] + bn.mean[:, None])


def batch_norm(bn: BatchNorm, x: Float64) -> Float64:
    scale, B, mean, var = (v[:, None] for v in (bn.scale, bn.B, bn.mean, bn.var))
    return np.asarray(scale * (x - mean) / np.sqrt(var + bn.epsilon) + B)


def group_norm(s: Start, x: Float64) -> Float64:
    z = s.before.a[:, None] * x + s.before.b[:, None]
    groups = z.reshape(len(x), s.groups, -1)
    mean, var = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
    normalized = ((groups - mean) / np.sqrt(var + s.epsilon)).reshape(z.shape)
    return np.asarray(s.scale[:, None] * normalized + s.B[:, None])


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize(("channels", "groups"), SHAPES)
@given(seed=st.integers(0, 10_000), epsilon=st.sampled_from([1e-5, 1e-3, 1.0]))
def test_it_is_the_bn_where_a_samples_statistics_are_the_running_ones(
    channels: int, groups: int, gauge: Gauge, seed: int, epsilon: float
) -> None:
    bn = some_bn(channels, seed)
    x = input_of(bn, seed + 1)
    begun = start(bn, groups, gauge, epsilon)
    np.testing.assert_allclose(group_norm(begun, x), batch_norm(bn, x), rtol=1e-9, atol=1e-9)


def test_whiten_is_the_formula_of_the_design() -> None:
    bn = replace(some_bn(8, 1), epsilon=0.0)
    begun = start(bn, 2, "whiten", 1.0)
    np.testing.assert_allclose(begun.before.a, 1 / np.sqrt(bn.var), rtol=1e-15)
    np.testing.assert_allclose(begun.before.b, -bn.mean / np.sqrt(bn.var), rtol=1e-15)
    np.testing.assert_allclose(begun.scale, bn.scale * np.sqrt(2), rtol=1e-15)
    np.testing.assert_array_equal(begun.B, bn.B)
    assert begun.epsilon == 1.0


def test_fold_hands_over_what_bn_made_and_treats_a_group_alike() -> None:
    bn = replace(some_bn(8, 2), epsilon=0.0)
    begun = start(bn, 2, "fold", 1e-3)
    x = input_of(bn, 5)
    z = begun.before.a[:, None] * x + begun.before.b[:, None]
    np.testing.assert_allclose(z, batch_norm(bn, x), rtol=1e-12, atol=1e-12)
    for group in (slice(0, 4), slice(4, 8)):
        spread = bn.scale[group] ** 2 + (bn.B[group] - bn.B[group].mean()) ** 2
        np.testing.assert_allclose(begun.scale[group], np.sqrt(spread.mean() + begun.epsilon))
        np.testing.assert_allclose(begun.B[group], bn.B[group].mean(), rtol=1e-13)


def test_without_an_absorber_the_scale_and_bias_do_it_all() -> None:
    bn = some_bn(8, 3)
    begun = start(bn, 2, "none", 0.25)
    assert not begun.before.scales
    assert not begun.before.shifts
    m = np.repeat(bn.mean.reshape(2, 4).mean(axis=1), 4)
    s2 = np.repeat((bn.var + (bn.mean - m) ** 2).reshape(2, 4).mean(axis=1), 4)
    sigma = np.sqrt(bn.var + bn.epsilon)
    assert begun.epsilon == np.float32(0.25 * s2.mean())
    np.testing.assert_allclose(begun.scale, bn.scale * np.sqrt(s2 + begun.epsilon) / sigma)
    np.testing.assert_allclose(begun.B, bn.B + bn.scale * (m - bn.mean) / sigma)


@pytest.mark.parametrize("gauge", GAUGES)
def test_channels_that_never_vary_give_finite_constants(gauge: Gauge) -> None:
    zero = np.zeros(4)
    dead = BatchNorm(np.ones(4), zero, zero, zero, 0.0)
    begun = start(dead, 1, gauge)
    for values in (begun.before.a, begun.before.b, begun.scale, begun.B):
        assert np.isfinite(values).all()
    assert begun.epsilon > 0


def test_a_channel_of_scale_0_stays_what_it_was() -> None:
    bn = some_bn(8, 4)
    bn.scale[3] = 0
    x = input_of(bn, 1)
    for gauge in GAUGES:
        made = group_norm(start(bn, 2, gauge), x)
        np.testing.assert_allclose(made[:, 3], bn.B[3], rtol=1e-12, atol=1e-12)


@given(k=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_stretching_changes_nothing(k: float, seed: int) -> None:
    bn = some_bn(8, seed)
    x = np.random.default_rng(seed).normal(0, 3, (2, 8, 20))
    begun = start(bn, 2)
    np.testing.assert_allclose(
        group_norm(begun.stretched(k), x), group_norm(begun, x), rtol=1e-9, atol=1e-9
    )


def test_the_weight_factor_keeps_the_norm() -> None:
    rng = np.random.default_rng(1)
    W, a = rng.normal(0, 1, (6, 4, 3, 3)), rng.normal(0, 5, 6)
    k = weight_factor((W**2).sum(axis=(1, 2, 3)), a)
    assert np.linalg.norm(k * a[:, None, None, None] * W) == pytest.approx(np.linalg.norm(W))
    assert weight_factor(np.zeros(6), a) == 1
    assert weight_factor(np.ones(6), np.zeros(6)) == 1


def test_a_bn_out_of_an_affine_map_and_statistics() -> None:
    rng = np.random.default_rng(2)
    affine = ChannelAffine(rng.normal(0, 1, 5), rng.normal(0, 1, 5))
    made = BatchNorm.of_affine(affine, rng.normal(0, 1, 5), rng.uniform(0.1, 2, 5))
    np.testing.assert_allclose(made.affine.a, affine.a, rtol=1e-14)
    np.testing.assert_allclose(made.affine.b, affine.b, rtol=1e-13)


def test_groups_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(ValueError, match="8 channels do not make 3 groups"):
        start(some_bn(8, 1), 3)

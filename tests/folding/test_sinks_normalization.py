"""Instance-, Group-, Layer- and RMSNormalization absorb a map into their scale and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import slug_of
from graphs import assert_folds, assert_kept, assert_same, bn, ops, parse, weights

import normsurgery
from normsurgery.affine import ChannelAffine

INSTANCE = "InstanceNormalization(x, s, t)"
GROUP = "GroupNormalization<num_groups=2>(x, s, t)"


def before_bn(norm: str, *, opset: int = 21, shift: bool = True, **tensors: Any) -> Any:
    return parse(
        f"""g (double[N, 6, 5, 5] x) => (double[N, 6, 5, 5] y) {{
          n = {norm}
          y = BatchNormalization(n, scale, B, mean, var)
        }}""",
        opset=opset, **bn(6, shift=shift), **tensors,
    )  # fmt: skip


def before_mul(norm: str, m: Any, **tensors: Any) -> Any:
    """Over the last axis of (N, T, 6), behind it the Mul and Add of a constant."""
    return parse(
        f"""g (double[N, T, 6] x) => (double[N, T, 6] y) {{
          n = {norm}
          p = Mul(n, m)
          y = Add(p, k)
        }}""",
        m=m, k=weights(*m.shape, seed=9), opset=23, **tensors,
    )  # fmt: skip


def test_instance_norm() -> None:
    model = before_bn(INSTANCE, s=weights(6), t=weights(6, seed=1))
    assert_folds(model, ["InstanceNormalization"])


def test_group_norm() -> None:
    assert_folds(before_bn(GROUP, s=weights(6), t=weights(6, seed=1)), ["GroupNormalization"])


def test_group_norm_with_a_scale_per_group() -> None:
    model = before_bn(GROUP, s=weights(2), t=weights(2, seed=1), opset=18)
    result = normsurgery.fold(model)  # the BN takes the norm's scale
    assert [k.slug for k in result.report.kept] == ["mixed-channels"]
    assert_same(model, result.model)
    for name in ("scale", "B", "mean", "var"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = np.frombuffer(tensor.raw_data).copy()
        tensor.raw_data = np.repeat(values[::3], 3).tobytes()  # one map a group of 3 channels
    result = normsurgery.fold(model)
    assert ops(result.model) == ["GroupNormalization"]
    assert_same(model, result.model)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias: bool) -> None:
    extra = {"t": weights(6, seed=1)} if bias else {}
    norm = f"LayerNormalization<axis=-1>(x, s{', t' if bias else ''})"
    assert_folds(before_mul(norm, weights(6), s=weights(6), **extra), ["LayerNormalization"])


def test_layer_norm_over_several_axes() -> None:
    """(6, 5, 5) are normalized, and channels are the first of them."""
    model = before_bn("LayerNormalization<axis=1>(x, s)", s=weights(6, 5, 5))
    result = assert_folds(model, ["LayerNormalization"])
    (made,) = [t for t in result.model.graph.initializer if "bias" in t.name]
    assert list(made.dims) == [6, 5, 5]


def test_one_number_for_all() -> None:
    model = before_mul("LayerNormalization(x, s)", np.array(3.0), s=weights(6))
    assert_folds(model, ["LayerNormalization"])
    model = before_mul("RMSNormalization(x, s)", np.array([0.5]), s=weights(6))
    model.graph.node[-1].op_type = "Mul"
    assert_folds(model, ["RMSNormalization"])


def test_rms_norm_has_no_bias() -> None:
    model = before_mul("RMSNormalization(x, s)", weights(6), s=weights(6))
    assert ops(normsurgery.fold(model).model) == ["RMSNormalization", "Add"]
    model = before_bn("RMSNormalization<axis=1>(x, s)", opset=23, s=weights(6, 5, 5))
    assert_kept(model, "no-bias")


def test_axis_that_is_not_normalized() -> None:
    model = before_bn("LayerNormalization<axis=-1>(x, s)", s=weights(5))
    assert_kept(model, "no-channel")


def test_scale_that_is_broadcast() -> None:
    model = before_bn("LayerNormalization<axis=1>(x, s)", s=weights(6, 5, 5))
    (scale,) = [t for t in model.graph.initializer if t.name == "s"]
    del scale.dims[:]
    scale.dims.extend([1, 1, 150])
    affine = ChannelAffine(np.arange(1.0, 7), np.ones(6))
    model.graph.node[0].attribute[0].i = 1
    assert slug_of(model, "LayerNormalization", forwards=False, affine=affine) == "no-channel"


def test_map_along_the_width() -> None:
    model = parse(
        """g (double[N, 3, 4, 5] x) => (double[N, 3, 4, 5] y) {
          n = InstanceNormalization(x, s, t)
          y = Mul(n, m)
        }""",
        s=weights(3), t=weights(3, seed=1), m=weights(5),
    )  # fmt: skip
    assert ops(normsurgery.fold(model).model) == ["InstanceNormalization", "Mul"]


@pytest.mark.parametrize("name", ["s", "t"])
def test_parameter_that_is_an_input(name: str) -> None:
    tensors = {"s": weights(6), "t": weights(6, seed=1)}
    del tensors[name]
    model = parse(
        f"""g (double[N, 6, 5, 5] x, double[6] {name}) => (double[N, 6, 5, 5] y) {{
          n = {INSTANCE}
          y = BatchNormalization(n, scale, B, mean, var)
        }}""",
        **bn(6), **tensors,
    )  # fmt: skip
    assert_kept(model, "not-constant")


def test_statistics_that_a_layer_norm_hands_out() -> None:
    model = parse(
        """g (double[N, T, 6] x) => (double[N, T, 6] y, double[N, T, 1] z) {
          y, mean = LayerNormalization(x, s)
          z = Mul(mean, m)
        }""",
        s=weights(6), m=np.array(2.0),
    )  # fmt: skip
    assert ops(normsurgery.fold(model).model) == ["LayerNormalization", "Mul"]


def test_what_it_absorbs_goes_on_into_the_next_layer() -> None:
    model = parse(
        """g (double[N, 6, 5, 5] x) => (double[N, 4, 5, 5] y) {
          n = InstanceNormalization(x, s, t)
          b = BatchNormalization(n, scale, B, mean, var)
          y = Conv(b, W)
        }""",
        s=weights(6), t=weights(6, seed=1), W=weights(4, 6, 1, 1), **bn(6),
    )  # fmt: skip
    result = assert_folds(model, ["InstanceNormalization", "Conv"])
    tensors = {t.name: np.frombuffer(t.raw_data) for t in result.model.graph.initializer}
    scale, bias = (tensors[n] for n in result.model.graph.node[0].input[1:])
    assert np.all(scale == 1)
    assert np.all(bias == 0)

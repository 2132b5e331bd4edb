"""Scale and bias of normalizations that compute their statistics go forwards."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import assert_folds, assert_kept, assert_same, ops, parse, weights

import normsurgery


def neutral(model: onnx.ModelProto, node: int = 0) -> None:
    """Assert that the node's scale is 1 and its bias 0."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    scale, *bias = (tensors[name] for name in list(model.graph.node[node].input)[1:])
    assert np.all(scale == 1)
    assert not bias or np.all(bias[0] == 0)


def test_instance_norm_into_conv() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          n = InstanceNormalization(x, s, b)
          y = Conv(n, W)
        }""",
        s=weights(3),
        b=weights(3, seed=1),
        W=weights(4, 3, 3, 3),
    )
    neutral(assert_folds(model, ["InstanceNormalization", "Conv"]).model)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_into_linear(bias: bool) -> None:
    extra = {"b": weights(6, seed=1)} if bias else {}
    model = parse(
        f"""g (double[N, T, 6] x) => (double[N, T, 5] y, double[N, T, 4] z) {{
          n = LayerNormalization<axis=-1>(x, s{", b" if bias else ""})
          p = MatMul(n, W)
          y = Add(p, c)
          q = MatMul(n, V)
          z = Add(q, d)
        }}""",
        s=weights(6),
        W=weights(6, 5),
        V=weights(6, 4),
        c=weights(5),
        d=weights(4),
        **extra,
    )
    result = assert_folds(model, ["LayerNormalization", "MatMul", "Add", "MatMul", "Add"])
    neutral(result.model)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_norm_has_a_scale_per_group_before_opset_21(opset: int) -> None:
    size = 2 if opset == 18 else 6
    model = parse(
        """g (double[N, 6, 8, 8] x) => (double[N, 4, 8, 8] y) {
          n = GroupNormalization<num_groups=2>(x, s, b)
          y = Conv(n, W)
        }""",
        opset=opset,
        s=weights(size),
        b=weights(size, seed=1),
        W=weights(4, 6, 1, 1),
    )
    result = normsurgery.fold(model)
    assert ops(result.model) == ["GroupNormalization", "Conv"]
    assert len(result.report.folded) == 1
    neutral(result.model)
    assert_same(model, result.model)


def conv_after(norm: str, **tensors: object) -> onnx.ModelProto:
    text = f"""g (double[N, 3, 8, 8] x) => (double[N, 4, 8, 8] y) {{
      n = {norm}
      y = Conv<pads=[1, 1, 1, 1]>(n, W)
    }}"""
    return parse(text, W=weights(4, 3, 3, 3), **tensors)


def test_a_shift_does_not_go_into_a_conv_that_pads() -> None:
    model = conv_after("InstanceNormalization(x, s, b)", s=weights(3), b=weights(3))
    assert_kept(model)


def test_a_scale_alone_does() -> None:
    model = conv_after("InstanceNormalization(x, s, b)", s=weights(3), b=np.zeros(3))
    assert_folds(model, ["InstanceNormalization", "Conv"])


def test_nothing_to_do_is_not_done() -> None:
    model = conv_after("InstanceNormalization(x, s, b)", s=np.ones(3), b=np.zeros(3))
    assert_kept(model)


def test_scale_over_several_axes() -> None:
    model = parse(
        """g (double[N, 4, 6] x) => (double[N, 4, 5] y) {
          n = LayerNormalization<axis=1>(x, s)
          y = MatMul(n, W)
        }""",
        s=weights(4, 6),
        W=weights(6, 5),
    )
    assert_kept(model)


def test_scale_that_is_an_input() -> None:
    model = parse(
        """g (double[N, T, 6] x, double[6] s) => (double[N, T, 5] y) {
          n = LayerNormalization(x, s)
          y = MatMul(n, W)
        }""",
        W=weights(6, 5),
    )
    assert_kept(model)

"""Where graphs hide: bodies of If, Loop and Scan, and local functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import assert_folds, assert_kept, assert_same, bn, ops, parse, run, weights

import normsurgery
from normsurgery.errors import GraphError

BRANCHES = """g (double[N, 3, 8, 8] x, bool flag) => (double[N, 4, 6, 6] y) {
  y = If (flag) <
    then_branch = t () => (double[N, 4, 6, 6] u) {
      c = Conv(x, W)
      u = BatchNormalization(c, scale, B, mean, var)
    },
    else_branch = e () => (double[N, 4, 6, 6] v) {
      d = Conv(x, W)
      v = BatchNormalization<epsilon=0.5>(d, scale, B, mean, var)
    }
  >
}"""


def test_bodies_with_weights_of_the_outer_scope() -> None:
    model = parse(BRANCHES, W=weights(4, 3, 3, 3), **bn(4))
    result = normsurgery.fold(model)
    assert (result.report.before, result.report.after) == (2, 0)
    after = result.model
    onnx.checker.check_model(after)
    assert_same(model, after)
    assert not after.graph.initializer  # nobody reads the old ones any more


def test_ranks_inside_bodies() -> None:
    """A constant along an axis, and a Squeeze, need ranks that only inference tells."""
    model = parse(
        """g (double[N, 3, 8, 8] x, bool flag) => (double[N, 4] y) {
          y = If (flag) <
            then_branch = t () => (u) {
              c = Conv(x, W)
              d = Mul(c, m)
              e = Add(k, d)
              f = GlobalAveragePool(e)
              s = Squeeze(f, spatial)
              u = BatchNormalization(s, scale, B, mean, var)
            },
            else_branch = e () => (v) {
              c2 = Conv(x, W)
              d2 = Sub(c2, m)
              f2 = GlobalMaxPool(d2)
              v = Flatten(f2)
            }
          >
        }""",
        W=weights(4, 3, 3, 3), m=weights(4, 1, 1), k=weights(1, 4, 1, 1),
        spatial=np.array([2, 3]), **bn(4),
    )  # fmt: skip
    result = normsurgery.fold(model)
    after = result.model
    bodies = {a.name: [n.op_type for n in a.g.node] for a in after.graph.node[0].attribute}
    assert bodies["then_branch"] == ["Conv", "GlobalAveragePool", "Squeeze"]
    assert bodies["else_branch"] == ["Conv", "GlobalMaxPool", "Flatten"]
    onnx.checker.check_model(after)
    assert_same(model, after)


def test_value_of_a_loop_that_grows() -> None:
    """A carried value may have another shape at each turn; nothing of it is taken as fixed."""
    model = parse(
        """g (double[2, 4] x, int64 n, bool go) => (double[M, 4] y) {
          y = Loop (n, go, x) <body = b (int64 i, bool k, double[P, Q] s)
              => (bool k2, double[P2, Q2] s2) {
            k2 = Identity(k)
            c = MatMul(s, W)
            d = Mul(c, m)
            s2 = Concat<axis=0>(d, s)
          }>
        }""",
        W=weights(4, 4), m=weights(4),
    )  # fmt: skip
    after = normsurgery.fold(model).model
    feeds = {"x": weights(2, 4), "n": np.array(3), "go": np.array(True)}
    for x, y in zip(run(model, feeds), run(after, feeds), strict=True):
        assert x.shape == (16, 4)
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_a_conv_outside_and_its_norm_inside() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x, bool flag) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          y = If (flag) <
            then_branch = t () => (double[N, 4, 6, 6] u) {
              u = BatchNormalization(c, scale, B, mean, var)
            },
            else_branch = e () => (double[N, 4, 6, 6] v) { v = Neg(c) }
          >
        }""",
        W=weights(4, 3, 3, 3),
        **bn(4),
    )
    assert_kept(model, "graph-input")


def test_loop_body() -> None:
    model = parse(
        """g (double[1, 3, 8, 8] x, int64 n, bool go) => (double[1, 3, 8, 8] y) {
          y = Loop (n, go, x) <body = b (int64 i, bool k, double[1, 3, 8, 8] s)
              => (bool k2, double[1, 3, 8, 8] s2) {
            k2 = Identity(k)
            c = Conv<pads=[1, 1, 1, 1]>(s, W)
            s2 = BatchNormalization(c, scale, B, mean, var)
          }>
        }""",
        W=weights(3, 3, 3, 3) / 9,
        **bn(3),
    )
    result = normsurgery.fold(model)
    assert result.report.after == 0
    onnx.checker.check_model(result.model)
    inputs = {"x": weights(1, 3, 8, 8), "n": np.array(3), "go": np.array(True)}
    from graphs import run

    before, after = (run(m, inputs)[0] for m in (model, result.model))
    np.testing.assert_allclose(before, after, rtol=1e-11, atol=1e-11)


FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (double[N, 3, 8, 8] x) => (double[N, 3, 8, 8] y)
  <double[3] s = {1, -2, 3}, double[3] v = {1, 2, 3},
   double[3, 3, 1, 1] W = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
  c = local.block<e=0.5>(x, W, s, v)
  r = Relu(c)
  y = local.block<e=0.25>(r, W, v, s)
}
<domain: "local", opset_import: ["" : 21, "local" : 1]>
norm <e> (x, s, v) => (y) {
  w = Abs(v)
  y = BatchNormalization<epsilon: float = @e>(x, s, s, s, w)
}
<domain: "local", opset_import: ["" : 21, "local" : 1]>
block <e> (x, W, s, v) => (y) {
  c = Conv(x, W)
  y = local.norm<e: float = @e>(c, s, v)
}"""


def test_one_definition_called_with_different_parameters() -> None:
    model = onnx.parser.parse_model(FUNCTIONS)
    result = assert_folds(model, ["Conv", "Relu", "Conv"])
    assert sorted(result.report.inlined) == ["block", "norm"]


def test_functions_over_the_cap_are_refused_by_name() -> None:
    model = onnx.parser.parse_model(FUNCTIONS)
    assert_kept(model, "attribute-reference", max_inlined_nodes=3)


def test_constants_inside_a_function() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (double[N, 2, 4] x) => (double[N, 2, 4] y) { y = local.f(x) }
    <domain: "local", opset_import: ["" : 21]>
    f (x) => (y) {
      W = Constant<value = double[2, 2, 1] {1, 2, 3, 4}>()
      s = Constant<value = double[2] {1, 2}>()
      c = Conv(x, W)
      y = BatchNormalization(c, s, s, s, s)
    }""")
    assert_folds(model, ["Conv"])
    kept_as_function = normsurgery.fold(model, max_inlined_nodes=0)
    assert kept_as_function.report.after == 0
    after = kept_as_function.model
    onnx.checker.check_model(after)
    assert [n.op_type for n in after.functions[0].node] == ["Constant", "Constant", "Conv"]
    assert_same(model, after)


def test_functions_without_norms_stay() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (double[N, 2, 4] x) => (double[N, 2, 4] y) { y = local.f(x) }
    <domain: "local", opset_import: ["" : 21]>
    f (x) => (y) { y = Relu(x) }""")
    result = normsurgery.fold(model)
    assert not result.report.inlined
    assert ops(result.model) == ["f"]


def test_functions_that_call_themselves() -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (double[N, 2, 4] x) => (double[N, 2, 4] y) { y = local.f(x) }
    <domain: "local", opset_import: ["" : 21, "local" : 1]>
    f (x) => (y) { y = local.h(x) }
    <domain: "local", opset_import: ["" : 21, "local" : 1]>
    h (x) => (y) { y = local.f(x) }""")
    with pytest.raises(GraphError, match="calls itself"):
        normsurgery.fold(model)


def test_functions_that_double_at_every_level_stay_under_the_cap() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (double[N, 2, 4] x) => (double[N, 2, 4] y) { y = local.f0(x) }"""
    for level in range(40):
        inner = f"local.f{level + 1}"
        text += f"""
        <domain: "local", opset_import: ["" : 21, "local" : 1]>
        f{level} (x) => (y) {{ a = {inner}(x)\n y = {inner}(a) }}"""
    text += """
    <domain: "local", opset_import: ["" : 21]>
    f40 (x) => (y) {
      s = Constant<value = double[2] {1, 2}>()
      y = BatchNormalization(x, s, s, s, s)
    }"""
    result = normsurgery.fold(onnx.parser.parse_model(text))
    assert not result.report.inlined

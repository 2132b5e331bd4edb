"""Parallel branches of one value that meet in an Add become one Conv."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import assert_folds, assert_kept, bn, ops, parse, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import normsurgery


def block(first: str, second: str, add: str = "Add(p, q)", channels: int = 4, **tensors: object):
    """Return ``y = p + q`` with p and q made of ``r``, which two or more nodes read."""
    text = f"""g (double[N, {channels}, 9, 8] x) => (double[N, 4, H, W] y) {{
      r = Sigmoid(x)
      p = {first}
      q = {second}
      y = {add}
    }}"""
    return parse(text, **tensors)


def test_repvgg_block() -> None:
    text = """g (double[N, 4, 9, 8] x) => (double[N, 4, 9, 8] y) {
      r = Sigmoid(x)
      a = Conv<pads=[1, 1, 1, 1]>(r, W3)
      p = BatchNormalization(a, scale, B, mean, var)
      c = Conv(r, W1)
      q = BatchNormalization<epsilon=0.1>(c, scale, B, mean, var)
      s = Add(p, q)
      i = BatchNormalization(r, scale, B, mean, var)
      y = Add(s, i)
    }"""
    model = parse(text, W3=weights(4, 4, 3, 3), W1=weights(4, 4, 1, 1), **bn(4))
    result = assert_folds(model, ["Sigmoid", "Conv"])
    assert len(result.report.merged) == 2
    assert result.report.after == 0


@pytest.mark.parametrize("order", ["Add(p, q)", "Add(q, p)", "Sum(p, q)"])
def test_order_does_not_matter(order: str) -> None:
    model = block(
        "Conv<pads=[1, 1, 1, 1]>(r, W3)",
        "Conv(r, W1, b)",
        order,
        W3=weights(4, 4, 3, 3),
        W1=weights(4, 4, 1, 1, seed=3),
        b=weights(4),
    )
    assert_folds(model, ["Sigmoid", "Conv"])


@pytest.mark.parametrize("order", ["Sub(p, q)", "Sub(q, p)"])
@pytest.mark.parametrize("second", ["Conv(r, W1, b)", "BatchNormalization(r, scale, B, mean, var)"])
def test_difference_of_branches(order: str, second: str) -> None:
    tensors = {"W1": weights(4, 4, 1, 1, seed=3), "b": weights(4)}
    used = tensors if "W1" in second else bn(4)
    model = block(
        "Conv<pads=[1, 1, 1, 1]>(r, W3, c)",
        second,
        order,
        W3=weights(4, 4, 3, 3),
        c=weights(4, seed=5),
        **used,
    )
    assert_folds(model, ["Sigmoid", "Conv"])


def test_identity_branch() -> None:
    model = block("Conv<pads=[1, 1, 1, 1]>(r, W)", "Identity(r)", W=weights(4, 4, 3, 3))
    direct = block("Conv<pads=[1, 1, 1, 1]>(r, W)", "Relu(x)", "Add(p, r)", W=weights(4, 4, 3, 3))
    del direct.graph.node[2]
    assert_folds(direct, ["Sigmoid", "Conv"])
    assert ops(normsurgery.fold(model).model)[0] == "Sigmoid"


@pytest.mark.parametrize("group", [2, 4])
def test_groups(group: int) -> None:
    text = """g (double[N, 4, 9, 8] x) => (double[N, 4, 9, 8] y) {
      r = Sigmoid(x)
      p = Conv<group=GROUP, pads=[1, 1, 1, 1]>(r, W3)
      q = Conv<group=GROUP>(r, W1)
      s = Add(p, q)
      i = BatchNormalization(r, scale, B, mean, var)
      y = Add(s, i)
    }""".replace("GROUP", str(group))
    shape = (4, 4 // group)
    model = parse(text, W3=weights(*shape, 3, 3), W1=weights(*shape, 1, 1), **bn(4))
    assert_folds(model, ["Sigmoid", "Conv"])


def test_line_kernels_beside_a_square_one() -> None:
    """ACNet: 3×3 + 1×3 + 3×1."""
    text = """g (double[N, 4, 9, 8] x) => (double[N, 5, 5, 4] y) {
      r = Sigmoid(x)
      a = Conv<strides=[2, 2], pads=[1, 1, 1, 1]>(r, A)
      b = Conv<strides=[2, 2], pads=[0, 1, 0, 1]>(r, B)
      s = Add(a, b)
      c = Conv<strides=[2, 2], pads=[1, 0, 1, 0]>(r, C)
      y = Add(s, c)
    }"""
    kernels = {"A": weights(5, 4, 3, 3), "B": weights(5, 4, 1, 3), "C": weights(5, 4, 3, 1)}
    assert_folds(parse(text, **kernels), ["Sigmoid", "Conv"])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_geometry_is_right_or_refused(data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 2))
    nodes, kernels = [], {}
    first = ([0] * 4, 1, [1, 1])
    for name in ("p", "q"):
        k = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=2))
        d = data.draw(st.integers(1, 2))
        pads = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
        if name == "q":  # the same size of output, or there is no Add
            total = [first[0][i] + first[0][i + 2] - first[1] * (first[2][i] - 1) for i in (0, 1)]
            pads = pads[:2] + [total[i] - pads[i] + d * (k[i] - 1) for i in (0, 1)]
            if min(pads) < 0:
                return
        first = (pads, d, k)
        kernels[f"W{name}"] = weights(3, 4, *k, seed=len(nodes))
        where = f"strides=[{stride}, {stride}], dilations=[{d}, {d}], pads={pads}"
        nodes.append(f"{name} = Conv<{where}>(r, W{name})")
    text = f"""g (double[N, 4, 9, 8] x) => (double[N, 3, H, W] y) {{
      r = Sigmoid(x)
      {nodes[0]}
      {nodes[1]}
      y = Add(p, q)
    }}"""
    model = parse(text, **kernels)
    merged = normsurgery.fold(model).report.merged
    assert_folds(model, ["Sigmoid", "Conv"] if merged else ["Sigmoid", "Conv", "Conv", "Add"])


# -- one negative test per precondition --------------------------------------------------------

SQUARE, POINT = weights(4, 4, 3, 3), weights(4, 4, 1, 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Conv<pads=[1, 1, 1, 1]>(r, W3)", "Conv(x, W1)"),  # of two values
        ("Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(r, W3)", "Conv<strides=[2, 2]>(z, W1)"),
        ("Conv<pads=[2, 2, 0, 0]>(r, W3)", 'Conv<auto_pad="SAME_UPPER">(r, W1)'),
        ("Conv<pads=[1, 0, 1, 0]>(r, W31)", "Conv<pads=[0, 1, 0, 1]>(r, W13)"),  # 9 taps for 6
        ("Conv<pads=[1, 1, 1, 1], group=4>(r, D3)", "Conv(r, W1)"),  # other groups
    ],
)
def test_branches_that_stay(first: str, second: str) -> None:
    tensors = {
        "W3": SQUARE,
        "W1": POINT,
        "W31": weights(4, 4, 3, 1),
        "W13": weights(4, 4, 1, 3),
        "D3": weights(4, 1, 3, 3),
    }
    used = {k: v for k, v in tensors.items() if k in first or k in second}
    text = f"""g (double[N, 4, 9, 8] x) => (double[N, 4, H, W] y) {{
      r = Sigmoid(x)
      z = Sigmoid(r)
      p = {first}
      q = {second}
      y = Add(p, q)
    }}"""
    assert_kept(parse(text, **used))


def test_branch_read_elsewhere() -> None:
    model = block("Conv<pads=[1, 1, 1, 1]>(r, W3)", "Conv(r, W1)", W3=SQUARE, W1=POINT)
    for name in ("p", "q"):
        read = parse("g (double[N] a) => (double[N] b) { b = Relu(a) }").graph
        read.node[0].input[0], read.node[0].output[0], read.output[0].name = name, "b", "b"
        both = type(model)()
        both.CopyFrom(model)
        both.graph.node.append(read.node[0])
        both.graph.output.append(model.graph.output[0])
        both.graph.output[-1].name = "b"
        assert_kept(both)


def test_weight_that_is_an_input() -> None:
    text = """g (double[N, 4, 9, 8] x, double[4, 4, 1, 1] W1) => (double[N, 4, 9, 8] y) {
      p = Conv<pads=[1, 1, 1, 1]>(x, W3)
      q = Conv(x, W1)
      y = Add(p, q)
    }"""
    assert_kept(parse(text, W3=SQUARE))


def test_identity_of_other_width() -> None:
    text = """g (double[N, 1, 9, 8] x) => (double[N, 4, 9, 8] y) {
      p = Conv<pads=[1, 1, 1, 1]>(x, W3)
      y = Add(p, x)
    }"""
    assert_kept(parse(text, W3=weights(4, 1, 3, 3)))


def test_merged_kernel_is_the_float64_sum_rounded_once() -> None:
    text = """g (float[N, 4, 9, 8] x) => (float[N, 4, 9, 8] y) {
      p = Conv<pads=[1, 1, 1, 1]>(x, W3)
      q = Conv(x, W1)
      y = Add(p, q)
    }"""
    W3, W1 = SQUARE.astype(np.float32), POINT.astype(np.float32)
    folded = normsurgery.fold(parse(text, W3=W3, W1=W1)).model
    stored = np.frombuffer(folded.graph.initializer[0].raw_data, np.float32).reshape(W3.shape)
    exact = W3.astype(np.float64)
    exact[:, :, 1, 1] += W1[:, :, 0, 0]
    np.testing.assert_array_equal(stored, exact.astype(np.float32))

"""Our float64 operators against those of onnx.reference, or against onnxruntime where it errs."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from validation.nets import graph

from normsurgery import runtime
from normsurgery.validation import oracle
from normsurgery.validation.budget import Budget, NoOracleError
from normsurgery.validation.evaluator import evaluator
from normsurgery.validation.operators import implementations


def one_node(op, arrays, opset=17, outputs=1, **attributes):
    names = [f"i{n}" for n in range(len(arrays))]
    results = [f"o{n}" for n in range(outputs)]
    node = helper.make_node(op, names, results, **attributes)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    types = [TensorProto.INT64 if n else TensorProto.DOUBLE for n in range(outputs)]
    outs = [helper.make_tensor_value_info(n, t, None) for n, t in zip(results, types, strict=True)]
    made = helper.make_graph([node], "g", infos, outs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feed(model, arrays):
    return {info.name: array for info, array in zip(model.graph.input, arrays, strict=True)}


def ours(model, arrays):
    return evaluator(model, Budget()).run(None, feed(model, arrays))


def theirs(model, arrays):
    return ReferenceEvaluator(model).run(None, feed(model, arrays))


def by_onnxruntime(tmp_path, model, arrays):
    """The same node in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.DOUBLE:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    path = tmp_path / "node.onnx"
    onnx.save(copy, str(path))
    singles = [a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays]
    return list(runtime.run(runtime.session(path), feed(copy, singles)).values())


def randoms(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, maps = draw(st.integers(1, 3)), draw(st.integers(1, 3)) * group
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    sizes = draw(st.lists(st.integers(5, 8), min_size=rank, max_size=rank))
    attributes = {
        "group": group,
        "strides": draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)),
        "dilations": draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank)),
    }
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    return draw(st.integers(1, 2)), per_group * group, maps, sizes, kernel, attributes, pads


def test_there_is_one_class_per_operator():
    names = [kind.__name__ for kind in implementations()]
    assert len(names) == len(set(names))
    assert {"Conv", "ConvTranspose", "MaxPool", "BatchNormalization", "MatMul"} <= set(names)


@given(convolutions(), st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
@settings(max_examples=120, deadline=None)
def test_conv(case, auto_pad):
    batch, channels, maps, sizes, kernel, attributes, pads = case
    if auto_pad != "NOTSET":
        # onnx.reference pads a dilated kernel as if it were not.
        attributes = {**attributes, "dilations": [1] * len(kernel)}
    pads = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    w = (maps, channels // attributes["group"], *kernel)
    arrays = randoms(0, (batch, channels, *sizes), w, (maps,))
    model = one_node("Conv", arrays, **attributes, **pads)
    np.testing.assert_allclose(ours(model, arrays)[0], theirs(model, arrays)[0], atol=1e-12)


@pytest.mark.parametrize("auto_pad", ["VALID", "SAME_UPPER", "SAME_LOWER"])
def test_conv_auto_pad_as_onnxruntime_does_it(tmp_path, auto_pad):
    arrays = randoms(0, (2, 3, 9, 10), (4, 3, 3, 2))
    model = one_node("Conv", arrays, strides=[2, 3], auto_pad=auto_pad)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-5)


def test_conv_in_several_blocks_and_with_many_channels(monkeypatch):
    from normsurgery.validation.operators import conv

    monkeypatch.setattr(conv, "_BLOCK", 64)
    monkeypatch.setattr(conv, "_PLANES", 64)
    for group in (1, 6):
        arrays = randoms(0, (2, 6, 9, 7), (6, 6 // group, 3, 3))
        model = one_node("Conv", arrays, group=group, pads=[1, 0, 2, 1], strides=[2, 1])
        np.testing.assert_allclose(ours(model, arrays)[0], theirs(model, arrays)[0], atol=1e-12)


@given(convolutions(), st.data())
@settings(max_examples=120, deadline=None)
def test_conv_transpose_is_the_adjoint_of_conv(case, data):
    batch, channels, maps, sizes, kernel, attributes, pads = case
    rank = len(sizes)
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    x, w = randoms(0, (batch, channels, *sizes), (maps, channels // attributes["group"], *kernel))
    forward = one_node("Conv", [x, w], **attributes, pads=pads)
    y = ours(forward, [x, w])[0]
    (cotangent,) = randoms(1, y.shape)
    extra = [
        n + a + b - ((c - 1) * s + d * (k - 1) + 1)
        for n, a, b, c, s, d, k in zip(
            sizes, pads[:rank], pads[rank:], y.shape[2:], attributes["strides"],
            attributes["dilations"], kernel, strict=True,
        )
    ]  # fmt: skip
    if 0 in y.shape:
        return
    backward = one_node(
        "ConvTranspose", [cotangent, w], **attributes, pads=pads, output_padding=extra
    )
    back = ours(backward, [cotangent, w])[0]
    assert back.shape == x.shape
    assert np.vdot(back, x) == pytest.approx(np.vdot(cotangent, y), abs=1e-9)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "output_padding": [1, 1], "group": 2},
        {"strides": [2, 2], "dilations": [2, 1]},
        {"strides": [2, 2], "output_shape": [11, 12]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "VALID"},
    ],
)
def test_conv_transpose_as_onnxruntime_does_it(tmp_path, attributes):
    arrays = randoms(0, (2, 4, 5, 6), (4, 3, 3, 2), (3 * attributes.get("group", 1),))
    model = one_node("ConvTranspose", arrays, **attributes)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-5)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [3, 2]])
def test_pools_as_onnxruntime_does_them(tmp_path, strides, pads, ceil_mode):
    arrays = randoms(0, (2, 3, 8, 9))
    common = {"kernel_shape": [3, 2], "strides": strides, "pads": pads, "ceil_mode": ceil_mode}
    for op, extra, outputs in (
        ("MaxPool", {"dilations": [2, 1]}, 2),
        ("MaxPool", {"storage_order": 1}, 2),
        ("AveragePool", {}, 1),
        ("AveragePool", {"count_include_pad": 1}, 1),
    ):
        model = one_node(op, arrays, outputs=outputs, **common, **extra)
        for mine, yours in zip(
            ours(model, arrays), by_onnxruntime(tmp_path, model, arrays), strict=True
        ):
            np.testing.assert_allclose(mine, yours, atol=1e-6, err_msg=f"{op} {extra}")


@pytest.mark.parametrize("auto_pad", ["VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_auto_pad(tmp_path, op, auto_pad):
    arrays = randoms(0, (1, 2, 7, 8))
    model = one_node(op, arrays, kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto_pad)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(tmp_path, opset):
    arrays = randoms(0, (2, 3, 4, 5), 3, 3, 3, 3)
    arrays[4] = np.abs(arrays[4])
    model = one_node("BatchNormalization", arrays, opset, epsilon=0.1)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-5)


def test_batch_normalization_per_activation(tmp_path):
    arrays = randoms(0, (2, 3, 4), *[(3, 4)] * 4)
    arrays[4] = np.abs(arrays[4])
    model = one_node("BatchNormalization", arrays, 7, spatial=0)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-5)


def test_batch_normalization_in_training_mode():
    arrays = randoms(0, (4, 3, 5), 3, 3, 3, 3)
    model = one_node("BatchNormalization", arrays, training_mode=1, momentum=0.5)
    (y,) = ours(model, arrays)
    np.testing.assert_allclose(y, theirs(model, arrays)[0], atol=1e-12)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(tmp_path, opset):
    arrays = randoms(0, (2, 6, 4, 5), *[3 if opset == 18 else 6] * 2)
    model = one_node("GroupNormalization", arrays, opset, num_groups=3)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn_sums_over_channels(tmp_path, size):
    arrays = randoms(0, (2, 7, 3, 3))
    model = one_node("LRN", arrays, size=size, alpha=0.5, bias=2.0)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-6)


def test_mean_variance_normalization(tmp_path):
    arrays = randoms(0, (2, 3, 4, 4))
    model = one_node("MeanVarianceNormalization", arrays, axes=[2, 3])
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_of_every_opset(tmp_path, op, axis, opset):
    arrays = randoms(0, (2, 3, 4))
    model = one_node(op, arrays, opset, **({} if axis is None else {"axis": axis}))
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-6)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((3,), (3, 4)),
                                    ((2, 3), (5, 3, 2)), ((2, 3), (3,))])  # fmt: skip
def test_matmul(shapes):
    arrays = randoms(0, *shapes)
    model = one_node("MatMul", arrays)
    np.testing.assert_allclose(ours(model, arrays)[0], np.matmul(*arrays), atol=1e-12)


def test_gemm_takes_alpha_and_beta_as_float32_values():
    arrays = randoms(0, (3, 2), (4, 3), (4,))
    model = one_node("Gemm", arrays, alpha=0.1, beta=0.3, transA=1, transB=1)
    a, b, c = arrays
    expected = float(np.float32(0.1)) * (a.T @ b.T) + float(np.float32(0.3)) * c
    np.testing.assert_allclose(ours(model, arrays)[0], expected, rtol=1e-14)


def test_erf_and_gelu_keep_all_digits():
    (x,) = randoms(0, (50,))
    exact = np.array([math.erf(v) for v in x])
    assert np.array_equal(ours(one_node("Erf", [x]), [x])[0], exact)
    gelu = ours(one_node("Gelu", [x], 20), [x])[0]
    np.testing.assert_allclose(gelu, x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2, rtol=1e-14)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factors", [[1, 1, 2, 3], [1, 1, 1.5, 2.5]])
def test_upsample(tmp_path, mode, factors):
    arrays = [*randoms(0, (1, 2, 4, 6)), np.asarray(factors, np.float64)]
    model = one_node("Upsample", arrays, 9, mode=mode)
    expected = by_onnxruntime(tmp_path, model, arrays)[0]
    np.testing.assert_allclose(ours(model, arrays)[0], expected, atol=1e-6)


def test_dequantize_linear_keeps_the_bits_of_int32():
    x = np.array([[2**30 + 1, -(2**30) - 3]], np.int32)
    model = graph("g (int32[1,2] x, double[2] s) => (double[1,2] y) {y = DequantizeLinear(x, s)}")
    y = evaluator(model, Budget()).run(None, {"x": x, "s": np.array([1.0, 2.0])})[0]
    assert y.tolist() == [[2**30 + 1, -(2**31) - 6]]


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("depth", [np.array(4), np.array([4])])
def test_one_hot_as_onnxruntime_does_it(tmp_path, axis, depth):
    model = graph(
        f"""g (int64[2, 3] x) => (float[A, B, C] y) {{
            y = OneHot<axis={axis}>(x, depth, values)
        }}""",
        depth=depth,
        values=np.array([0.5, 2], np.float32),
    )
    x = np.array([[0, 3, -1], [-4, 4, -5]])
    onnx.save(model, tmp_path / "model.onnx")
    expected = runtime.run(runtime.session(tmp_path / "model.onnx"), {"x": x})["y"]
    found = oracle.run(oracle.load(tmp_path / "model.onnx"), {"x": x})["y"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, (5, 1, 3)])
def test_recurrent_layers_as_onnxruntime_does_them(tmp_path, op, direction, lengths):
    """Sequences of unlike length end each at its own step, and go backwards from there."""
    rng = np.random.default_rng(7)
    ways, gates = 1 + (direction == "bidirectional"), {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    shapes = [(5, 3, 2), (ways, gates * 4, 2), (ways, gates * 4, 4), (ways, 2 * gates * 4)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    arrays.append(np.array((5, 5, 5) if lengths is None else lengths, np.int32))
    states = 1 + (op == "LSTM")
    arrays += [rng.standard_normal((ways, 3, 4)) for _ in range(states)]
    if op == "LSTM":
        arrays.append(rng.standard_normal((ways, 12)))  # peepholes
    model = one_node(op, arrays, outputs=1 + states, hidden_size=4, direction=direction)
    for info in model.graph.output:
        info.type.tensor_type.elem_type = TensorProto.DOUBLE
    if lengths is None:
        model.graph.node[0].input[4] = ""
        del model.graph.input[4], arrays[4]
    expected = by_onnxruntime(tmp_path, model, arrays)
    for mine, other in zip(ours(model, arrays), expected, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, other, atol=2e-6)


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_recurrent_layers_of_other_activations(tmp_path, op):
    rng = np.random.default_rng(8)
    gates, names = (3, ["Softsign", "Relu"]) if op == "GRU" else (4, ["Sigmoid", "Relu", "Tanh"])
    arrays = [rng.standard_normal(s) for s in [(4, 3, 2), (1, gates * 4, 2), (1, gates * 4, 4)]]
    model = one_node(op, arrays, hidden_size=4, activations=names)
    expected = by_onnxruntime(tmp_path, model, arrays)
    np.testing.assert_allclose(ours(model, arrays)[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("linear", [0, 1])
def test_gru_resets_before_or_behind_its_product(tmp_path, linear):
    rng = np.random.default_rng(9)
    arrays = [rng.standard_normal(s) for s in [(4, 3, 2), (1, 12, 2), (1, 12, 4), (1, 24)]]
    model = one_node("GRU", arrays, hidden_size=4, linear_before_reset=linear)
    expected = by_onnxruntime(tmp_path, model, arrays)
    np.testing.assert_allclose(ours(model, arrays)[0], expected[0], atol=2e-6)


def test_recurrent_layers_with_the_batch_first():
    """Of the three, onnxruntime has no kernel for it: the transposed node is the expectation."""
    rng = np.random.default_rng(10)
    x, W, R = (rng.standard_normal(shape) for shape in [(3, 5, 2), (2, 16, 2), (2, 16, 4)])
    same = {"hidden_size": 4, "direction": "bidirectional", "outputs": 3}
    first = ours(one_node("LSTM", [x, W, R], layout=1, **same), [x, W, R])
    steps = [x.swapaxes(0, 1), W, R]
    expected = ours(one_node("LSTM", steps, **same), steps)
    np.testing.assert_array_equal(first[0], expected[0].transpose(2, 0, 1, 3))
    for one, other in zip(first[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(one, other.swapaxes(0, 1))


@pytest.mark.parametrize(
    ("attributes", "length"),
    [({"clip": 1.0}, 2), ({"activations": ["Affine", "Tanh"]}, 2), ({}, 0), ({}, 5)],
)
def test_what_no_recurrent_layer_has_in_float64_is_refused(attributes, length):
    """A wrong truth is worse than none."""
    arrays = [np.ones((4, 1, 2)), np.ones((1, 12, 2)), np.ones((1, 12, 4)), np.ones((1, 24))]
    arrays.append(np.array([length], np.int32))
    with pytest.raises(NoOracleError, match="recurrent layer"):
        ours(one_node("GRU", arrays, hidden_size=4, **attributes), arrays)


@pytest.mark.parametrize("condition", ["", "yes"])
@pytest.mark.parametrize("count", ["three", "many", ""])
def test_what_a_loop_gives_is_stacked(tmp_path, condition, count):
    """Numbers, rows and matrices of each iteration, a state, and a value from outside the body."""
    text = f"""g (float[2] x) => (float[2] s, float[?] a, float[?,2] b, float[?,2,2] c) {{
        s, a, b, c = Loop<body = step (int64 i, bool go, float[2] t)
                => (bool on, float[2] u, float n, float[2] r, float[2,2] m) {{
            u = Add(t, x)
            n = ReduceSum<keepdims = 0>(u)
            r = Neg(u)
            v = Unsqueeze(u, zero)
            m = Concat<axis = 0>(v, v)
            on = Less(n, limit)
        }}>({count}, {condition}, x)
    }}"""
    constants = {"three": np.array(3), "many": np.array(100), "yes": np.array(True)}
    constants |= {"zero": np.array([0]), "limit": np.float32(20)}
    path = tmp_path / "loop.onnx"
    onnx.save(graph(text, **constants), path)
    x = np.array([1, 2], np.float32)
    expected = runtime.run(runtime.session(path), {"x": x})
    found = oracle.run(oracle.load(path), {"x": x})
    assert expected["a"].shape == ((3,) if count == "three" else (6,))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float64


def test_a_loop_that_never_runs_has_nothing_to_stack(tmp_path):
    text = """g (float[2] x) => (float[2] s, float[?,2] a) {
        s, a = Loop<body = step (int64 i, bool go, float[2] t) => (bool go, float[2] u, float[2] r)
            { u = Neg(t) r = Neg(t) }>(none, yes, x)
    }"""
    path = tmp_path / "loop.onnx"
    onnx.save(graph(text, none=np.array(0), yes=np.array(True)), path)
    with pytest.raises(NoOracleError, match="without iterations"):
        oracle.run(oracle.load(path), {"x": np.ones(2, np.float32)})

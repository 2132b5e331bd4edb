from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from validation.nets import conv_bn_net, graph

from normsurgery import runtime
from normsurgery.validation import oracle
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.double import to_double
from normsurgery.validation.ulps import one_ulp, onnx_limits


def saved(tmp_path, model, **options):
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), **options)
    return path


def truth(tmp_path, model, **feeds):
    return oracle.run(oracle.load(saved(tmp_path, model)), feeds)


def test_a_network_agrees_with_onnxruntime_to_float32_accuracy(tmp_path):
    path = saved(tmp_path, conv_bn_net())
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    exact = oracle.run(oracle.load(path), {"x": x})["scores"]
    rough = runtime.run(runtime.session(path), {"x": x})["scores"]
    assert exact.dtype == np.float64
    error = np.abs(exact - rough).max() / np.abs(exact).max()
    assert 0 < error < 1e-5


def test_external_data_is_read(tmp_path):
    model = conv_bn_net()
    x = np.ones((1, 3, 16, 16), np.float32)
    inline = truth(tmp_path, model, x=x)["scores"]
    path = saved(tmp_path, model, save_as_external_data=True, size_threshold=0)
    assert np.array_equal(oracle.run(oracle.load(path), {"x": x})["scores"], inline)


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16"])
def test_every_float_type_is_widened(tmp_path, kind):
    """1/3 of a constant, a cast, a shape, a subgraph and a weight: nothing rounds to `kind`."""
    number = {"float": 1, "float16": 10, "bfloat16": 16}[kind]
    model = graph(
        f"""g (float[2] x, bool c) => ({kind}[2] y) {{
        three = Constant<value_float = 3.0>()
        one = Identity(weight)
        shape = Constant<value_ints = [2]>()
        zeros = ConstantOfShape(shape)
        castthree = Cast<to = {number}>(three)
        third = Div(one, castthree)
        narrowx = Cast<to = {number}>(x)
        sum = Add(narrowx, third)
        castzeros = CastLike(zeros, sum)
        both = Add(sum, castzeros)
        y = If(c) <then_branch = t () => ({kind}[2] a) {{
            seventh = Constant<value_floats = [7.0]>()
            narrow = Cast<to = {number}>(seventh)
            a = Div(both, narrow)
        }}, else_branch = e () => ({kind}[2] b) {{b = Identity(both)}}>
    }}""",
        weight=np.ones(1, helper.tensor_dtype_to_np_dtype(number)),
    )
    x = np.array([0.1, 10.0], np.float32)
    got = truth(tmp_path, model, x=x, c=np.array(True))["y"]
    np.testing.assert_allclose(got, (x.astype(np.float64) + 1 / 3) / 7, rtol=1e-15)


def test_local_functions_are_float64_too(tmp_path):
    model = graph("g (float[2] x) => (float[2] y) {y = local.third <by = 3.0> (x)}")
    body = [
        helper.make_node("Constant", [], ["d"]),
        helper.make_node("Div", ["a", "d"], ["b"]),
    ]
    reference = body[0].attribute.add()
    reference.name, reference.ref_attr_name = "value_float", "by"
    reference.type = onnx.AttributeProto.FLOAT
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function("local", "third", ["a"], ["b"], body, opsets, ["by"])
    )
    x = np.array([0.1, 10.0], np.float32)
    np.testing.assert_allclose(
        truth(tmp_path, model, x=x)["y"], x.astype(np.float64) / 3, rtol=1e-15
    )


def test_attributes_are_the_float32_values_that_they_are(tmp_path):
    model = graph("g (float[2] x) => (float[2] y) {y = LeakyRelu<alpha = 0.1>(x)}")
    got = truth(tmp_path, model, x=np.array([-1, -3], np.float32))["y"]
    assert got.tolist() == [-float(np.float32(0.1)), -3 * float(np.float32(0.1))]


def test_declared_types_become_double():
    model = graph("g (float[2] x, seq(float16[2]) s) => (bfloat16[2] y) {y = Cast<to = 16>(x)}")
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]))
    to_double(model)
    double = TensorProto.DOUBLE
    assert model.graph.input[0].type.tensor_type.elem_type == double
    assert model.graph.input[1].type.sequence_type.elem_type.tensor_type.elem_type == double
    assert model.graph.output[0].type.tensor_type.elem_type == double
    assert model.graph.value_info[0].type.tensor_type.elem_type == double


def test_integers_stay_integers(tmp_path):
    model = graph("g (float[2,3] x) => (int64[2] s, int64[2] i) "
                  "{s = Shape(x) i = ArgMax<axis = 1, keepdims = 0>(x)}")  # fmt: skip
    got = truth(tmp_path, model, x=np.array([[0, 2, 1], [3, 2, 1]], np.float32))
    assert got["s"].tolist() == [2, 3]
    assert got["i"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("y = RandomNormalLike(x)", "RandomNormalLike.*random"),
        ("y = com.microsoft.Gelu(x)", "com.microsoft"),
        ("z = Cast<to = 1>(x) y = HannWindow(n)", "HannWindow.*float32"),
        ("y = Reshape(x, n)", "Reshape 'y' does not run"),
    ],
)
def test_what_cannot_be_computed_is_named(tmp_path, body, says):
    model = graph(f"g (float[4] x, int64 n) => (float[4] y) {{{body}}}")
    if "microsoft" in body:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(NoOracleError, match=says):
        truth(tmp_path, model, x=np.ones(4, np.float32), n=np.array(5))


def test_a_budget_is_kept(tmp_path):
    path = saved(tmp_path, conv_bn_net())
    x = {"x": np.ones((1, 3, 16, 16), np.float32)}
    cheap = oracle.load(path, multiply_adds=10_000)
    with pytest.raises(NoOracleError, match="GFLOP"):
        oracle.run(cheap, x)
    enough = oracle.load(path)
    oracle.run(enough, x)
    first = enough.budget.spent
    oracle.run(enough, x)
    assert enough.budget.spent == first
    convolutions = 16 * 16 * (8 * 27 + 8 * 9 + 8 * 8)
    assert convolutions < first < 1.5 * convolutions
    with pytest.raises(NoOracleError, match=r"more than 0 s"):
        oracle.run(oracle.load(path, seconds=0), x)


def test_a_budget_counts_inside_subgraphs(tmp_path):
    model = graph("""g (float[100,100] x, bool c) => (float[100,100] y) {
        y = If(c) <then_branch = t () => (float[100,100] a) {a = MatMul(x, x)},
                   else_branch = e () => (float[100,100] b) {b = Identity(x)}>
    }""")
    cheap = oracle.load(saved(tmp_path, model), multiply_adds=500_000)
    x = np.ones((100, 100), np.float32)
    oracle.run(cheap, {"x": x, "c": np.array(False)})
    with pytest.raises(NoOracleError, match="GFLOP"):
        oracle.run(cheap, {"x": x, "c": np.array(True)})


def test_intermediate_values_are_dropped_or_kept(tmp_path):
    model = graph("g (float[4] x) => (float[4] y) {a = Relu(x) b = Neg(a) y = Abs(b)}")
    made = oracle.load(saved(tmp_path, model))
    every = made.evaluator.run(None, {"x": np.ones(4)}, intermediate=True)
    assert {"a", "b", "y"} <= set(every)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_one_ulp(dtype):
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=1000), [0, np.inf, -np.inf, np.nan]]).astype(kind)
    moved = one_ulp(x, rng)
    assert moved.dtype == x.dtype
    unit = onnx_limits(kind)[2]
    wide, far = x[:1000].astype(np.float64), moved[:1000].astype(np.float64)
    change = np.abs(far / wide - 1)
    assert change.max() <= 2 * unit * (1 + 1e-12)
    assert 0.5 < np.mean(change > 0) < 0.8
    assert numpy_helper.to_array(numpy_helper.from_array(moved[1000:])).tobytes() == (
        x[1000:].tobytes()
    )

"""unfold puts norms in that change nothing, and fold takes them out to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import bn, parse, weights
from onnx import ModelProto, numpy_helper

import normsurgery
from normsurgery import data, runtime, unfolding
from normsurgery.errors import GraphError, UsageError
from normsurgery.moments import Moments
from normsurgery.validation import parity

SAMPLES = Path(__file__).parents[2] / "sample_models"
DIGITS = f"{SAMPLES / 'digits.npz'}:train"
FOLDED = SAMPLES / "digits_resnet_folded.onnx"
TEXT = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
  c = Conv(x, W, b)
  r = Relu(c)
  d = Conv(r, V)
  s = Add(d, r)
  t = Relu(s)
  p = GlobalAveragePool(t)
  f = Flatten(p)
  y = Gemm(f, G)
}"""
f32 = np.float32
pytest.importorskip("onnxruntime")


def model(text: str = TEXT, **more: Any) -> ModelProto:
    shapes = {"W": (4, 3, 1, 1), "V": (4, 4, 1, 1), "G": (4, 5), "b": (4,)}
    tensors = {n: weights(*shape, dtype=f32) for n, shape in shapes.items() if f"{n}" in text}
    return parse(text, **{**tensors, **more})


def images(count: int = 8, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).normal(1, 2, (count, 3, 8, 8)).astype(f32)}


def scores(proto: ModelProto, feeds: dict[str, Any], tmp_path: Path) -> Any:
    path = tmp_path / "scores.onnx"
    onnx.save(proto, path)
    return next(iter(runtime.run(runtime.session(path), feeds).values()))


def slugs(result: normsurgery.UnfoldResult) -> dict[str, str]:
    return {one.node: one.slug for one in result.report.left}


def initializers(proto: ModelProto) -> dict[str, Any]:
    return {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}


@pytest.mark.parametrize("keep_weights", [False, True])
def test_outputs_keep_their_bits(keep_weights: bool, tmp_path: Path) -> None:
    proto = model(W=weights(4, 3, 1, 1, dtype=f32) * f32(0.2))
    before = proto.SerializeToString()
    result = normsurgery.unfold(proto, images(), keep_weights=keep_weights)
    assert proto.SerializeToString() == before
    after = result.model
    onnx.checker.check_model(after, full_check=True)
    operators = [node.op_type for node in after.graph.node]
    assert operators[:4] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert operators.count("BatchNormalization") == 2
    fresh = images(20, seed=1)
    np.testing.assert_array_equal(scores(proto, fresh, tmp_path), scores(after, fresh, tmp_path))
    assert any(one.weight_factor != 1 for one in result.report.unfolded) is not keep_weights


def test_statistics_are_those_of_the_layer(tmp_path: Path) -> None:
    proto, feeds = model(), images()
    result = normsurgery.unfold(proto, feeds, keep_weights=True)
    shown = model(TEXT.replace("(float[N, 5] y)", "(float[N, 4, 8, 8] c)"))
    seen = Moments.of(scores(shown, feeds, tmp_path))
    norm = next(n for n in result.model.graph.node if n.op_type == "BatchNormalization")
    scale, B, mean, var = (initializers(result.model)[name] for name in norm.input[1:])
    np.testing.assert_allclose(scale, np.sqrt(seen.var), rtol=2.0**-10)
    np.testing.assert_allclose(var, seen.var, rtol=2.0**-9, atol=2e-5)
    np.testing.assert_allclose(B, seen.mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(B, mean)


def test_weights_get_the_norm_of_drawn_ones_within_a_power_of_two() -> None:
    result = normsurgery.unfold(model(W=weights(4, 3, 1, 1, dtype=f32) * f32(1e-3)), images())
    first = result.report.unfolded[0]
    for node in result.model.graph.node:
        if node.op_type == "Conv":
            norm = np.linalg.norm(initializers(result.model)[node.input[1]])
            assert 2**-0.5 <= norm / np.sqrt(2 * 4) <= 2**0.5
    assert first.weight_factor == 2.0 ** np.rint(np.log2(first.weight_factor))
    assert first.weight_factor > 100


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "conv1d", "repvgg"])
def test_fold_is_the_inverse(name: str, tmp_path: Path) -> None:
    """Folded samples, unfolded with eight images and folded again: every weight as it was."""
    folded = tmp_path / "folded.onnx"
    normsurgery.fold(SAMPLES / f"digits_{name}.onnx").save(folded)
    result = normsurgery.unfold(folded, DIGITS, samples=8, sites="convolutions")
    result.save(tmp_path / "unfolded.onnx")
    again = normsurgery.fold(tmp_path / "unfolded.onnx")
    old, new = onnx.load(folded), again.model
    there, here = initializers(old), initializers(new)
    made = {node.output[0]: node for node in new.graph.node}
    nodes = {node.output[0]: node for node in old.graph.node}
    assert result.report.unfolded
    for one in result.report.unfolded:
        was, now = nodes[one.output], made[one.output]
        np.testing.assert_array_equal(there[was.input[1]], here[now.input[1]])
        if len(was.input) > 2:
            np.testing.assert_array_equal(there[was.input[2]], here[now.input[2]])


def test_a_real_model(tmp_path: Path) -> None:
    path = tmp_path / "unfolded.onnx"
    result = normsurgery.unfold(FOLDED, DIGITS, samples=8)
    result.save(path)
    assert len(result.report.unfolded) == 11
    assert slugs(result) == {"node_linear": "dense"}
    found = parity(FOLDED, path)
    assert found.ok, found.line()
    worst = found.worst()
    assert worst is not None
    assert worst.ratio == pytest.approx(1)


def test_a_channel_that_does_not_vary(tmp_path: Path) -> None:
    """Its variance is 0 and its scale is not, so that nothing is divided by zero."""
    dead = weights(4, 3, 1, 1, dtype=f32)
    dead[1] = 0
    result = normsurgery.unfold(model(W=dead), images())
    assert result.report.unfolded[0].dead == 1
    fresh = images(5, seed=1)
    expected = scores(model(W=dead), fresh, tmp_path)
    np.testing.assert_array_equal(scores(result.model, fresh, tmp_path), expected)


def test_float16(tmp_path: Path) -> None:
    """onnxruntime runs it by float32 and rounds after each node: half a unit a norm, at most."""
    text = TEXT.replace("float[", "float16[")
    tensors = {
        name: weights(*shape, dtype=np.float16)
        for name, shape in {"W": (4, 3, 1, 1), "V": (4, 4, 1, 1), "G": (4, 5), "b": (4,)}.items()
    }
    proto = parse(text, **tensors)
    feeds = {"x": images()["x"].astype(np.float16)}
    result = normsurgery.unfold(proto, feeds)
    assert [one.weight_factor for one in result.report.unfolded] == [1, 1]
    onnx.save(proto, tmp_path / "a.onnx")
    result.save(tmp_path / "b.onnx")
    found = parity(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found.ok, found.line()


def test_which_layers_are_hidden() -> None:
    """One with a nonlinearity and a layer behind: neither the last nor one without activation."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4, 8, 8] z) {
      [first] a = Conv(x, W, b)
      [gated] s = Sigmoid(a)
      m = Mul(a, s)
      [second] c = Conv(m, V)
      [third] d = Conv(c, V)
      e = MaxPool <kernel_shape = [1, 1]> (d)
      f = Tanh(e)
      [last] h = Conv(f, V)
      z = Relu(h)
      y = Identity(c)
    }"""
    result = normsurgery.unfold(model(text), images())
    assert [one.node for one in result.report.unfolded] == ["first", "third"]
    assert slugs(result) == {"second": "not-hidden", "last": "not-hidden"}
    every = normsurgery.unfold(model(text), images(), sites="convolutions")
    assert [one.node for one in every.report.unfolded] == ["first", "second", "third", "last"]


def test_all_sites_take_in_dense_layers(tmp_path: Path) -> None:
    result = normsurgery.unfold(model(), images(), sites="all")
    assert [one.op_type for one in result.report.unfolded] == ["Conv", "Conv", "Gemm"]
    fresh = images(5, seed=1)
    expected = scores(model(), fresh, tmp_path)
    np.testing.assert_array_equal(scores(result.model, fresh, tmp_path), expected)


def test_a_product_of_activations_is_no_layer() -> None:
    """Axis 1 of ``W·x`` or ``x·xᵀ`` is samples, and no channels."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 5] y, float[M, K] z) {
      p = GlobalAveragePool(x)
      f = Flatten(p)
      t = Transpose(f)
      [turned] u = MatMul(A, t)
      [outer] z = MatMul(f, t)
      v = Transpose(u)
      [layer] y = MatMul(v, G)
    }"""
    result = normsurgery.unfold(model(text, A=weights(4, 3, dtype=f32)), images(), sites="all")
    assert [one.node for one in result.report.unfolded] == ["layer"]
    assert slugs(result) == {"turned": "no-weight", "outer": "no-weight"}


def test_only_and_skip() -> None:
    proto = model()
    proto.graph.node[0].name, proto.graph.node[2].name = "stem.conv", "body.conv"
    only = normsurgery.unfold(proto, images(), only=["stem.*"])
    assert [one.node for one in only.report.unfolded] == ["stem.conv"]
    assert slugs(only)["body.conv"] == "not-selected"
    skip = normsurgery.unfold(proto, images(), skip=["stem.*", "y"])
    assert [one.node for one in skip.report.unfolded] == ["body.conv"]


NORMAL = TEXT.replace(
    "r = Relu(c)", "n = BatchNormalization(c, scale, B, mean, var)\n  r = Relu(n)"
)


def test_a_layer_that_is_normalized_is_left() -> None:
    result = normsurgery.unfold(model(NORMAL, **bn(4, dtype=f32)), images())
    assert slugs(result)["c"] == "normalized"
    assert [one.node for one in result.report.unfolded] == ["d"]


def test_a_gate_is_left_unless_asked_for() -> None:
    """Squeeze and excitation: one element a channel and sample has no statistics of its own."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
      c = Conv(x, W, b)
      r = Relu(c)
      p = GlobalAveragePool(r)
      q = Conv(p, V)
      s = Sigmoid(q)
      t = Mul(r, s)
      y = Conv(t, V)
    }"""
    result = normsurgery.unfold(model(text), images())
    assert slugs(result) == {"q": "no-extent", "y": "not-hidden"}
    asked = normsurgery.unfold(model(text), images(), sites="convolutions", only=["q"])
    assert [one.node for one in asked.report.unfolded] == ["q"]


def test_a_body_is_left() -> None:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
      c = Conv(x, W, b)
      r = Relu(c)
      y = If (k) <
        then_branch = t () => (float[N, 4, 8, 8] u) { v = Conv(r, V)  u = Relu(v) },
        else_branch = e () => (float[N, 4, 8, 8] w) { w = Identity(r) }
      >
    }"""
    result = normsurgery.unfold(model(text, k=np.array(True)), images(), sites="convolutions")
    assert slugs(result) == {"v": "in-body"}


def test_values_that_are_not_finite() -> None:
    wild = weights(4, 3, 1, 1, dtype=f32)
    wild[2] = np.inf
    result = normsurgery.unfold(model(W=wild), images())
    assert slugs(result)["c"] == "not-finite"


def test_shared_weights_stay_shared() -> None:
    text = TEXT.replace("d = Conv(r, V)", "q = Conv(r, V)\n  o = Relu(q)\n  d = Conv(o, V)")
    small = weights(4, 4, 1, 1, dtype=f32) * f32(1e-3)
    result = normsurgery.unfold(model(text, V=small), images())
    factors = {one.node: one.weight_factor for one in result.report.unfolded}
    assert factors["q"] == factors["d"] == 1
    np.testing.assert_array_equal(initializers(result.model)["V"], small)


def test_a_factor_that_would_lose_bits_is_left_out(tmp_path: Path) -> None:
    """Weights of 50 would be multiplied by 2⁻⁶, and one of them leaves the normal numbers."""
    large = weights(4, 3, 1, 1, dtype=f32) * f32(50)
    assert normsurgery.unfold(model(W=large), images()).report.unfolded[0].weight_factor < 1
    large[0, 0] = 3e-38
    result = normsurgery.unfold(model(W=large), images())
    assert result.report.unfolded[0].weight_factor == 1


def test_the_graphs_output_keeps_its_name(tmp_path: Path) -> None:
    text = TEXT.replace("(float[N, 5] y)", "(float[N, 5] y, float[N, 4, 8, 8] c)")
    result = normsurgery.unfold(model(text), images())
    assert [one.name for one in result.model.graph.output] == ["y", "c"]
    maker = next(n for n in result.model.graph.node if "c" in n.output)
    assert maker.op_type == "BatchNormalization"


def test_samples_are_spread_over_the_data() -> None:
    """The mean of a sorted set comes out, not that of its beginning."""
    x = np.repeat(np.arange(100, dtype=f32), 3 * 64).reshape(100, 3, 8, 8)
    ones = np.ones((4, 3, 1, 1), f32) / 3
    zero = np.zeros(4, f32)
    result = normsurgery.unfold(model(W=ones, b=zero), {"x": x}, samples=10)
    assert result.report.samples == 10
    assert result.report.unfolded[0].mean[0] == pytest.approx(np.arange(0, 100, 10).mean())


def test_a_fixed_batch(tmp_path: Path) -> None:
    proto = model(TEXT.replace("[N,", "[4,"))
    assert normsurgery.unfold(proto, images(8)).report.samples == 8
    with pytest.raises(UsageError, match="batches of 4 and 6 samples"):
        normsurgery.unfold(proto, images(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": "some"}, "sites 'some' is none of"),
        ({"only": ["nothing*"]}, "no layer to put a norm behind"),
        ({"samples": 0}, "0 samples are none"),
    ],
)
def test_calls_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normsurgery.unfold(model(), images(), **options)


def test_data_for_another_model() -> None:
    with pytest.raises(UsageError, match="nothing for input 'x'"):
        normsurgery.unfold(model(), {"z": images()["x"]})


def test_forms_of_model_and_data(tmp_path: Path) -> None:
    import onnx_ir

    onnx.save(model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **images())
    inputs = data.inputs_of(model())
    given = data.read(tmp_path / "data.npz", inputs)
    from_path = normsurgery.unfold(tmp_path / "model.onnx", tmp_path / "data.npz")
    from_ir = normsurgery.unfold(onnx_ir.from_proto(model()), given)
    assert isinstance(from_ir.model, onnx_ir.Model)
    assert from_path.report.to_dict() == from_ir.report.to_dict()
    props = {p.key: p.value for p in from_path.model.metadata_props}
    assert props["normsurgery.verb"] == "unfold"
    assert isinstance(from_path.report, unfolding.UnfoldReport)


def test_a_broken_graph() -> None:
    proto = model()
    proto.graph.node[1].input[0] = "nothing"
    with pytest.raises(GraphError, match="'nothing'"):
        normsurgery.unfold(proto, images())


FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[4, 3, 1, 1] W, float[4, 4, 1, 1] V, float[4, 5] G>
{
  r = local.Layer(x, W)
  t = local.Layer(r, V)
  p = GlobalAveragePool(t)
  f = Flatten(p)
  y = Gemm(f, G)
}
<domain: "local", opset_import: ["" : 21]>
Layer (a, w) => (z) {
  c = Conv(a, w)
  z = Relu(c)
}"""


def test_layers_in_functions_are_inlined(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(FUNCTION)
    for name, shape in (("W", (4, 3, 1, 1)), ("V", (4, 4, 1, 1)), ("G", (4, 5))):
        proto.graph.initializer.append(numpy_helper.from_array(weights(*shape, dtype=f32), name))
    result = normsurgery.unfold(proto, images())
    assert result.report.inlined == ["Layer"]
    assert len(result.report.unfolded) == 2
    fresh = images(5, seed=1)
    expected = scores(proto, fresh, tmp_path)
    np.testing.assert_array_equal(scores(result.model, fresh, tmp_path), expected)


def test_a_model_of_old_whose_weights_are_inputs(tmp_path: Path) -> None:
    """At IR 3 every initializer is listed as an input; the new ones are, too."""
    proto = model(TEXT)
    proto.ir_version, proto.opset_import[0].version = 3, 8
    del proto.opset_import[1]
    for tensor in proto.graph.initializer:
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(info)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(5, f32), "C"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("C", 1, [5]))
    proto.graph.node[-1].input.append("C")  # Gemm had three operands then
    result = normsurgery.unfold(proto, images())
    onnx.checker.check_model(result.model)
    assert len(result.report.unfolded) == 2
    fresh = images(5, seed=1)
    expected = scores(proto, fresh, tmp_path)
    np.testing.assert_array_equal(scores(result.model, fresh, tmp_path), expected)


def test_weights_that_a_caller_may_override_are_left_as_they_are(tmp_path: Path) -> None:
    proto = model(W=weights(4, 3, 1, 1, dtype=f32) * f32(1e-3))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("W", 1, [4, 3, 1, 1]))
    result = normsurgery.unfold(proto, images())
    assert result.report.unfolded[0].weight_factor == 1
    fresh = images(5, seed=1)
    expected = scores(proto, fresh, tmp_path)
    np.testing.assert_array_equal(scores(result.model, fresh, tmp_path), expected)


def test_a_norm_gets_a_name_that_no_node_has() -> None:
    named = model()
    named.graph.node[0].name, named.graph.node[1].name = "one", "one_norm"
    named.graph.node[2].name = "two"
    result = normsurgery.unfold(named, images())
    names = [node.name for node in result.model.graph.node if node.name]
    assert "one_norm_1" in names
    assert len(set(names)) == len(names)

"""Statistics reduced inside the graph are those of the activations, in float64."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import parse, weights

from normsurgery import io, runtime, statistics
from normsurgery.errors import UsageError
from normsurgery.moments import Moments

SAMPLES = Path(__file__).parents[1] / "sample_models"
TEXT = """g (float[N, 3, H, W] x, float[N, 3] other) => (float[N, 4] y) {
  c = Conv(x, W)
  r = Relu(c)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  b = MatMul(f, V)
  unrelated = Relu(other)
  y = Add(b, unrelated)
}"""
pytest.importorskip("onnxruntime")


def model(opset: int = 21) -> onnx.ModelProto:
    wide = weights(5, 3, 3, 3, dtype=np.float32)
    return parse(TEXT, opset=opset, W=wide, V=weights(5, 3, dtype=np.float32))


def images(count: int, size: int = 6, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shape = (count, 3, size, size)
    other = rng.normal(0, 1, (count, 3)).astype(np.float32)
    return {"x": rng.normal(1, 2, shape).astype(np.float32), "other": other}


def activation(proto: onnx.ModelProto, name: str, feeds: dict[str, Any], tmp_path: Path) -> Any:
    """Return a value of the graph as onnxruntime computes it."""
    shown = onnx.ModelProto.FromString(proto.SerializeToString())
    shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    path = tmp_path / "shown.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(shown), path)
    return runtime.run(runtime.session(path), feeds)[name]


def assert_close(found: Moments, wanted: Moments, tolerance: float = 1e-13) -> None:
    assert found.count == wanted.count
    deviation = np.sqrt(wanted.var)
    assert np.all(np.abs(found.mean - wanted.mean) <= tolerance * (np.abs(wanted.mean) + deviation))
    np.testing.assert_allclose(found.M2, wanted.M2, rtol=tolerance)


@pytest.mark.parametrize("opset", [8, 13, 17, 18, 21])
def test_moments_are_those_of_the_activations(opset: int, tmp_path: Path) -> None:
    """Batches of different sizes, images of different sizes, axes as attribute and as input."""
    proto = model(opset)
    parts = [images(4), images(1, size=9, seed=1), images(2, seed=2)]
    found = statistics.moments(proto, ["c", "r", "b"], parts)
    for name, one in found.items():
        seen = [Moments.of(activation(proto, name, feeds, tmp_path)) for feeds in parts]
        assert_close(one, seen[0].merge(seen[1]).merge(seen[2]))


@pytest.mark.parametrize(
    ("name", "offset"), [("float", 0), ("float", 100), ("float", 1e4), ("float16", 100)]
)
def test_far_from_zero(name: str, offset: float) -> None:
    """mean/std up to 10⁴: E[x²] − E[x]² in float32 would have no correct digit left there."""
    proto = parse(f"g ({name}[N, 2, 50, 50] x) => ({name}[N, 2, 50, 50] y) {{ y = Identity(x) }}")
    dtype = np.float16 if name == "float16" else np.float32
    x = np.random.default_rng(0).normal(offset, 1, (3, 2, 50, 50)).astype(dtype)
    assert_close(statistics.moments(proto, ["y"], [{"x": x}])["y"], Moments.of(x))


@pytest.mark.parametrize(("axis", "axes"), [(0, 0), (1, 1), (2, 2), (3, 3), (-1, 3), (-3, 1)])
def test_channels_on_any_axis(axis: int, axes: int) -> None:
    text = "g (float[3, 4, 5, 6] x) => (float[3, 4, 5, 6] y) { y = Relu(x) }"
    x = np.random.default_rng(0).normal(0, 1, (3, 4, 5, 6)).astype(np.float32)
    found = statistics.moments(parse(text), {"y": axis}, [{"x": x}])["y"]
    assert_close(found, Moments.of(np.maximum(x, 0), axes))


def test_only_what_is_needed_runs() -> None:
    """The rest of the graph, its weights and its inputs are left out."""
    content = io.from_proto(model())
    before = content.proto.SerializeToString()
    probed, outputs = statistics.probe(content, {"c": 1})
    operators = [node.op_type for node in probed.proto.graph.node]
    assert operators == [
        *("Conv", "Shape", "Reshape", "Cast", "ReduceMean", "Sub", "ReduceSumSquare"),
    ]
    assert [one.name for one in probed.proto.graph.input] == ["x"]
    assert "V" not in {one.name for one in probed.proto.graph.initializer}
    assert [one.name for one in probed.proto.graph.output] == list(outputs["c"])
    assert content.proto.SerializeToString() == before


def test_what_a_body_reads_is_needed() -> None:
    text = """g (float[N, 2] x, bool c) => (float[N, 2] y) {
      shifted = Add(x, one)
      y = If (c) <
        then_branch = t () => (float[N, 2] a) { a = Mul(shifted, two) },
        else_branch = e () => (float[N, 2] b) { b = Identity(shifted) }
      >
    }"""
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    feeds = {"x": x, "c": np.array(True)}
    found = statistics.moments(parse(text, one=one, two=two), ["y"], [feeds])["y"]
    assert_close(found, Moments.of(2 * (x + 1)))


def test_an_input_may_be_asked_for() -> None:
    feeds = images(3)
    assert_close(statistics.moments(model(), ["x"], [feeds])["x"], Moments.of(feeds["x"]))


@pytest.mark.parametrize("parts", [[1] * 12, [12], [5, 7]])
def test_batches_do_not_matter(parts: list[int]) -> None:
    """A sample's reductions are its own; here the convolution rounds alike in any batch too."""
    path = SAMPLES / "digits_resnet_folded.onnx"
    x = np.load(SAMPLES / "digits.npz")["train_images"][:12]
    edges = np.cumsum([0, *parts])
    batches = [{"image": x[a:b]} for a, b in pairwise(edges)]
    names = ["getitem", "getitem_30"]
    whole = statistics.moments(path, names, [{"image": x}])
    for name, one in statistics.moments(path, names, batches).items():
        assert_close(one, whole[name], 1e-12)


def test_no_such_value() -> None:
    with pytest.raises(UsageError, match="no value 'nothing'"):
        statistics.moments(model(), ["nothing"], [images(1)])


def test_no_such_axis() -> None:
    with pytest.raises(UsageError, match="'c' has 4 dimensions"):
        statistics.moments(model(), {"c": 4}, [images(1)])


def test_unknown_rank() -> None:
    proto = model()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Strange", "custom"
    with pytest.raises(UsageError, match="rank of 'r' is not known"):
        statistics.moments(proto, {"r": -1}, [images(1)])


def test_no_samples() -> None:
    with pytest.raises(UsageError, match="no samples"):
        statistics.moments(model(), ["c"], [])


def test_an_old_operator_set() -> None:
    with pytest.raises(UsageError, match="operator set 6"):
        statistics.moments(model(6), ["c"], [images(1)])

"""New statistics are the population's: exactly, in either mode, for any order of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import bn, parse
from recalibration import dense

import normsurgery
import normsurgery.graph
import normsurgery.io
from normsurgery import blocks, statistics
from normsurgery.errors import GraphError, UsageError

SAMPLES = Path(__file__).parents[2] / "sample_models"
RESNET = SAMPLES / "digits_resnet.onnx"
DIGITS = f"{SAMPLES / 'digits.npz'}:test"
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_sequential_measures_behind_the_new_ones(batch_size: int) -> None:
    """The result is the fixed point, and no batch size shows in it."""
    proto, given = dense.model(), dense.rows()
    before = proto.SerializeToString()
    result = normsurgery.recalibrate(proto, given, batch_size=batch_size)
    assert proto.SerializeToString() == before
    dense.assert_statistics(dense.stored(result.model), dense.sequential(given["x"]))
    assert result.report.passes == 3
    assert [one.node for one in result.report.recalibrated] == ["one", "two", "beside", "three"]
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_batch_mode_normalizes_by_the_batch(opset: int) -> None:
    given = dense.rows()
    result = normsurgery.recalibrate(dense.model(opset=opset), given, mode="batch", batch_size=20)
    wanted = dense.batch(given["x"], blocks.cut(50, 20))
    dense.assert_statistics(dense.stored(result.model), wanted)
    assert result.report.passes == 1


def test_batch_mode_of_one_batch_is_the_sequential_one() -> None:
    given = dense.rows()
    result = normsurgery.recalibrate(dense.model(), given, mode="batch", batch_size=1000)
    dense.assert_statistics(dense.stored(result.model), dense.sequential(given["x"]))


def test_statistics_of_the_model_as_it_was_are_others() -> None:
    """What measuring all norms at once in the old model would give is far from what is right."""
    x = dense.rows()["x"]
    right, wrong = dense.sequential(x)["three"], dense.stale(x)["three"]
    assert np.max(np.abs(right[0] - wrong[0]) / np.sqrt(right[1])) > 0.5


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "conv1d", "densenet", "repvgg"])
def test_every_norm_has_the_statistics_of_what_it_gets(name: str, tmp_path: Path) -> None:
    """In the model as it is written, to the rounding of its float32 constants."""
    result = normsurgery.recalibrate(SAMPLES / f"digits_{name}.onnx", DIGITS, batch_size=150)
    result.save(tmp_path / "new.onnx")
    x = np.load(SAMPLES / "digits.npz")["test_images"]
    nodes = [n for n in result.model.graph.node if n.op_type == "BatchNormalization"]
    values = sorted({node.input[0] for node in nodes})
    batches = [{"image": x[:200]}, {"image": x[200:]}]
    seen = statistics.moments(tmp_path / "new.onnx", values, batches)
    assert nodes
    known = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    for node in nodes:
        one = seen[node.input[0]]
        # activations are float32 of other batches: they, not the constants, differ in places
        scale = np.sqrt(one.var) + np.abs(one.mean)
        assert np.all(np.abs(known[node.input[3]] - one.mean) <= 2e-6 * scale)
        np.testing.assert_allclose(known[node.input[4]], one.var, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mode", ["sequential", "batch"])
def test_images_of_other_contrast(mode: Any) -> None:
    """A first convolution without bias passes the scale on, and the norm behind takes it back."""
    with np.load(SAMPLES / "digits.npz") as archive:
        x, labels = archive["test_images"], archive["test_labels"]
    dim = {"image": x * np.float32(0.2)}
    result = normsurgery.recalibrate(RESNET, dim, mode=mode)
    from onnx.reference import ReferenceEvaluator

    scores = ReferenceEvaluator(result.model).run(None, {"image": dim["image"][:100]})[0]
    assert np.mean(scores.argmax(1) == labels[:100]) > 0.95
    first = result.report.recalibrated[0]
    assert first.ratio[1] == pytest.approx(0.2, rel=0.1)


def test_float16() -> None:
    text = dense.TEXT.replace("double", "float16")
    values = {k: v.astype(np.float16) for k, v in dense.tensors().items()}
    values["V"] /= 4
    given = {"x": (dense.rows()["x"] / 10).astype(np.float16)}
    for mode in ("sequential", "batch"):
        result = normsurgery.recalibrate(parse(text, **values), given, mode=mode)
        mean, var = dense.stored(result.model)["one"]
        assert mean.dtype == np.float16
        np.testing.assert_allclose(mean, given["x"].astype(float).mean(0), rtol=1e-3)
        np.testing.assert_allclose(var, given["x"].astype(float).var(0), rtol=1e-3)


def test_only_and_skip() -> None:
    result = normsurgery.recalibrate(dense.model(), dense.rows(), only=["t*"], skip=["three"])
    assert [one.node for one in result.report.recalibrated] == ["two"]
    assert {one.slug for one in result.report.left} == {"not-selected"}
    old, new = dense.stored(dense.model()), dense.stored(result.model)
    for name in ("one", "beside", "three"):
        np.testing.assert_array_equal(old[name][0], new[name][0])
    # what is left out keeps its old statistics while the rest is measured
    assert np.max(np.abs(old["two"][0] - new["two"][0])) > 0.1


def test_report_says_how_far_they_moved() -> None:
    proto, given = dense.model(), dense.rows()
    given["x"][:, 1] = 3
    one = normsurgery.recalibrate(proto, given).report.recalibrated[0]
    mean, var = dense.stored(proto)["one"]
    deviation = np.sqrt(var + dense.EPSILON["one"])
    moved = np.abs(given["x"].mean(0) - mean) / deviation
    ratio = np.sqrt(given["x"].var(0) + dense.EPSILON["one"]) / deviation
    assert one.shift == pytest.approx(moved.max())
    assert one.ratio == pytest.approx((ratio.min(), ratio.max()))
    assert one.constant == 1
    assert one.count == 50


IMAGE = """g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
  n = BatchNormalization(x, scale, B, mean, var)
  y = Relu(n)
}"""


def image_model(text: str = IMAGE, **more: Any) -> onnx.ModelProto:
    return parse(text, **{**bn(3, dtype=np.float32), **more})


def images(value: float | None = None) -> dict[str, Any]:
    x = np.random.default_rng(0).normal(0, 1, (6, 3, 4, 4)).astype(np.float32)
    if value is not None:
        x[0, 1, 2, 3] = value
    return {"x": x}


def test_a_norm_that_trains_is_left() -> None:
    text = IMAGE.replace(
        "n = BatchNormalization(x, scale, B, mean, var)",
        "[live] n, o, q = BatchNormalization <training_mode = 1> (x, scale, B, mean, var)\n"
        "  [fixed] m = BatchNormalization(x, scale, B, mean, var)\n  u = Add(m, n)",
    )
    from normsurgery.recalibration.sites import find

    content = normsurgery.io.from_proto(image_model(text))
    found, left = find(normsurgery.graph.Graph(content), (), ())
    assert [one.name for one in found] == ["fixed"]
    assert [(one.node, one.slug) for one in left] == [("live", "training-mode")]


def test_statistics_that_are_inputs_are_left() -> None:
    text = IMAGE.replace("x) =>", "x, float[3] given) =>").replace("mean, var)", "given, var)")
    proto = image_model(text)
    with pytest.raises(UsageError, match="its mean `given` is an input of the graph"):
        normsurgery.recalibrate(proto, images())


@pytest.mark.parametrize("mode", ["sequential", "batch"])
def test_statistics_that_a_caller_may_override(mode: Any) -> None:
    proto = dense.model()
    for name in ("mean1", "var1"):
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, 11, [3]))
    result = normsurgery.recalibrate(proto, dense.rows(), mode=mode)
    assert [one.node for one in result.report.left] == ["one"]
    assert "--freeze-inputs" in result.report.left[0].reason
    frozen = normsurgery.recalibrate(proto, dense.rows(), mode=mode, freeze_inputs=True)
    assert not frozen.report.left
    assert [one.name for one in frozen.model.graph.input] == ["x"]
    wanted = dense.sequential(dense.rows()["x"])
    dense.assert_statistics(dense.stored(frozen.model), wanted)


def test_a_norm_in_a_function_is_inlined() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y)
    <float[3] scale, float[3] B, float[3] mean, float[3] var>
    { y = local.Norm(x, scale, B, mean, var) }
    <domain: "local", opset_import: ["" : 21]>
    Norm (a, s, b, m, v) => (z) { z = BatchNormalization(a, s, b, m, v) }"""
    proto = onnx.parser.parse_model(text)
    for name, values in bn(3, dtype=np.float32).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    result = normsurgery.recalibrate(proto, images())
    assert result.report.inlined == ["Norm"]
    x = images()["x"].astype(np.float64)
    ((mean, var),) = dense.stored(result.model).values()
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(var, x.var((0, 2, 3)), rtol=1e-6)


def test_a_norm_in_a_body_is_left() -> None:
    text = """g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
      [outer] n = BatchNormalization(x, scale, B, mean, var)
      y = If (k) <
        then_branch = t () => (float[N, 3, 4, 4] u) {
          [inner] u = BatchNormalization(n, scale, B, mean, var)
        },
        else_branch = e () => (float[N, 3, 4, 4] w) { w = Identity(n) }
      >
    }"""
    result = normsurgery.recalibrate(image_model(text, k=np.array(True)), images())
    assert [(one.node, one.slug) for one in result.report.left] == [("inner", "in-body")]
    assert [one.node for one in result.report.recalibrated] == ["outer"]


def test_a_norm_behind_a_body_waits_for_those_that_the_body_reads() -> None:
    text = """g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
      [first] n = BatchNormalization(x, scale, B, mean, var)
      m = If (k) <
        then_branch = t () => (float[N, 3, 4, 4] u) { u = Neg(n) },
        else_branch = e () => (float[N, 3, 4, 4] w) { w = Identity(n) }
      >
      [second] y = BatchNormalization(m, scale, B, mean, var)
    }"""
    result = normsurgery.recalibrate(image_model(text, k=np.array(True)), images())
    assert result.report.passes == 2
    mean, var = dense.stored(result.model)["second"]
    values = bn(3, dtype=np.float32)
    np.testing.assert_allclose(mean, -values["B"], atol=1e-5)
    np.testing.assert_allclose(var, np.square(values["scale"]), rtol=1e-4)


def test_parameters_that_two_norms_share_become_two() -> None:
    result = normsurgery.recalibrate(dense.model(), dense.rows())
    nodes = {n.name: n for n in result.model.graph.node if n.op_type == "BatchNormalization"}
    assert nodes["two"].input[3] != nodes["beside"].input[3]
    assert nodes["two"].input[1] == nodes["beside"].input[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite(value: float) -> None:
    with pytest.raises(UsageError, match="the mean of channel 1 of `x` is not finite in float32"):
        normsurgery.recalibrate(image_model(), images(value))


def test_a_variance_that_the_type_cannot_hold() -> None:
    text = IMAGE.replace("float[", "float16[")
    proto = parse(text, **bn(3, dtype=np.float16))
    x = images()["x"] * 1000
    with pytest.raises(UsageError, match="the variance of channel 0 of `x` is not finite in float"):
        normsurgery.recalibrate(proto, {"x": x.astype(np.float16)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "moving"}, "mode 'moving' is none of"),
        ({"only": ["nothing"]}, "no BatchNormalization to recalibrate"),
        ({"mode": "batch", "batch_size": 1}, "a batch of one sample"),
        ({"batch_size": 0}, "must be 1 or more"),
    ],
)
def test_calls_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normsurgery.recalibrate(image_model(), images(), **options)


def test_a_model_without_norms() -> None:
    with pytest.raises(UsageError, match=r"no BatchNormalization to recalibrate$"):
        normsurgery.recalibrate(SAMPLES / "digits_resnet_folded.onnx", DIGITS)


def test_parameters_of_another_length() -> None:
    """One value would broadcast in the arithmetic of batch mode, and be wrong."""
    proto = dense.model()
    for tensor in proto.graph.initializer:
        if tensor.name in {"scale1", "B1", "mean1", "var1"}:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(1), tensor.name))
    with pytest.raises(GraphError, match="`x` has 3 channels, its BatchNormalization 1"):
        normsurgery.recalibrate(proto, dense.rows(), mode="batch")


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    normsurgery.recalibrate(
        dense.model(), dense.rows(), batch_size=25, step=lambda *how: told.append(how)
    )
    assert told == [(i, 6) for i in range(1, 7)]


def test_weights_are_untouched(tmp_path: Path) -> None:
    result = normsurgery.recalibrate(RESNET, DIGITS, mode="batch")
    before, after = onnx.load(RESNET), result.model
    old = {t.name: onnx.numpy_helper.to_array(t) for t in before.graph.initializer}
    new = {t.name: onnx.numpy_helper.to_array(t) for t in after.graph.initializer}
    for node, other in zip(before.graph.node, after.graph.node, strict=True):
        assert (node.op_type, node.name, node.output) == (other.op_type, other.name, other.output)
        for slot, name in enumerate(node.input):
            if node.op_type != "BatchNormalization" or slot < 3:
                assert other.input[slot] == name
                if name in old:
                    np.testing.assert_array_equal(old[name], new[name])

"""Back to BatchNormalization: exact where samples are alike, and close where data say it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import parse, weights
from onnx import ModelProto, numpy_helper

import normsurgery
from normsurgery import runtime
from normsurgery.conversion.back import correlation
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.io import from_proto
from normsurgery.moments import Moments

pytest.importorskip("onnxruntime")

SAMPLES = Path(__file__).parents[2] / "sample_models"
DIGITS = f"{SAMPLES / 'digits.npz'}:test"
f32 = np.float32
RESHAPED = """  s = Shape(x)
  r = Reshape(x, to)
  i = InstanceNormalization <epsilon = 0.5> (r, ones, zeros)
  b = Reshape(i, s)
  m = Mul(b, scale)
  n = Add(m, bias)
"""
FORMS = {
    "reshaped": RESHAPED,
    "group": "  n = GroupNormalization <num_groups = 2, epsilon = 0.5> (x, gamma, beta)\n",
    "instance": "  n = InstanceNormalization <epsilon = 0.5> (x, gamma, beta)\n",
    "layer": "  n = LayerNormalization <axis = 1, epsilon = 0.5> (x, scale, bias)\n",
    "layer, from the end": "  n = LayerNormalization <axis = -3> (x, scale, bias)\n",
}


def vectors() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    gamma, beta = rng.normal(0, 1, 4).astype(f32), rng.normal(0, 1, 4).astype(f32)
    return {
        "to": np.array([0, 2, -1]),
        "ones": np.ones(2, f32),
        "zeros": np.zeros(2, f32),
        "gamma": gamma,
        "beta": beta,
        "scale": gamma.reshape(4, 1, 1),
        "bias": beta.reshape(4, 1, 1),
        "W": weights(3, 4, 1, 1, dtype=f32),
    }


def model(form: str, size: str = "5, 6") -> ModelProto:
    """Return ``norm → Relu → Conv`` on (N, 4, 5, 6)."""
    shape, out = f"float[N, 4, {size}]", f"float[N, 3, {size}]"
    text = f"g ({shape} x) => ({out} y) {{\n{form}  a = Relu(n)\n  y = Conv(a, W)\n}}"
    names = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return parse(text, **{k: v for k, v in vectors().items() if k in names})


def alike(count: int = 12) -> dict[str, Any]:
    """Return images that are one image with its positions shuffled: equal statistics in each."""
    rng = np.random.default_rng(0)
    one = rng.normal([[3], [-1], [0], [2]], [[1], [2], [0.5], [1]], (4, 30))
    images = np.stack([one[:, rng.permutation(30)] for _ in range(count)])
    return {"x": images.reshape(count, 4, 5, 6).astype(f32)}


def outputs(proto: ModelProto, feeds: dict[str, Any], tmp_path: Path) -> Any:
    onnx.save(proto, tmp_path / "run.onnx")
    return runtime.run(runtime.session(tmp_path / "run.onnx"), feeds)["y"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", ["5, 6", "H, K"])
def test_samples_of_equal_statistics_lose_nothing(form: str, size: str, tmp_path: Path) -> None:
    """The norm is a map per channel then, and that is what BatchNormalization becomes."""
    proto, given = model(FORMS[form], size), alike()
    before = proto.SerializeToString()
    result = normsurgery.convert(proto, "batch", data=given)
    assert proto.SerializeToString() == before
    after = result.model
    onnx.checker.check_model(after, full_check=True)
    operators = [node.op_type for node in after.graph.node]
    assert operators.count("BatchNormalization") == 1
    assert not {"InstanceNormalization", "GroupNormalization", "LayerNormalization"} & {*operators}
    wanted, found = outputs(proto, given, tmp_path), outputs(after, given, tmp_path)
    # a dozen roundings of float32 of numbers about the size of the largest
    np.testing.assert_allclose(found, wanted, atol=12 * 2.0**-23 * np.abs(wanted).max())
    assert result.report.drift is not None
    assert result.report.drift.error < 1e-6
    (one,) = result.report.converted
    assert one.to == "batch"
    assert "explains 100.0%" in one.note
    assert [layer.to for layer in result.plan] == ["batch"]
    assert not result.report.left


def test_a_negative_scale_stays_negative() -> None:
    result = normsurgery.convert(model(FORMS["group"]), "batch", data=alike())
    known = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    node = next(n for n in result.model.graph.node if n.op_type == "BatchNormalization")
    np.testing.assert_array_equal(np.sign(known[node.input[1]]), np.sign(vectors()["gamma"]))
    # B is the mean of what came out; GN of one sample's statistics gives that without the data
    x = alike()["x"].astype(np.float64)
    groups = x[0].reshape(2, -1)
    m, s = groups.mean(1).repeat(2), np.sqrt(groups.var(1) + 0.5).repeat(2)
    wanted = vectors()["gamma"] * (x.mean((0, 2, 3)) - m) / s + vectors()["beta"]
    np.testing.assert_allclose(known[node.input[2]], wanted, rtol=1e-5)


def test_what_it_gets_is_what_its_statistics_are_of() -> None:
    """Two norms in a row: the second is measured behind the first one's successor."""
    form = FORMS["instance"].replace("  n =", "  q =")
    second = FORMS["group"].replace("(x,", "(q,")
    rng = np.random.default_rng(3)
    given = {"x": rng.normal(0, 1, (40, 4, 5, 6)) * rng.uniform(0.3, 3, (40, 1, 1, 1))}
    given["x"] = given["x"].astype(f32)
    result = normsurgery.convert(model(form + second), "batch", data=given)
    known = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    one, two = (n for n in result.model.graph.node if n.op_type == "BatchNormalization")
    np.testing.assert_allclose(known[two.input[3]], known[one.input[2]], atol=1e-5)
    np.testing.assert_allclose(known[two.input[4]], known[one.input[1]] ** 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("to", "options", "least"),
    [
        ("group", {}, 0.99),
        ("group", {"channels_per_group": 8, "encoding": "layer"}, 0.99),
        ("group", {"encoding": "native"}, 0.99),
        ("layer", {"encoding": "native"}, 0.99),
        ("instance", {}, 0.99),
    ],
)
def test_there_and_back_and_folded(to: str, options: dict[str, Any], least: float) -> None:
    """The accuracy of 99.3 % comes back, also from instance norm, which had lost it."""
    there = normsurgery.convert(SAMPLES / "digits_resnet.onnx", to, **options)
    back = normsurgery.convert(there.model, "batch", data=DIGITS)
    assert len(back.report.converted) == 11
    assert back.report.drift is not None
    assert back.report.drift.accuracy is not None
    assert back.report.drift.accuracy[1] >= least
    assert normsurgery.fold(back.model).report.after == 0


def test_only_and_skip() -> None:
    there = normsurgery.convert(SAMPLES / "digits_conv1d.onnx", "group")
    back = normsurgery.convert(there.model, "batch", data=DIGITS, skip=["first"])
    assert len(back.report.converted) == 3
    assert [left.slug for left in back.report.left] == ["selection"]
    assert [layer.to for layer in back.plan].count("keep") == 1


def test_batch_norms_that_were_there_keep_their_statistics() -> None:
    form = FORMS["group"].replace("  n =", "  q =")
    form += "  [bn] n = BatchNormalization(q, gamma, beta, beta, ones4)\n"
    proto = model(form)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(4, f32), "ones4"))
    result = normsurgery.convert(proto, "batch", data=alike())
    kept = next(n for n in result.model.graph.node if n.name == "bn")
    assert list(kept.input[1:]) == ["gamma", "beta", "beta", "ones4"]


def test_a_reshape_that_is_not_undone_is_part_of_the_model() -> None:
    form = """  r = Reshape(x, flat)
      i = InstanceNormalization(r, gamma, beta)
      b = Reshape(i, tall)
      n = Relu(b)\n"""
    proto = model(form)
    for name, sizes in (("flat", [0, 4, 30, 1]), ("tall", [0, 4, 6, 5])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(sizes), name))
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["N", 3, 6, 5]))
    result = normsurgery.convert(proto, "batch", data=alike())
    assert [n.op_type for n in result.model.graph.node][:3] == [
        *("Reshape", "BatchNormalization", "Reshape")
    ]


TOKENS = """g (float[N, 7, 4] x) => (float[N, 7, 4] y) {
  [tokens] y = LayerNormalization(x, gamma, beta)
}"""
BODY = """g (float[N, 4, 5, 6] x) => (float[N, 4, 5, 6] y) {
  y = If (k) <
    then_branch = t () => (float[N, 4, 5, 6] u) {
      [inner] u = InstanceNormalization(x, gamma, beta)
    },
    else_branch = e () => (float[N, 4, 5, 6] w) { w = Identity(x) }
  >
}"""
OUTPUTS = """g (float[N, 4, 5, 6] x) => (float[N, 4, 5, 6] y, float[N, 1, 1, 1] m) {
  [told] y, m = LayerNormalization <axis = 1> (x, scale, bias)
}"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOKENS, "`tokens`: it normalizes the last axes"),
        (BODY, "`inner`: in a body"),
        (OUTPUTS, "`told`: its mean or deviation is an output"),
    ],
)
def test_norms_that_no_batch_norm_can_follow(text: str, message: str) -> None:
    tensors = {k: v for k, v in vectors().items() if k in text}
    proto = parse(text, **tensors, **({"k": np.array(True)} if "(k)" in text else {}))
    shape = (6, 7, 4) if text == TOKENS else (6, 4, 5, 6)
    with pytest.raises(UsageError, match=message):
        normsurgery.convert(proto, "batch", data={"x": np.ones(shape, f32)})


def test_an_unknown_rank() -> None:
    from normsurgery.conversion import sample_norms
    from normsurgery.conversion.report import Left

    proto = model("  c = Strange(x)\n" + FORMS["instance"].replace("(x,", "(c,"))
    proto.graph.node[0].domain = "custom"
    (found,) = sample_norms.find(Graph(from_proto(proto)))
    assert isinstance(found, Left)
    assert found.reason == "the rank of `c` is not known"


def test_shapes_that_differ_on_the_data() -> None:
    """Same rank, nothing known of the sizes, and the second Reshape gives another shape."""
    form = RESHAPED.replace("Reshape(i, s)", "Reshape(i, turned)").replace("  s = Shape(x)\n", "")
    proto = model(form, "H, K")
    sizes = numpy_helper.from_array(np.array([0, 4, -1, 1]), "turned")
    proto.graph.initializer.append(sizes)
    given = {"x": alike()["x"].reshape(12, 4, 1, 30)}
    with pytest.raises(UsageError, match="`x` and `b` differ in shape on the data"):
        normsurgery.convert(proto, "batch", data=given)


def test_data_that_are_not_finite() -> None:
    given = alike()
    given["x"][3, 1, 2, 2] = np.inf
    with pytest.raises(UsageError, match="not finite on the data"):
        normsurgery.convert(model(FORMS["group"]), "batch", data=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give samples"),
        ({"data": DIGITS, "groups": 2}, "no use for groups"),
        ({"data": DIGITS, "channels_per_group": 2}, "no use for channels per group"),
    ],
)
def test_calls_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normsurgery.convert(SAMPLES / "digits_resnet.onnx", "batch", **options)


def test_a_plan_has_no_way_back() -> None:
    result = normsurgery.convert(model(FORMS["group"]), "batch", data=alike())
    with pytest.raises(UsageError, match="takes no plan"):
        normsurgery.convert(SAMPLES / "digits_resnet.onnx", plan=result.plan)


def test_a_model_of_batch_norms_has_nothing_to_do() -> None:
    with pytest.raises(UsageError, match="no norm over samples"):
        normsurgery.convert(SAMPLES / "digits_resnet.onnx", "batch", data=DIGITS)


def test_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (50, 4))
    y = -0.5 * x + rng.normal(0, [0, 1, 3, 0], (50, 4)) + 7
    y[:, 3] = 1
    found = correlation(*(Moments.of(v) for v in (x, y, x * y)))
    wanted = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(found, [*wanted, 1.0], rtol=1e-9)


FLATTENED = """g (float[N, {whole}] x) => (float[N, {whole}] y) {{
  r = Reshape(x, to)
  l = LayerNormalization<axis = {axis}>(r, one)
  s = Shape(x)
  y = Reshape(l, s)
}}"""


@pytest.mark.parametrize(
    ("whole", "to", "axis", "taken"),
    [
        ("4, 6", [0, 2, -1], -1, True),  # two groups of two channels
        ("4, 6", [0, 2, 2, 6], 2, True),
        ("5, 6", [-1, 6], -1, False),  # 5 tokens of 6, all samples in a row
        ("4, 5, 6", [0, 20, 6], -1, False),  # 4 by 5 tokens
        ("4, 6", [0, 2, -1], 1, False),
        ("4, 5, 6", [0, 2, 10, 6], 3, False),
    ],
)
def test_a_layer_norm_of_tokens_between_reshapes_is_none_of_channels(
    whole: str, to: list[int], axis: int, taken: bool
) -> None:
    sizes = [int(size) for size in whole.split(",")]
    shape = np.zeros((1, *sizes)).reshape([1 if t == 0 else t for t in to]).shape
    one = np.ones(shape[axis:], f32)
    proto = parse(FLATTENED.format(whole=whole, axis=axis), to=np.array(to), one=one)
    x = np.random.default_rng(0).normal(0, 1, (8, *sizes)).astype(f32)
    if taken:
        report = normsurgery.convert(proto, "batch", data={"x": x}).report
        assert [one.channels for one in report.converted] == sizes[:1]
    else:
        with pytest.raises(UsageError, match="whose channels are not on axis 1"):
            normsurgery.convert(proto, "batch", data={"x": x})
    (norm,) = normsurgery.inspect(proto).norms
    assert (norm.convert == "sample-norm") == taken

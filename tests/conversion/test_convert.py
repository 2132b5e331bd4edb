from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import bn, feeds, ops, parse, run, weights
from onnx import ModelProto

import normsurgery
from normsurgery.conversion import ConvertResult, Layer, layers
from normsurgery.errors import GraphError, UsageError

GROUPED = ["Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]
EPSILON = float(np.float32(1e-5))
DIMS = {1: "l", 2: "h, w", 3: "d, h, w"}


def conv_bn(
    channels: int = 16, *, space: int = 2, bias: bool = False, op: str = "double", **more: Any
) -> ModelProto:
    """Conv → BatchNormalization, with nothing behind."""
    dims = DIMS[space]
    text = f"""
    g ({op}[n, 3, {dims}] x) => ({op}[n, {channels}, {dims}] y) {{
        c = Conv <pads = {[1] * 2 * space}> (x, W{", b" if bias else ""})
        y = BatchNormalization (c, scale, B, mean, var)
    }}"""
    tensors = {"W": weights(channels, 3, *[3] * space), **bn(channels), **more}
    if bias:
        tensors["b"] = weights(channels)
    return parse(text, **tensors)


def before_norm(model: ModelProto, x: dict[str, Any]) -> Any:
    """What the model's Conv makes of the inputs."""
    probe = ModelProto()
    probe.CopyFrom(model)
    made = probe.graph.node[0].output[0]
    probe.graph.output.append(onnx.helper.make_tensor_value_info(made, 11, None))
    return run(probe, x)[-1]


def standardized_then_grouped(
    c: Any, p: dict[str, Any], groups: int, epsilon: float, bn_epsilon: float = EPSILON
) -> Any:
    """The definition: (c − mean)/σ, group normalization, BN's scale times √(share + ε), its B."""
    channel = (1, -1) + (1,) * (c.ndim - 2)
    scale, B, mean, var = (p[k].astype(np.float64) for k in ("scale", "B", "mean", "var"))
    share = (var / (var + bn_epsilon)).reshape(groups, -1).mean(axis=1)
    epsilon = float(np.float32(epsilon * share.mean()))
    z = (c - mean.reshape(channel)) / np.sqrt(var + bn_epsilon).reshape(channel)
    grouped = z.reshape(len(z), groups, -1)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    normalized = centred / np.sqrt(grouped.var(axis=2, keepdims=True) + epsilon)
    root = np.repeat(np.sqrt(share + epsilon), c.shape[1] // groups)
    return normalized.reshape(c.shape) * (scale * root).reshape(channel) + B.reshape(channel)


def parameters(model: ModelProto) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def converted(model: ModelProto, *args: Any, **options: Any) -> ConvertResult:
    """Convert, with the checks that hold for every conversion.

    Models are in double precision, for which *auto* would write LayerNormalization.
    """
    encoding = "native" if "affine" in args else "instance"
    options = {"encoding": encoding, "gauge": "whiten", "epsilon": 1.0, **options}
    before = model.SerializeToString(deterministic=True)
    result = normsurgery.convert(model, *args, **options)
    assert model.SerializeToString(deterministic=True) == before, "the caller's model changed"
    onnx.checker.check_model(result.model, full_check=True)
    assert [o.name for o in result.model.graph.output] == [o.name for o in model.graph.output]
    return result


@pytest.mark.parametrize(
    ("space", "groups", "encoding", "affine"),
    [
        *itertools.product((1, 2, 3), (1, 2), ("auto", "native", "instance", "layer"), ("fold",)),
        *itertools.product((2,), (2,), ("instance", "native"), ("keep",)),
    ],
)
def test_it_computes_what_the_definition_says(
    space: int, groups: int, encoding: str, affine: str
) -> None:
    model = conv_bn(space=space, bias=True)
    result = converted(model, "group", groups=groups, encoding=encoding, affine=affine)
    for size in (4, 5):  # sizes stay free
        x = feeds(model, n=3, l=size, d=size, h=size, w=size + 1)
        expected = standardized_then_grouped(before_norm(model, x), parameters(model), groups, 1.0)
        np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gauge", ["balance", "whiten", "fold", "none"])
@pytest.mark.parametrize("affine", ["fold", "keep"])
def test_a_sample_with_the_running_statistics_goes_through_as_before(
    gauge: str, affine: str
) -> None:
    model = conv_bn(bias=True)
    x = feeds(model, n=1, h=6, w=5)
    c = before_norm(model, x)
    for name, values in (("mean", c.mean(axis=(0, 2, 3))), ("var", c.var(axis=(0, 2, 3)))):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    result = converted(model, groups=2, gauge=gauge, affine=affine)
    np.testing.assert_allclose(run(result.model, x)[0], run(model, x)[0], rtol=1e-10, atol=1e-10)


def test_the_map_goes_into_the_weights_whose_norm_stays() -> None:
    model = conv_bn(bias=True)
    result = converted(model, groups=2)
    assert ops(result.model) == ["Conv", *GROUPED]
    (one,) = result.report.converted
    assert (one.affine, one.into, one.groups) == ("fold", ("Conv (makes `y/handed_over`)",), 2)
    was, now = parameters(model), parameters(result.model)
    p = {k: v.astype(np.float64) for k, v in was.items()}
    sigma = np.sqrt(p["var"] + EPSILON)
    assert np.linalg.norm(now["W_folded"]) == pytest.approx(np.linalg.norm(was["W"]), rel=1e-6)
    k = one.k
    expected = k * p["W"] / sigma[:, None, None, None]
    np.testing.assert_allclose(now["W_folded"], expected, rtol=1e-13)
    np.testing.assert_allclose(now["b_folded"], k * (p["b"] - p["mean"]) / sigma, rtol=1e-12)
    share = (p["var"] / sigma**2).mean()
    assert one.epsilon == pytest.approx(k * k * share, rel=1e-6)


def test_keep_leaves_a_frozen_bn_that_standardizes() -> None:
    result = converted(conv_bn(), groups=2, affine="keep")
    assert ops(result.model) == ["Conv", "BatchNormalization", *GROUPED]
    now = parameters(result.model)
    norm = next(n for n in result.model.graph.node if n.op_type == "BatchNormalization")
    np.testing.assert_array_equal(now[norm.input[1]], np.ones(16))
    np.testing.assert_array_equal(now[norm.input[2]], np.zeros(16))


def test_where_no_layer_can_take_the_map_it_is_kept_or_left_out() -> None:
    text = """
    g (double[n, 16, h, w] x) => (double[n, 16, h, w] y) {
        r = Relu (x)
        y = BatchNormalization (r, scale, B, mean, var)
    }"""
    model = parse(text, **bn(16))
    kept = converted(model)
    assert ops(kept.model) == ["Relu", "BatchNormalization", *GROUPED]
    assert "Relu" in kept.report.converted[0].note
    left_out = converted(model, affine="fold")
    assert ops(left_out.model) == ["Relu", *GROUPED]
    assert left_out.report.converted[0].gauge == "none"
    x = feeds(model, h=5, w=4)
    c = np.maximum(x["x"], 0)
    p = {k: v.astype(np.float64) for k, v in parameters(model).items()}
    m = p["mean"].mean()
    s2 = (p["var"] + (p["mean"] - m) ** 2).mean()
    epsilon = float(np.float32(s2))
    sigma = np.sqrt(p["var"] + EPSILON)
    flat = c.reshape(len(c), -1)
    mean, var = (f(axis=1)[:, None, None, None] for f in (flat.mean, flat.var))
    column = (-1, 1, 1)
    scale = (p["scale"] * np.sqrt(s2 + epsilon) / sigma).reshape(column)
    B = (p["B"] + p["scale"] * (m - p["mean"]) / sigma).reshape(column)
    expected = scale * (c - mean) / np.sqrt(var + epsilon) + B
    np.testing.assert_allclose(run(left_out.model, x)[0], expected, rtol=1e-11, atol=1e-11)


def test_instance_normalization_takes_the_bias_away_and_group_normalization_does_not() -> None:
    model = conv_bn(bias=True)
    result = converted(model, "instance")
    assert ops(result.model) == ["Conv", "InstanceNormalization"]
    assert result.report.converted[0].unbiased == "b"
    assert len(result.model.graph.node[0].input) == 2
    x = feeds(model, h=5, w=4)
    expected = standardized_then_grouped(before_norm(model, x), parameters(model), 16, 1.0)
    np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-11, atol=1e-11)
    for groups in (1, 2):
        assert len(converted(model, groups=groups).model.graph.node[0].input) == 3


def test_instance_normalization_of_a_value_that_others_read_keeps_the_bias() -> None:
    model = conv_bn(bias=True)
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", 11, ["n", 16, "h", "w"]))
    result = converted(model, "instance")
    assert not result.report.converted[0].unbiased
    x = feeds(model, h=5, w=4)
    np.testing.assert_array_equal(run(result.model, x)[1], run(model, x)[1])


def test_affine_is_the_same_function() -> None:
    model = conv_bn(bias=True)
    result = converted(model, "affine")
    assert ops(result.model) == ["Conv", "Mul", "Add"]
    x = feeds(model, h=5, w=4)
    np.testing.assert_allclose(run(result.model, x)[0], run(model, x)[0], rtol=1e-12, atol=1e-12)


TAKEN_APART = """
g (double[n, 16, h, w] x) => (double[n, 16, h, w] y) {
    c = Conv (x, W)
    a = Sub (c, mean)
    d = Add (var, eps)
    e = Sqrt (d)
    f = Div (a, e)
    s = Mul (f, scale)
    y = Add (s, B)
}"""


def taken_apart(text: str = TAKEN_APART) -> ModelProto:
    tensors = {k: v.reshape(16, 1, 1) for k, v in bn(16).items()}
    return parse(text, W=weights(16, 16, 1, 1), eps=np.asarray([1e-3]), **tensors)


@pytest.mark.parametrize("affine", ["fold", "keep"])
def test_a_bn_that_was_taken_apart_is_one(affine: str) -> None:
    model = taken_apart()
    result = converted(model, groups=2, affine=affine)
    kept = ["BatchNormalization"] if affine == "keep" else []
    assert ops(result.model) == ["Conv", *kept, *GROUPED]
    x = feeds(model, h=5, w=4)
    p = {k: v.ravel() for k, v in parameters(model).items()}
    # with epsilon inside the variance, as the parts do not tell them apart
    p["var"] = p["var"] + 1e-3
    c = before_norm(model, x)
    expected = standardized_then_grouped(c, p, 2, 1.0, bn_epsilon=0)
    np.testing.assert_allclose(run(result.model, x)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("f = Div (a, e)", "f = Identity (a)"),  # no deviation
        ("a = Sub (c, mean)", "a = Sub (mean, c)"),  # the other way round
        ("a = Sub (c, mean)", "a = Identity (c)"),  # no mean
        ("y = Add (s, B)", "y = Add (s, s)"),  # no bias
        ("f = Div (a, e)", "g0 = Relu (a)\n f = Div (g0, e)"),  # something in between
    ],
)
def test_what_does_not_tell_its_statistics_is_no_norm(old: str, new: str) -> None:
    assert old in TAKEN_APART
    result = converted(taken_apart(TAKEN_APART.replace(old, new)))
    assert not result.report.converted


def test_groups_fall_to_the_largest_divisor_and_that_is_said() -> None:
    model = conv_bn(24)
    for options, groups, note in (
        ({"groups": 3}, 3, ""),
        ({"groups": 32}, 3, "32 groups leave under 8 of 24 channels each"),
        ({"groups": 32, "least": 1}, 24, "32 groups do not divide 24"),
        ({"channels_per_group": 16}, 1, "16 channels per group do not divide 24"),
        ({"channels_per_group": 4}, 6, ""),
        ({}, 1, ""),
    ):
        (one,) = converted(model, **options).report.converted
        assert (one.groups, one.note) == (groups, note)


def test_a_group_of_one_element_is_refused() -> None:
    text = """
    g (double[n, 3] x) => (double[n, 16] y) {
        c = MatMul (x, W)
        y = BatchNormalization (c, scale, B, mean, var)
    }"""
    model = parse(text, W=weights(3, 16), **bn(16))
    result = converted(model, "instance")
    assert "one element" in result.report.left[0].reason
    assert ops(result.model) == ops(model)
    grouped = converted(model, "group")
    x = feeds(model)
    expected = standardized_then_grouped(before_norm(model, x), parameters(model), 1, 1.0)
    np.testing.assert_allclose(run(grouped.model, x)[0], expected, rtol=1e-11, atol=1e-11)


def test_training_mode_is_left_and_said() -> None:
    model = conv_bn()
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("training_mode", 1))
    model.graph.node[1].output.extend(["running_mean", "running_var"])
    result = converted(model)
    assert [left.slug for left in result.report.left] == ["training-mode"]


def test_a_bn_of_another_width_is_no_model() -> None:
    model = conv_bn(16, **bn(8))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    with pytest.raises(GraphError, match="8 channels"):
        normsurgery.convert(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "grupp"}, "to 'grupp' is none of"),
        ({"gauge": "best"}, "gauge 'best' is none of"),
        ({"affine": "drop"}, "affine 'drop' is none of"),
        ({"to": "affine", "encoding": "layer"}, "encoding 'layer' is none of"),
        ({"to": "batch"}, "needs statistics"),
        ({"groups": 2, "channels_per_group": 2}, "not both"),
        ({"groups": 0}, "groups must be 1 or more"),
        ({"epsilon": -1.0}, "epsilon -1.0"),
        ({"epsilon": 1e7}, "of an input of unit variance"),
        ({"only": "y"}, "only is a list of patterns"),
        ({"skip": "first"}, "skip is a list of patterns"),
        ({"only": ["nothing*"]}, "matches none of the 1 norms"),
        ({"skip": ["channels>99"]}, "matches none of the 1 norms"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normsurgery.convert(conv_bn(), **options)


def chain() -> ModelProto:
    """Three norms of 8, 16 and 24 channels, called a, b and c."""
    text = """
    g (double[n, 3, h, w] x) => (double[n, 24, h, w] z) {
        x1 = Conv (x, W1)
        y1 = BatchNormalization (x1, scale1, B1, mean1, var1)
        x2 = Conv (y1, W2)
        y2 = BatchNormalization (x2, scale2, B2, mean2, var2)
        x3 = Conv (y2, W3)
        z = BatchNormalization (x3, scale3, B3, mean3, var3)
    }"""
    sizes = {1: (3, 8), 2: (8, 16), 3: (16, 24)}
    tensors = {f"W{i}": weights(out, inner, 1, 1) for i, (inner, out) in sizes.items()}
    for i, (_, out) in sizes.items():
        tensors |= {f"{k}{i}": v for k, v in bn(out, i).items()}
    model = parse(text, **tensors)
    for node, name in zip(model.graph.node[1::2], "abc", strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"skip": ["first"]}, "bc"),
        ({"skip": ["last"]}, "ab"),
        ({"skip": ["last:2"]}, "a"),
        ({"only": ["b"]}, "b"),
        ({"only": ["[ab]"], "skip": ["first"]}, "b"),
        ({"skip": ["channels<16"]}, "bc"),
        ({"only": ["channels=16"]}, "b"),
        ({"only": ["z"]}, "c"),
        ({"only": ["first", "last"]}, "ac"),
    ],
)
def test_selection(options: dict[str, Any], names: str) -> None:
    result = converted(chain(), **options)
    assert "".join(one.node for one in result.report.converted) == names
    assert {left.node for left in result.report.left} == set("abc") - set(names)


def test_a_plan_is_written_edited_and_read_back(tmp_path: Path) -> None:
    model, path = chain(), tmp_path / "plan.json"
    first = converted(model, channels_per_group=8, skip=["a"])
    layers.write(path, first.plan)
    again = converted(model, plan=path)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    entries = json.loads(path.read_text())["convert"]
    entries[1].update(to="affine", encoding="auto")
    entries[2].update(groups=2, gauge="fold", epsilon=0.5)
    path.write_text(json.dumps({"convert": entries}))
    edited = converted(model, plan=path).report
    assert [(c.node, c.to, c.groups, c.gauge) for c in edited.converted] == [
        ("b", "affine", 1, "none"),
        ("c", "group", 2, "fold"),
    ]
    path.write_text(json.dumps({"convert": entries[2:]}))
    assert [left.reason for left in converted(model, plan=path).report.left] == [
        "not in the plan"
    ] * 2


GOOD = {"output": "z", "node": "c", "channels": 24, "to": "group"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ([GOOD], "is no plan"),
        ({"convert": {}}, "holds no list"),
        ({"convert": [3]}, "is no object"),
        ({"convert": [{**GOOD, "grups": 2}]}, "unknown key 'grups'"),
        ({"convert": [{**GOOD, "groups": "2"}]}, "groups is '2', not of type int"),
        ({"convert": [{**GOOD, "groups": True}]}, "groups is True, not of type int"),
        ({"convert": [{**GOOD, "groups": 5}]}, "24 channels do not make 5 groups"),
        ({"convert": [{**GOOD, "to": "none"}]}, "to 'none' is none of"),
        ({"convert": [{**GOOD, "to": "batch"}]}, "batch"),
        ({"convert": [GOOD, GOOD]}, "two entries for `z`"),
        ({"convert": [{"output": "z"}]}, "lacks channels, node, to"),
        ({"convert": [{**GOOD, "output": "q"}]}, "no norm here makes"),
        ({"convert": [{**GOOD, "channels": 12}]}, "has 12 channels, the norm 24"),
    ],
)
def test_a_plan_that_is_none(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError, match=message):
        normsurgery.convert(chain(), plan=path)


def test_a_plan_may_be_a_list_of_layers() -> None:
    result = converted(chain(), plan=[Layer("z", "c", 24, "instance", 24)])
    assert [one.to for one in result.report.converted] == ["instance"]


def test_bodies_are_converted_too() -> None:
    text = """
    g (double[n, 8, h, w] x, bool flag) => (double[n, 8, h, w] y) {
        y = If (flag) <
            then_branch = t () => (double[n, 8, h, w] u) {
                u0 = Conv (x, W)
                u = BatchNormalization (u0, scale, B, mean, var)
            },
            else_branch = e () => (double[n, 8, h, w] v) { v = Identity (x) }
        >
    }"""
    model = parse(text, W=weights(8, 8, 1, 1), **bn(8))
    for branch in model.graph.node[0].attribute:
        for node in branch.g.node:
            for name in node.output:
                if name not in {"u", "v"}:
                    info = onnx.helper.make_tensor_value_info(name, 11, ["n", 8, "h", "w"])
                    branch.g.value_info.append(info)
    result = converted(model)
    assert len(result.report.converted) == 1
    x = {"x": feeds(model)["x"], "flag": np.asarray(True)}
    made = run(result.model, x)[0]
    branch = result.model.graph.node[0].attribute[0].g
    assert "InstanceNormalization" in [n.op_type for n in branch.node]
    c = np.einsum("oi,nihw->nohw", parameters(model)["W"][:, :, 0, 0], x["x"])
    expected = standardized_then_grouped(c, parameters(model), 1, 1.0)
    np.testing.assert_allclose(made, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("encoding", ["instance", "layer", "native"])
@pytest.mark.parametrize("groups", [1, 16])
def test_a_map_that_was_kept_in_front_is_not_converted_again(encoding: str, groups: int) -> None:
    once = converted(conv_bn(), groups=groups, least=1, affine="keep", encoding=encoding)
    assert once.report.converted[0].affine == "keep"
    again = converted(once.model)
    (left,) = again.report.left
    assert (left.slug, left.was) == ("in-front-of-norm", "BatchNormalization")
    assert "normalizes it already" in left.reason
    assert again.model.graph == once.model.graph
    (frozen, *_) = normsurgery.inspect(once.model).norms
    assert (frozen.convert, frozen.convert_detail) == (left.slug, left.reason)
    assert ops(converted(once.model, "affine").model)[:3] == ["Conv", "Mul", "Add"]


def test_a_norm_in_front_of_which_something_else_stands_is_converted() -> None:
    text = """
    g (double[n, 16, h, w] x) => (double[n, 16, h, w] y{more}) {{
        b = BatchNormalization (x, scale, B, mean, var)
        {between}
        y = InstanceNormalization (r, i, i)
    }}"""
    for between, more in (
        ("r = Relu (b)", ""),
        ("r = Identity (b)\n z = Exp (b)", ", double[n, 16, h, w] z"),
        ("r = Identity (b)", ", double[n, 16, h, w] b"),
    ):
        model = parse(text.format(between=between, more=more), i=np.ones(16), **bn(16))
        assert len(converted(model).report.converted) == 1


def test_a_plan_nested_beyond_reason(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("[" * 200_000)
    with pytest.raises(UsageError, match="is no JSON"):
        normsurgery.convert(conv_bn(), plan=path)


@pytest.mark.parametrize("sizes", [[-1, 3, -1, -1], [-1, 3, 5, -1]])
def test_a_negative_size_is_no_lack_of_elements(sizes: list[int]) -> None:
    model = conv_bn()
    for i, size in enumerate(sizes):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_value = size
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for size in (-1, 16, -1, -1):
        model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    result = normsurgery.convert(model, encoding="instance")
    assert [one.affine for one in result.report.converted] == ["fold"]
    (norm,) = normsurgery.inspect(model).norms
    assert norm.convert == "converts"


SAMPLES = Path(__file__).parents[2] / "sample_models"


@pytest.mark.parametrize("gauge", ["whiten", "fold"])
@pytest.mark.parametrize("options", [{}, {"channels_per_group": 8}, {"to": "instance"}], ids=str)
@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet", "repvgg", "unet", "conv1d"])
def test_folded_or_kept_the_map_is_the_same_function(
    name: str, options: dict[str, Any], gauge: str
) -> None:
    path = SAMPLES / f"digits_{name}.onnx"
    folded, kept = (
        normsurgery.convert(path, gauge=gauge, affine=affine, **options).model
        for affine in ("auto", "keep")
    )
    x = {k: v.astype(np.float32) / 4 for k, v in feeds(folded).items()}
    for one, other in zip(*(runtime_run(model, x) for model in (folded, kept)), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def runtime_run(model: ModelProto, inputs: dict[str, Any]) -> list[Any]:
    """Return the outputs by onnxruntime, graph optimizations off."""
    session_options = ort.SessionOptions()
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def test_a_norm_without_channels_stays() -> None:
    report = normsurgery.convert(conv_bn(0)).report
    assert [(left.slug, left.reason) for left in report.left] == [
        ("no-channel", "BatchNormalization (makes `y`): it has no channels")
    ]


def test_a_plan_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    plan = normsurgery.convert(conv_bn()).plan
    layers.write(tmp_path / "plan.json", plan)
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    (tmp_path / "plan.json").write_text(text, encoding="utf-8-sig")
    assert layers.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("to", ["group", "instance", "affine"])
def test_an_infinite_variance_is_left(to: str) -> None:
    var = bn(16)["var"]
    var[3] = np.inf  # as float16 makes of one above 65504: the channel is its B
    report = normsurgery.convert(conv_bn(var=var), to).report
    assert [left.slug for left in report.left] == ["not-finite"]
    assert "channel 3" in report.left[0].reason


def test_nodes_of_a_second_conversion_have_names_of_their_own() -> None:
    model = conv_bn(op="float", W=weights(16, 3, 3, 3, dtype=np.float32))
    model.graph.node[1].name = "norm"
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    once = normsurgery.convert(model, affine="keep").model
    again = normsurgery.convert(once, "affine")
    assert len(again.report.converted) == 1
    names = [node.name for node in again.model.graph.node if node.name]
    assert len(set(names)) == len(names)
    ort.InferenceSession(again.model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("to", ["instance", "layer", "affine"])
@pytest.mark.parametrize("option", ["groups", "channels_per_group", "least"])
def test_what_a_target_has_no_use_for_is_refused(to: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"--to {to} has no use for {option.replace('_', ' ')}"):
        normsurgery.convert(conv_bn(), to, **{option: 8})

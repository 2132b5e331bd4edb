"""Which nodes are a norm that can be converted, and why others are left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion.definition import (
    GROUPED,
    before_norm,
    conv_bn,
    converted,
    parameters,
    standardized_then_grouped,
)
from graphs import bn, feeds, ops, parse, run, weights
from onnx import ModelProto

import normsurgery
from normsurgery.errors import GraphError

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


def test_a_norm_without_channels_stays() -> None:
    report = normsurgery.convert(conv_bn(0)).report
    assert [(left.slug, left.reason) for left in report.left] == [
        ("no-channel", "BatchNormalization (makes `y`): it has no channels")
    ]


@pytest.mark.parametrize("to", ["group", "instance", "affine"])
def test_an_infinite_variance_is_left(to: str) -> None:
    var = bn(16)["var"]
    var[3] = np.inf  # as float16 makes of one above 65504: the channel is its B
    report = normsurgery.convert(conv_bn(var=var), to).report
    assert [left.slug for left in report.left] == ["not-finite"]
    assert "channel 3" in report.left[0].reason

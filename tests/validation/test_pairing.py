"""Two graphs are paired by their structure; a difference that matters breaks it, and is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from validation.nets import conv_bn_net, graph
from validation.rewrites import (
    constants_as_nodes,
    defaults_spelled_out,
    renamed,
    reordered,
    with_identities,
)
from validation.specimens import clone, nodes, sample

from normsurgery import io
from normsurgery.graph import Graph
from normsurgery.validation.pairing import pair


def paired(one, other):
    return pair(Graph(io.from_proto(one)), Graph(io.from_proto(other)))


@pytest.mark.parametrize(
    "rewrite",
    [clone, renamed, reordered, with_identities, constants_as_nodes],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("name", ["resnet", "unet", "conv1d"])
def test_what_makes_no_difference(name, rewrite):
    model = sample(name)
    found = paired(model, rewrite(model))
    assert not found.mismatch
    read = {x for node in model.graph.node for x in node.input}
    read &= {t.name for t in model.graph.initializer}
    assert len(found.leaves) >= len(read)


def test_defaults_make_no_difference():
    model = sample("resnet")
    from validation.specimens import folded

    assert not paired(folded(model), defaults_spelled_out(model)).mismatch


def test_values_are_paired_by_what_they_are():
    model = conv_bn_net()
    names = paired(model, renamed(model)).names
    assert names["r"] == "renamed/r"
    assert names["a.w"] == "renamed/a.w"
    assert names["x"] == "x"


def changed(how):
    model = conv_bn_net()
    how(model)
    return model


def other_attribute(model):
    next(a for a in nodes(model, "Conv")[0].attribute if a.name == "pads").ints[0] = 0


def more_attributes(model):
    nodes(model, "Conv")[0].attribute.append(helper.make_attribute("strides", [2, 2]))


def other_operator(model):
    nodes(model, "Relu")[0].op_type = "Sigmoid"


def other_wiring(model):
    add = nodes(model, "Add")[0]
    add.input[0], add.input[1] = add.input[1], add.input[0]


def other_reading(model):
    nodes(model, "Add")[0].input[0] = "a.y"


def fewer_inputs(model):
    del nodes(model, "Gemm")[0].input[2]


def computed(model):
    model.graph.node.insert(0, helper.make_node("Neg", ["fc.b"], ["negated"]))
    nodes(model, "Gemm")[0].input[2] = "negated"


def other_output(model):
    nodes(model, "Gemm")[0].output[0] = "points"
    model.graph.output[0].name = "points"


@pytest.mark.parametrize(
    ("how", "named"),
    [
        (other_attribute, "'pads' of Conv `a`"),
        (more_attributes, "attribute 'strides'"),
        (other_operator, "Sigmoid"),
        (other_wiring, "stands where"),
        (other_reading, "is read where"),
        (fewer_inputs, "other inputs than Gemm"),
        (computed, "constant in one model alone"),
        (other_output, "output 'points' is in one model alone"),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_what_makes_one(how, named):
    found = paired(conv_bn_net(), changed(how))
    assert named in found.mismatch


BODY = """body (bool c, float[2] x) => (float[2] y) {
    k = Constant<value = float[2] {1, 2}>()
    y = If (c) <
        then_branch = yes () => (float[2] a) { a = Add(x, k) },
        else_branch = no () => (float[2] b) { b = Mul(x, w) }
    >
}"""


def test_bodies_and_what_they_read_around_them():
    one = graph(BODY, w=np.ones(2, np.float32))
    assert not paired(one, clone(one)).mismatch
    assert len(paired(one, clone(one)).leaves) == 2
    other = graph(BODY.replace("Mul(x, w)", "Mul(w, w)"), w=np.ones(2, np.float32))
    assert paired(one, other).mismatch


FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
f (float[2] x) => (float[2] y) { y = local.twice(x) }
<opset_import: ["": 17], domain: "local"> twice (a) => (b) { b = Add(a, a) }
"""


def test_functions():
    one = onnx.parser.parse_model(FUNCTION)
    assert not paired(one, clone(one)).mismatch
    other = onnx.parser.parse_model(FUNCTION.replace("Add(a, a)", "Mul(a, a)"))
    assert "Mul" in paired(one, other).mismatch
    other = clone(one)
    del other.functions[:]
    assert "function 'twice' is not there" in paired(one, other).mismatch

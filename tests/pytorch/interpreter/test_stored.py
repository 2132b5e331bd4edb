"""The tensors of a graph as parameters: which they are, and their names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from pytorch.interpreter.texts import parse

from normsurgery.pytorch import to_module


def affine(*names: str) -> onnx.ModelProto:
    """x · w₁ + w₂ + …, with tensors called ``names``."""
    nodes, value = [], "x"
    for n, name in enumerate(names):
        nodes.append(helper.make_node("Add" if n else "Mul", [value, name], [f"v{n}"]))
        value = f"v{n}"
    tensors = [
        numpy_helper.from_array(np.arange(3, dtype=np.float32) + n, name)
        for n, name in enumerate(names)
    ]
    info = [helper.make_tensor_value_info("x", 1, ["N", 3])]
    out = [helper.make_tensor_value_info(value, 1, ["N", 3])]
    graph = helper.make_graph(nodes, "g", info, out, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_names_read_as_in_the_graph():
    names = ["layer1.0.conv.weight", "layer1.0.conv.bias", "onnx::Mul_12", "/head/w"]
    module = to_module(affine(*names))
    assert {k for k, _ in module.named_parameters()} == set(names) == set(module.state_dict())
    assert module.names == {name: name for name in names}
    assert module.get_parameter("layer1.0.conv.bias") is module.layer1.get_submodule("0").conv.bias


@pytest.mark.parametrize(
    "names",
    [("a", "a.b"), ("a.b", "a"), ("a.b", "a.b.c"), ("a..b", "a._.b"), (".a", "a"), ("a.", "a"),
     ("forward", "x.type"), ("training", "names"), ("x.half", "double.w"), ("a.b.", "a.b._")],
)  # fmt: skip
def test_names_that_torch_cannot_have_get_others(names):
    module = to_module(affine(*names))
    assert set(module.names) == set(names)
    found = dict(module.named_parameters())
    assert len(found) == 2
    assert set(module.state_dict()) == set(found) == set(module.names.values())
    for n, name in enumerate(names):
        assert found[module.names[name]].tolist() == [n, n + 1, n + 2]
    assert module(torch.ones(1, 3)).tolist() == [[1.0, 3.0, 5.0]]
    assert {name for name, _, _ in module.written()} == set(names)


def test_bfloat16_weights():
    import ml_dtypes

    w = np.arange(3).astype(ml_dtypes.bfloat16)
    text = "g (bfloat16[N, 3] x) => (bfloat16[N, 3] y) { y = Mul(x, w) }"
    model = parse(text)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    module = to_module(model, check=False)
    assert module.w.dtype is torch.bfloat16
    assert module(torch.ones(1, 3)).tolist() == [[0.0, 1.0, 2.0]]


def test_local_functions_are_inlined():
    model = parse(
        "g (float[2, 3] x) => (float[2, 3] y) { y = local.scaled(x, w) }",
        w=np.array([1.0, 2.0, 3.0], np.float32),
    )
    body = onnx.parser.parse_function(
        '<domain: "local", opset_import: ["" : 17]> scaled (a, b) => (c) '
        "{ k = Constant<value = float[2] {2.0, 2.0}>() s = ReduceSum<keepdims = 0>(k) "
        "m = Mul(a, b) c = Mul(m, s) }"
    )
    model.functions.append(body)
    module = to_module(model)
    assert {k for k, _ in module.named_parameters()} == {"w"}
    assert module(torch.ones(2, 3))[0].tolist() == [4.0, 8.0, 12.0]


def test_shared_and_copied_weights():
    """Read twice it is one parameter; an Identity of it is a parameter of its own."""
    text = """g (float[N, 3] x) => (float[N, 3] y) {
        copied = Identity(w)
        a = Mul(x, w) b = Mul(a, w) y = Add(b, copied)
    }"""
    module = to_module(parse(text, w=np.array([1.0, 2.0, 3.0], np.float32)))
    assert [k for k, _ in module.named_parameters()] == ["w", "copied"]
    module(torch.ones(1, 3)).sum().backward()
    assert module.w.grad.tolist() == [2.0, 4.0, 6.0]
    assert module.copied.grad.tolist() == [1.0, 1.0, 1.0]


def test_an_identity_between_a_weight_and_its_only_reader_is_the_weight():
    text = "g (float[N, 3] x) => (float[N, 3] y) { same = Identity(w) y = Mul(x, same) }"
    module = to_module(parse(text, w=np.array([1.0, 2.0, 3.0], np.float32)))
    assert [k for k, _ in module.named_parameters()] == ["w"]


def test_constants_of_all_kinds():
    """Weights in Constant nodes train (paddle2onnx keeps them there); masks and settings do not."""
    text = """g (float[N, 3] x) => (float[N, 3] y) {
        w = Constant<value = float[3] {1.0, 2.0, 3.0}>()
        low = Constant<value_float = -1.0>()
        a = Mul(x, w) b = Clip(a, low, high) c = Add(b, mask) d = Mul(c, one)
        y = Add(d, shift)
    }"""
    module = to_module(
        parse(
            text, high=np.float32(9), mask=np.array([0, -np.inf, 0], np.float32),
            one=np.array([2.0], np.float32), shift=np.array([[1.0, 1, 1]], np.float32),
        )
    )  # fmt: skip
    assert {k for k, _ in module.named_parameters()} == {"w", "shift"}
    assert {k for k, _ in module.named_buffers()} == {"mask", "one"}
    assert set(module.state_dict()) == {"w", "shift"}


def test_overridable_initializers_are_parameters_and_no_inputs():
    model = affine("w", "b")
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [3]))
    module = to_module(model)
    assert module.input_names == ("x",)
    assert {k for k, _ in module.named_parameters()} == {"w", "b"}

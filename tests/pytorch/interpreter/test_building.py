"""From a graph to a program: what is refused, left out, and computed as the graph says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch.interpreter.texts import parse

from normsurgery.errors import GraphError, UnsafeModelError, UnsupportedModelError
from normsurgery.pytorch import to_module
from normsurgery.pytorch.interpreter import table
from normsurgery.pytorch.interpreter.operators import activation

REFUSED = {
    "custom": ("y = custom.Magic(x)", "Magic .*no operator Magic of 'custom'"),
    "unknown": ("y = Det(x)", "no operator Det$"),
    "attribute": ("y = Relu<wider = 1>(x)", "Relu .*attribute 'wider' is not known"),
    "mode": ('y = Pad<mode = "other">(x, two)', "Pad .*mode 'other' is not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(case):
    node, message = REFUSED[case]
    model = parse(f"g (float[2, 2] x) => (float[2, 2] y) {{ {node} }}", two=np.zeros(4, np.int64))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        to_module(model, check=False)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "NS-E306"


def test_what_no_output_needs_is_left_out():
    model = parse("g (float[2, 2] x) => (float[2, 2] y) { z = custom.Magic(x) y = Relu(x) }")
    assert to_module(model, check=False)(-torch.ones(2, 2)).sum() == 0


def test_a_tensor_of_absurd_size_is_refused():
    text = "g (float[1] x) => (float[N] y) { big = ConstantOfShape(shape) y = Add(x, big) }"
    with pytest.raises(UnsafeModelError, match="too large"):
        to_module(parse(text, shape=np.array([2**40])), check=False)


def test_constant_inputs_that_do_not_fit_are_an_error_of_the_graph():
    text = "g (float[1] x) => (float[N] y) { c = Concat<axis = 0>(a, b) y = Add(x, c) }"
    model = parse(text, a=np.zeros((1, 1), np.int64), b=np.zeros(2, np.int64))
    with pytest.raises(GraphError, match=r"Concat .*fails on its constant inputs"):
        to_module(model, check=False)


def test_a_batch_of_another_size_goes_through_computed_shapes():
    text = """g (float[N, 2, 3] x) => (float[N, M] y) {
        shape = Shape(x) zero = Constant<value_int = 0>() n = Gather(shape, zero)
        axis = Constant<value_ints = [0]>() row = Unsqueeze(n, axis)
        rest = Constant<value_ints = [-1]>() both = Concat<axis = 0>(row, rest)
        y = Reshape(x, both)
    }"""
    module = to_module(parse(text))
    for n in (1, 5):
        assert module(torch.zeros(n, 2, 3)).shape == (n, 6)


def test_shapes_are_computed_in_the_models_own_types_in_float64_too():
    """floor(7 · 1.4) from a float32 scale; the module's doubles do not come in."""
    text = """g (float[1, 1, H] x) => (float[1, 1, M] y) {
        shape = Shape(x) wide = Cast<to = 1>(shape) scaled = Mul(wide, factor)
        sizes = Cast<to = 7>(scaled) y = Resize<mode = "nearest">(x, , , sizes)
    }"""
    model = parse(text, factor=np.array([1, 1, 1.4], np.float32))
    x = torch.arange(7.0).reshape(1, 1, 7)
    module = to_module(model, shapes={"x": (1, 1, 7)})
    expected = module(x)
    assert torch.equal(module.double()(x).float(), expected)


def test_every_operator_family_is_found_by_being_there():
    entries = table.load()
    assert len(entries) > 160
    assert entries["", "LeakyRelu"] is activation.leaky_relu
    with pytest.raises(ValueError, match="two entries for Relu"):
        table.operator("Relu")(lambda _: torch.relu)

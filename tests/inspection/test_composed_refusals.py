"""What is no norm over samples, each for one thing that is missing, is not listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import weights
from inspection.composing import (
    CHANNELS,
    GROUP,
    LAYER,
    LAYERED,
    RMS,
    SPELLINGS,
    found,
    made,
)

import normsurgery

BROKEN = {
    "other axes of the mean": ("m = ReduceMean(x, along)", "m = ReduceMean(x, rows)"),
    "other axes of the variance": ("v = ReduceMean(q, along)", "v = ReduceMean(q, rows)"),
    "a power that is no square": ("Pow(d, two)", "Pow(d, three)"),
    "the squares of the value": ("Pow(d, two)", "Mul(x, x)"),
    "a product of two": ("Pow(d, two)", "Mul(d, x)"),
    "the largest square": ("v = ReduceMean(q", "v = ReduceMax(q"),
    "the squared length": ("v = ReduceMean(q", "v = ReduceSum(q"),
    "another factor": ("e = Add(v, eps)", "u = Mul(v, less)\n e = Add(u, eps)"),
    "a sum divided by too few": (
        "v = ReduceMean(q, along)", "u = ReduceSum(q, along)\n v = Div(u, half)"),
    "an epsilon for each channel": ("Add(v, eps)", "Add(v, many)"),
    "a negative epsilon": ("Add(v, eps)", "Add(v, below)"),
    "an epsilon outside of the root": ("w = Sqrt(e)", "r = Sqrt(v)\n w = Add(r, eps)"),
    "no root": ("w = Sqrt(e)", "w = Identity(e)"),
    "a product with the deviation": ("n = Div(d, w)", "n = Mul(d, w)"),
    "the deviation on top": ("n = Div(d, w)", "n = Div(w, d)"),
    "the value over its deviation": ("n = Div(d, w)", "n = Div(x, w)"),
    "another value over it": ("n = Div(d, w)", "z = Relu(d)\n n = Div(z, w)"),
}  # fmt: skip


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_no_layer_norm(change: tuple[str, str]) -> None:
    """A negative test a condition, each broken alone."""
    assert change[0] in LAYER
    assert found(made(LAYER.replace(*change), along=(3,))) == []


@pytest.mark.parametrize(
    "change",
    [
        ("m = ReduceMean(x,", "z = Relu(x)\n m = ReduceMean(z,"),
        ("m = ReduceMean(x,", "m = ReduceSum(x,"),
        ("d = Sub(x, m)", "d = Sub(m, x)"),
    ],
)
def test_another_difference_over_the_root_of_its_squares(change: tuple[str, str]) -> None:
    """That is an RMS norm of the difference, and no layer norm."""
    assert change[0] in LAYER
    (norm,) = found(made(LAYER.replace(*change), along=(3,)))
    assert (norm.kind, norm.nodes[0].op_type) == ("RMSNormalization", "Pow")


BROKEN_RMS = {
    "other powers": ("Mul(x, x)", "Pow(x, three)"),
    "the squares of another value": ("Mul(x, x)", "Mul(z, z)"),
    "the length": ("v = ReduceMean(q", "v = ReduceSum(q"),
    "an unbiased one": ("e = Add(v, eps)", "u = Mul(v, more)\n e = Add(u, eps)"),
    "the mean of the values": ("v = ReduceMean(q", "v = ReduceMean(x"),
    "a product with the root": ("Mul(x, r)", "Mul(x, w)"),
    "another value over it": ("Mul(x, r)", "Mul(z, r)"),
    "an epsilon outside of the root": ("w = Sqrt(e)", "u = Sqrt(v)\n w = Add(u, eps)"),
}


@pytest.mark.parametrize("change", BROKEN_RMS.values(), ids=BROKEN_RMS)
def test_what_is_no_rms_norm(change: tuple[str, str]) -> None:
    assert change[0] in RMS
    assert found(made("z = Relu(x)\n" + RMS.replace(*change), along=(3,))) == []


def test_statistics_of_a_batch_and_of_a_constant() -> None:
    """Batch normalization in training mode, and the standardisation of a weight."""
    assert found(made(LAYER, along=(0, 2, 3), **CHANNELS)) == []
    assert found(made(RMS, along=(0,), s=weights(6))) == []
    weight = LAYER.replace("(x,", "(C,").replace("y = Add(a, b)", "z = Add(a, b)\n y = Mul(z, x)")
    assert found(made(weight)) == []


@pytest.mark.parametrize(
    "s", [weights(5, 1), weights(4, 1, 1), weights(5, 6), weights(1), np.array(3.0)]
)
def test_a_scale_along_other_axes_is_what_follows(s: Any) -> None:
    """Of a norm over the last axis; also one number. Then the bias is not its own, either."""
    (norm,) = found(made(LAYER, s=s))
    assert (norm.scale, norm.bias, norm.last.output[0]) == (None, None, "n")


@pytest.mark.parametrize("s", [weights(5, 1), np.array(3.0)])
def test_a_factor_between_that_is_no_scale(s: Any) -> None:
    before = SPELLINGS["scaled before"]
    assert found(made(before, s=s)) == []


def test_a_residual_is_no_bias() -> None:
    (norm,) = found(made(LAYER.replace("Add(a, b)", "Add(a, x)")))
    assert norm.last.output[0] == "a"
    (norm,) = found(made(LAYER.replace("y = Add(a, b)", "c = Add(a, b)\n y = Add(c, n)")))
    assert (norm.last.output[0], norm.scale) == ("n", None)  # what is read twice ends it


BROKEN_GROUP = {
    "another shape behind": ("Reshape(i, h)", "Reshape(i, other)"),
    "samples in one": ("Reshape(x, apart)", "Reshape(x, flat)"),
    "groups that do not divide the channels": ("Reshape(x, apart)", "Reshape(x, thirds)"),
    "another value behind": ("n = Reshape(i, h)", "k = Relu(i)\n n = Reshape(k, h)"),
    "read twice": ("y = Add(a, b)", "k = Reshape(i, h)\n y = Add(a, k)"),
}


@pytest.mark.parametrize("change", BROKEN_GROUP.values(), ids=BROKEN_GROUP)
def test_what_is_no_group_norm(change: tuple[str, str]) -> None:
    """The InstanceNormalization is listed as what it is."""
    assert change[0] in GROUP
    size = {"Reshape(x, flat)": 4, "Reshape(x, thirds)": 3}.get(change[1], 2)
    text = GROUP.replace(*change)
    if size == 4:
        text = text.replace("one,", "ones,").replace("zero)", "zeros)")
    model = made(text, one=np.ones(size), zero=np.zeros(size),
                 ones=np.ones(4), zeros=np.zeros(4), **CHANNELS)  # fmt: skip
    assert found(model) == []
    kinds = [norm.op_type for norm in normsurgery.inspect(model).norms]
    merged = ["Mul, Add"] if "Relu" in change[1] else []  # its Mul and Add are behind a Relu
    assert kinds == ["InstanceNormalization", *merged]


@pytest.mark.parametrize(
    ("axis", "ones"), [(1, np.ones((2, 60))), (-1, weights(60)), (2, np.linspace(0, 1, 60))]
)
def test_a_layer_norm_between_reshapes_that_is_no_group_norm(axis: int, ones: Any) -> None:
    text = LAYERED.replace("<epsilon", f"<axis = {axis}, epsilon")
    assert found(made(text, ones=ones, **CHANNELS)) == []


def test_a_scale_that_a_caller_may_override() -> None:
    """Scale and bias are inputs with a default (IR 4 on), or come out of another input."""
    model = made(LAYER)
    tensors = {t.name: t for t in model.graph.initializer}
    for name in ("s", "b"):
        model.graph.input.add(name=name).type.tensor_type.elem_type = 11
        model.graph.input[-1].type.tensor_type.shape.dim.add(dim_value=tensors[name].dims[0])
    (norm,) = normsurgery.inspect(model).norms
    assert (norm.scale_constant, norm.bias_constant, norm.scale) == (False, False, None)
    (frozen,) = normsurgery.inspect(model, freeze_inputs=True).norms
    assert (frozen.scale_constant, frozen.bias_constant) == (True, True)
    assert frozen.parts == norm.parts

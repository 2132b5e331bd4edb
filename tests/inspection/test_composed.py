"""Norms over samples that an exporter took apart: found, and read rightly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import parse, weights
from inspection.composing import (
    CHANNELS,
    EPSILON,
    GROUP,
    LAYER,
    LAYERED,
    RMS,
    SPELLINGS,
    TENSORS,
    checked,
    made,
)

import normsurgery


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_a_layer_norm(text: str) -> None:
    assert text != LAYER
    norm = checked(made(text))
    assert (norm.kind, norm.axes, norm.channels) == ("LayerNormalization", (3,), 6)
    assert norm.epsilon == EPSILON
    assert not norm.unbiased


@pytest.mark.parametrize(
    ("along", "shape", "kind", "channels"),
    [
        ((-1,), (6,), "LayerNormalization", 6),
        ((3, 2), (5, 6), "LayerNormalization", 30),
        ((1, 2, 3), (4, 5, 6), "LayerNormalization", 120),
        ((1, 2, 3), (4, 1, 1), "LayerNormalization", 120),
        ((1,), (4, 1, 1), "LayerNormalization", 4),
        ((2, 3), (4, 1, 1), "InstanceNormalization", 4),
        ((1, 2), (6,), "InstanceNormalization", 6),
    ],
)
def test_axes_and_scale_tell_the_kind(along: Any, shape: Any, kind: str, channels: int) -> None:
    norm = checked(made(LAYER, along=along, s=weights(*shape, seed=1), b=weights(*shape, seed=2)))
    assert (norm.kind, norm.axes) == (kind, tuple(sorted(i % 4 for i in along)))
    assert norm.channels == channels
    assert len(norm.nodes) == 9


@pytest.mark.parametrize(
    ("along", "kind"),
    [
        ((3,), "LayerNormalization"),
        ((1,), "LayerNormalization"),
        ((2, 3), "InstanceNormalization"),
        ((1, 2, 3), "LayerNormalization"),
    ],
)
def test_without_scale_and_bias(along: Any, kind: str) -> None:
    text = LAYER.replace("n = Div(d, w)\n  a = Mul(n, s)\n  y = Add(a, b)", "y = Div(d, w)")
    norm = checked(made(text, along=along))
    assert (norm.kind, norm.scale, norm.bias) == (kind, None, None)


def test_an_unbiased_variance() -> None:
    """Σ/(n − 1) of n = 6 elements, as ``torch.var`` makes it; epsilon is that of the mean."""
    norm = checked(made(LAYER.replace("Add(v, eps)", "Add(u, eps)").replace(
        "  e = Add", "  u = Mul(v, more)\n  e = Add")))  # fmt: skip
    assert norm.unbiased
    assert norm.epsilon == pytest.approx(EPSILON * 5 / 6, rel=1e-15)


@pytest.mark.parametrize(
    ("along", "shape"), [((-1,), (6,)), ((1,), (4, 1, 1)), ((2, 3), (5, 6)), ((-1,), None)]
)
def test_rms_norm(along: Any, shape: Any) -> None:
    text = RMS if shape else RMS.replace("n = Mul(x, r)\n  y = Mul(n, s)", "y = Mul(x, r)")
    norm = checked(made(text, along=along, s=weights(*(shape or (6,)), seed=1)))
    assert (norm.kind, norm.epsilon) == ("RMSNormalization", EPSILON)
    assert (norm.scale is None) == (shape is None)


@pytest.mark.parametrize(
    "text",
    [
        RMS.replace("Mul(x, x)", "Pow(x, two)"),
        RMS.replace("r = Reciprocal(w)\n  n = Mul(x, r)", "n = Div(x, w)"),
        RMS.replace("n = Mul(x, r)\n  y = Mul(n, s)", "n = Mul(x, s)\n  y = Mul(n, r)"),
    ],
)
def test_every_spelling_of_an_rms_norm(text: str) -> None:
    assert checked(made(text)).kind == "RMSNormalization"


SUMMED = (
    LAYER.replace("  m = ReduceMean(x,", "  x3 = Reshape(x, apart)\n  m = ReduceMean(x3,")
    .replace("Sub(x, m)", "Sub(x3, m)")
    .replace("n = Div(d, w)", "i = Div(d, w)\n  h = Shape(x)\n  n = Reshape(i, h)")
)


def test_an_instance_norm_in_another_type_between_reshapes() -> None:
    """As ``convert`` writes it of bfloat16, which the operator does not take before 22."""
    cast = GROUP.replace("i = ", "f = Cast<to=11>(g)\n  j = ").replace(
        "h = Shape", "i = Cast<to=11>(j)\n  h = Shape"
    )
    norm = checked(made(cast.replace(">(g, one", ">(f, one"), **CHANNELS))
    assert (norm.kind, norm.num_groups, len(norm.nodes)) == ("GroupNormalization", 2, 7)


@pytest.mark.parametrize("text", [GROUP, LAYERED, SUMMED], ids=["instance", "layer", "arithmetic"])
def test_group_norm_between_reshapes(text: str) -> None:
    norm = checked(made(text, along=(2,), ones=np.ones(60), **CHANNELS))
    assert (norm.kind, norm.num_groups, norm.channels) == ("GroupNormalization", 2, 4)
    assert norm.epsilon == EPSILON
    assert [n.op_type for n in norm.nodes][-3:] == ["Reshape", "Mul", "Add"]
    assert len(norm.nodes) == (11 if text == SUMMED else 5)


def test_scale_of_groups_and_scale_of_channels_are_one() -> None:
    """s·(s_g·x̂ + b_g) + b, with two channels a group."""
    model = made(GROUP, one=weights(2, seed=4), zero=weights(2, seed=5), **CHANNELS)
    norm = checked(model)
    expected = CHANNELS["s"].ravel() * np.repeat(weights(2, seed=4), 2)
    np.testing.assert_array_equal(norm.scale and norm.scale.values, expected)


def test_one_channel_a_group_with_its_scale_apart() -> None:
    norm = checked(made(GROUP, one=np.ones(4), zero=np.zeros(4), apart=[0, 4, -1], **CHANNELS))
    assert (norm.kind, norm.num_groups, norm.axes) == ("InstanceNormalization", None, (2, 3))


def test_scale_and_bias_of_shapes_that_inference_does_not_tell() -> None:
    """PyTorch's dynamo exporter casts both like the value, and computes where axes are put in."""
    made_of = "f{0} = Unsqueeze({0}, k)\n t{0} = CastLike(f{0}, {1})\n"
    cast = LAYER.replace("a = Mul(n, s)", f"{made_of.format('s', 'n')} a = Mul(n, ts)").replace(
        "y = Add(a, b)", f"{made_of.format('b', 'a')} y = Add(a, tb)"
    )
    cast = "k = Sub(rows, rows)" + cast
    assert cast != LAYER
    norm = checked(made(cast))
    assert norm.scale is not None
    assert norm.bias is not None


def test_entries_name_the_nodes_and_what_becomes_of_them() -> None:
    """A Conv without padding behind takes scale and bias; the norm itself stays."""
    model = made(
        GROUP.replace("y =", "z =") + "\n  y = Conv(z, K)", K=weights(4, 4, 1, 1), **CHANNELS
    )
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    inspection = normsurgery.inspect(model)
    (norm,) = inspection.norms
    assert (norm.op_type, norm.num_groups) == ("decomposed GroupNormalization", 2)
    assert norm.parts is not None
    assert (norm.parts.first, norm.parts.last, norm.parts.count) == ("node_g", "node_z", 5)
    assert (norm.outcome, norm.detail) == ("folds", "scale and bias: into Conv `node_y`")
    assert (norm.convert, "--to batch" in norm.convert_detail) == ("sample-norm", True)
    assert norm.scale is not None
    assert norm.scale.high == CHANNELS["s"].max()
    assert norm.bias is not None
    assert norm.bias.low == CHANNELS["b"].min()
    assert (inspection.whole, inspection.decomposed) == (0, 1)
    told = inspection.to_dict()
    assert (told["whole"], told["decomposed"]) == (0, 1)
    assert told["norms"][0]["parts"] == {"first": "node_g", "last": "node_z", "count": 5}


def test_a_scale_of_ones_goes_with_the_bias() -> None:
    text = LAYER.replace("y =", "z =") + "\n  u = MatMul(z, M)"
    tensors = {"s": np.ones(6), "M": weights(6, 6)}
    (norm,) = normsurgery.inspect(made(text + "\n  y = Add(u, b)", **tensors)).norms
    assert norm.outcome == "folds"
    assert norm.detail.startswith("scale and bias: into ")
    (norm,) = normsurgery.inspect(made(text.replace("u =", "y ="), **tensors)).norms
    assert norm.detail.startswith("scale: into ")  # no Add takes the shift, so the bias stays
    assert "; bias: Mul (makes `a`) has no bias" in norm.detail


def test_scale_and_bias_that_stay_are_told_apart() -> None:
    """A Relu lets neither pass; the bias lies behind the scale."""
    model = made(LAYER.replace("y =", "z =") + "\n  y = Sigmoid(z)")
    (norm,) = normsurgery.inspect(model).norms
    assert norm.outcome != "folds"
    assert norm.detail.startswith("scale: ")
    assert "; bias: " in norm.detail
    assert norm.convert == "no-target"


def test_norms_in_a_body_are_listed() -> None:
    """Where it declares its values: ONNX's inference tells nothing of those of bodies."""
    body = LAYER.replace("y =", "t =")
    whole = ", ".join(f"double[N, 4, 5, 6] {name}" for name in "dqna")
    reduced = ", ".join(f"double[N, 4, 5, 1] {name}" for name in "mvew")
    text = f"""g (double[N, 4, 5, 6] x, bool c) => (double[N, 4, 5, 6] y) {{
      y = If (c) <
        then_branch = yes () => (double[N, 4, 5, 6] t) <{whole}, {reduced}> {{ {body} }},
        else_branch = no () => (double[N, 4, 5, 6] u) {{ u = Identity(x) }}
      >
    }}"""
    used = {k: v for k, v in TENSORS.items() if k in {"two", "eps"}}
    model = parse(text, along=np.array([-1]), s=weights(6), b=weights(6), **used)
    (norm,) = normsurgery.inspect(model).norms
    assert (norm.node, norm.op_type) == ("t", "decomposed LayerNormalization")

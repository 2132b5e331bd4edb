"""Norms over samples that an exporter took apart: found, read rightly, and nothing else.

What is read of a norm is put into its formula, in NumPy float64, and has to give what the graph
gives; so an axis, an epsilon or a scale that was misread cannot hide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import feeds, parse, run, weights

import normsurgery
from normsurgery import models
from normsurgery.constants import Limits
from normsurgery.graph import Graph
from normsurgery.inspection import composed
from normsurgery.inspection.composed import Composed

EPSILON = 2.0**-10
LAYER = """
  m = ReduceMean(x, along)
  d = Sub(x, m)
  q = Pow(d, two)
  v = ReduceMean(q, along)
  e = Add(v, eps)
  w = Sqrt(e)
  n = Div(d, w)
  a = Mul(n, s)
  y = Add(a, b)"""
RMS = """
  q = Mul(x, x)
  v = ReduceMean(q, along)
  e = Add(v, eps)
  w = Sqrt(e)
  r = Reciprocal(w)
  n = Mul(x, r)
  y = Mul(n, s)"""
GROUP = """
  g = Reshape(x, apart)
  i = InstanceNormalization<epsilon = 0.0009765625>(g, one, zero)
  h = Shape(x)
  n = Reshape(i, h)
  a = Mul(n, s)
  y = Add(a, b)"""
# Constants that a text may read, besides ``along``, ``s`` and ``b``.
TENSORS: dict[str, Any] = {
    "two": np.array(2.0), "eps": np.array(EPSILON), "unit": np.array(1.0), "half": np.array(0.5),
    "minus": np.array(-0.5), "three": np.array(3.0), "below": np.array(-EPSILON),
    "many": np.full((4, 1, 1), EPSILON), "six": np.array(6.0), "more": np.array(6 / 5),
    "less": np.array(0.9), "apart": np.array([0, 2, -1]), "one": np.ones(2), "zero": np.zeros(2),
    "five": np.array(5.0), "batch": np.array([0]), "rows": np.array([2]), "last": np.array([-1]),
    "first": np.array([1, 4, 5, 6]), "thirds": np.array([0, 3, -1]), "flat": np.array([1, -1, 60]),
    "wide": np.array([0, 4, -1]), "other": np.array([0, 5, 4, 6]), "C": weights(4, 5, 6),
}  # fmt: skip


def made(text: str, *, along: Any = (-1,), s: Any = None, b: Any = None, **more: Any) -> Any:
    """Return a model of x (N, 4, 5, 6); s and b: 6 values, along the last axis, by default."""
    known = {
        **TENSORS,
        "along": np.array(along, np.int64),
        "s": weights(6, seed=1) if s is None else s,
        "b": weights(6, seed=2) if b is None else b,
        **more,
    }
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: values for name, values in known.items() if name in words}
    head = "g (double[N, 4, 5, 6] x) => (double[N, 4, 5, 6] y) {"
    return parse(head + text + "}", **used)


def found(model: Any) -> list[Composed]:
    return list(composed.find(Graph(models.take(model)[0]).main, Limits()))


def formula(norm: Composed, x: Any) -> Any:
    """Return ``scale·(x − mean)/√(var + epsilon) + bias`` of what was read of a norm."""
    shape, axes = x.shape, norm.axes
    values = x
    if norm.num_groups is not None:
        values, axes = x.reshape(shape[0], norm.num_groups, -1), (2,)
    raw = norm.kind == "RMSNormalization"
    centred = values if raw else values - values.mean(axes, keepdims=True)
    count = np.prod([values.shape[i] for i in axes])
    var = np.square(centred).sum(axes, keepdims=True) / (count - norm.unbiased)
    # its epsilon is that of the mean of squares
    extra = norm.epsilon * (count / (count - 1) if norm.unbiased else 1)
    result = (centred / np.sqrt(var + extra)).reshape(shape)
    for what, factor in (("scale", norm.scale), ("bias", norm.bias)):
        if factor is not None:
            c = np.asarray(factor.values)
            if norm.kind in {"GroupNormalization", "InstanceNormalization"}:
                (axis,) = {1, 2, 3} - set(norm.axes) if norm.num_groups is None else {1}
                c = c.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            result = result * c if what == "scale" else result + c
    return result


def checked(model: Any) -> Composed:
    """Return the one norm of a model whose output is that norm of its input."""
    (norm,) = found(model)
    assert norm.last.output[0] == "y"
    inputs = feeds(model)
    np.testing.assert_allclose(run(model, inputs)[0], formula(norm, inputs["x"]), atol=1e-12)
    return norm


SPELLINGS = {
    "a square by Mul": LAYER.replace("Pow(d, two)", "Mul(d, d)"),
    "a root by Pow": LAYER.replace("Sqrt(e)", "Pow(e, half)"),
    "one over the root": LAYER.replace("n = Div(d, w)", "r = Reciprocal(w)\n n = Mul(d, r)"),
    "one over the root by Div": LAYER.replace("n = Div(d, w)", "r = Div(unit, w)\n n = Mul(r, d)"),
    "one over the root by Pow": LAYER.replace("w = Sqrt(e)", "r = Pow(e, minus)").replace(
        "Div(d, w)", "Mul(d, r)"
    ),
    "two differences": LAYER.replace("q = Pow(d, two)", "f = Sub(x, m)\n q = Pow(f, two)"),
    "scaled before": LAYER.replace(
        "n = Div(d, w)\n  a = Mul(n, s)", "n = Mul(s, d)\n a = Div(n, w)"
    ),
    "operands turned": LAYER.replace("Mul(n, s)", "Mul(s, n)").replace("Add(a, b)", "Add(b, a)"),
    "epsilon in front": LAYER.replace("Add(v, eps)", "Add(eps, v)"),
    "axes taken out and put back": LAYER.replace(
        "v = ReduceMean(q, along)",
        "v0 = ReduceMean<keepdims=0>(q, along)\n v = Unsqueeze(v0, last)",
    ),
    "statistics in double precision": LAYER.replace(
        "q = Pow(d, two)", "f = Cast<to=11>(d)\n q = Pow(f, two)"
    ),
    "a sum divided by its number": LAYER.replace(
        "v = ReduceMean(q, along)", "u = ReduceSum(q, along)\n v = Div(u, six)"
    ),
}  # fmt: skip


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


CHANNELS = {"s": weights(4, 1, 1, seed=1), "b": weights(4, 1, 1, seed=2)}
LAYERED = """
  g = Reshape(x, apart)
  i = LayerNormalization<epsilon = 0.0009765625>(g, ones)
  h = Shape(x)
  n = Reshape(i, h)
  a = Mul(n, s)
  y = Add(a, b)"""
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

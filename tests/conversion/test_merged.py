"""A BatchNormalization whose statistics an exporter merged into Mul and Add is named, not lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import bn, parse, weights
from onnx import ModelProto

import normsurgery

MERGED = """
g (double[n, 16, h, w] x) => (double[n, 16, h, w] y) {
    c = Conv (x, W)
    s = Mul (c, a)
    z = Add (s, b)
    y = Relu (z)
}"""


def model(text: str = MERGED, **tensors: Any) -> ModelProto:
    p = bn(16)
    given = {
        "W": weights(16, 16, 1, 1), "a": p["scale"].reshape(16, 1, 1), "b": p["B"].reshape(16, 1, 1)
    }  # fmt: skip
    given.update(tensors)
    return parse(text, **{k: v for k, v in given.items() if k in text.replace("relu", "")})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("Add (s, b)", "Sub (s, b)"),
        ("Add (s, b)", "Add (b, s)"),
        ("Mul (c, a)", "Div (c, a)"),
        ("c = Conv (x, W)", "c = Sigmoid (x)"),  # pre-activation
    ],
)
def test_it_is_left_with_a_reason(old: str, new: str) -> None:
    merged = model(MERGED.replace(old, new))
    (left,) = normsurgery.convert(merged).report.left
    assert (left.node, left.output, left.was, left.slug) == ("z", "z", "Mul, Add", "no-statistics")
    assert "mean and deviation" in left.reason
    (norm,) = normsurgery.inspect(merged).norms
    assert (norm.op_type, norm.convert, norm.convert_detail) == (left.was, left.slug, left.reason)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("c = Conv (x, W)", "c = Identity (x)"),  # pixels of the input
        ("Mul (c, a)", "Div (a, c)"),  # no affine map
        ("Add (s, b)", "Sub (b, s)"),  # the other way round
        ("Add (s, b)", "Add (s, x)"),  # no constant
        ("y = Relu (z)", "y = Add (z, s)"),  # read in between
        ("c = Conv (x, W)", "c = InstanceNormalization (x, i, i)"),  # its scale and bias
        ("c = Conv (x, W)", "e = Sqrt (x)\n c = Div (x, e)"),  # a norm that was taken apart
        ("c = Conv (x, W)", "e = Reciprocal (x)\n c = Mul (x, e)"),
    ],
)
def test_what_is_none_is_not_listed(old: str, new: str) -> None:
    assert old in MERGED
    text = MERGED.replace(old, new)
    tensors = {"i": np.ones(16)} if " i" in text else {}
    other = model(text, **tensors)
    assert not normsurgery.convert(other).report.left
    assert [n.op_type for n in normsurgery.inspect(other).norms if n.op_type == "Mul, Add"] == []


def test_constants_of_another_axis_or_one_number_are_none() -> None:
    for shape in ((1, 16, 1), (1, 1, 1)):
        a = np.ones(shape)
        other = model(MERGED.replace("[n, 16, h, w]", "[n, 16, 16, 16]"), a=a, b=a)
        assert not normsurgery.convert(other).report.left


def test_frozen_is_what_it_is_already() -> None:
    assert not normsurgery.convert(model(), "affine").report.left


def test_what_convert_writes_is_none() -> None:
    text = MERGED.replace(
        "s = Mul (c, a)\n    z = Add (s, b)", "z = BatchNormalization (c, scale, B, mean, var)"
    )
    p = bn(16)
    made = parse(text, W=weights(16, 16, 1, 1), **p)
    for options in ({}, {"groups": 2}, {"to": "instance"}, {"encoding": "instance"}):
        once = normsurgery.convert(made, **{"affine": "fold", **options}).model
        assert not normsurgery.convert(once).report.left
    frozen = normsurgery.convert(made, "affine").model
    assert [k.slug for k in normsurgery.convert(frozen).report.left] == ["no-statistics"]


def test_the_way_that_the_reason_names_leads_to_a_converted_norm() -> None:
    text = MERGED.replace("y = Relu (z)", "r = Relu (z)\n y = Conv (r, V)")
    text = text.replace("double[", "float[")
    merged = parse(
        text,
        **{
            k: np.float32(v)
            for k, v in {
                "W": weights(16, 16, 1, 1), "V": weights(16, 16, 1, 1, seed=3),
                "a": bn(16)["scale"].reshape(16, 1, 1), "b": bn(16)["B"].reshape(16, 1, 1),
            }.items()
        },
    )  # fmt: skip
    folded = normsurgery.fold(merged).model
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Relu", "Conv"]
    x = np.random.default_rng(0).normal(size=(8, 16, 5, 4)).astype(np.float32)
    unfolded = normsurgery.unfold(folded, {"x": x}).model
    assert normsurgery.validate(merged, unfolded, sets=2, isolate=False).ok
    (one,) = normsurgery.convert(unfolded).report.converted
    assert (one.was, one.to, one.channels) == ("BatchNormalization", "group", 16)

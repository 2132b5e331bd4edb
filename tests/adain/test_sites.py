"""Instance norms whose scale and bias are computed of another input, however they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from adain.networks import (
    ARITHMETIC,
    EPSILON,
    FLAT,
    NATIVE,
    SCALED_FIRST,
    UNBIASED,
    adain,
)
from graphs import parse, weights
from onnx import numpy_helper

import normsurgery
from normsurgery import models
from normsurgery.adain import sites
from normsurgery.adain.statistics import Reader
from normsurgery.constants import Limits
from normsurgery.graph import Graph

BIASED = FLAT.replace("COUNT\n  e = Add(u,", "e = Add(v2,")


def found(model: Any) -> list[Any]:
    return list(sites(Graph(models.take(model)[0]).main, Limits()))


@pytest.mark.parametrize(
    "how", [NATIVE, ARITHMETIC, SCALED_FIRST, BIASED, FLAT.replace("COUNT", UNBIASED)]
)
def test_every_spelling_is_found(how: str) -> None:
    (site,) = found(adain(how))
    assert site.styles == ("style",)
    assert site.epsilon in {None, EPSILON} or how.count("f1")
    (norm,) = [n for n in normsurgery.inspect(adain(how)).norms if n.op_type == "AdaIN"]
    assert "--fix style=FILE" in norm.detail
    assert norm.channels == 4


def test_scale_and_bias_of_a_linear_layer() -> None:
    """StyleGAN's: scale and bias come out of one Gemm; and one of them may be missing."""
    encoder = """
      g = MatMul(style, G)
      h = Reshape(g, apart)
      s, b = Split<axis=1, num_outputs=2>(h)"""
    shifted = NATIVE.replace("a = Mul(n, s)", "").replace("Add(a, b)", "Add(n, b)")
    scaled = NATIVE.replace("Add(a, b)", "Identity(a)")
    for how in (NATIVE, shifted, scaled):
        model = parse(
            f"""g (double[N, 4, H, W] c, double[1, 5] style) => (double[N, 4, H, W] y) {{
              {encoder}
              {how}
            }}""",
            G=weights(5, 8), apart=np.array([1, 8, 1, 1]), ones=np.ones(4), zeros=np.zeros(4),
        )  # fmt: skip
        assert [site.styles for site in found(model)] == [("style",)]


def test_second_of_two_layers_depends_on_the_style_already() -> None:
    first = NATIVE.replace("y = ", "y1 = ")
    second = """
      n2 = InstanceNormalization<epsilon = 0.0009765625>(y1, ones, zeros)
      a2 = Mul(n2, s)
      y = Add(a2, b)"""
    assert len(found(adain(first + second))) == 2


@pytest.mark.parametrize(
    "how",
    [
        NATIVE.replace("Mul(n, s)", "Mul(n, g)").replace("y = Add(a, b)", "y = Identity(a)"),
        NATIVE.replace("Mul(n, s)", "Sigmoid(n)"),
    ],
)
def test_norms_without_a_style(how: str) -> None:
    """A gate of the same features (squeeze and excitation), and no scale at all."""
    gate = "p = GlobalAveragePool(c)\n g = Sigmoid(p)\n"
    model = parse(
        f"""g (double[N, 4, H, W] c) => (double[N, 4, H, W] y) {{
          b = GlobalAveragePool(c)
          {gate if "g)" in how else ""}
          {how}
        }}""",
        ones=np.ones(4), zeros=np.zeros(4),
    )  # fmt: skip
    assert found(model) == []
    assert [n.op_type for n in normsurgery.inspect(model).norms] == ["InstanceNormalization"]


BROKEN = [
    ("other axes", ("m = ReduceMean(c, spatial)", "m = ReduceMean(c, width)")),
    ("another mean", ("d = Sub(c, m)", "d = Sub(c, b)")),
    ("the mean of the squares of x", ("q = Mul(d, d)", "q = Mul(c, c)")),
    ("a product with another value", ("q = Mul(d, d)", "q = Mul(d, c)")),
    ("a power that is no square", ("q = Mul(d, d)", "q = Pow(d, three)")),
    ("the variance of the style", ("w = Sqrt(e)", "w = Sqrt(et)")),
    ("an epsilon for each channel", ("e = Add(v, eps)", "e = Add(v, many)")),
    (
        "epsilon outside of the root",
        ("e = Add(v, eps)\n  w = Sqrt(e)", "r = Sqrt(v)\n  w = Add(r, eps)"),
    ),
    ("no root", ("w = Sqrt(e)", "w = Identity(e)")),
    ("no mean of squares", ("v = ReduceMean(q", "v = ReduceMax(q")),
]


@pytest.mark.parametrize(("why", "change"), BROKEN, ids=[w for w, _ in BROKEN])
def test_what_is_no_instance_norm(why: str, change: tuple[str, str]) -> None:
    """A negative test a condition, each broken alone."""
    assert change[0] in ARITHMETIC
    model = adain(ARITHMETIC.replace(*change))
    more = {"width": np.array([3]), "three": np.array(3.0), "many": np.full((4, 1, 1), EPSILON)}
    for name, values in more.items():
        if name in change[1]:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    assert found(model) == [], why


def test_statistics_that_are_broadcast_elsewhere() -> None:
    """(N, C) against (N, C, H, W) would lie along height and width."""
    flat = BIASED.replace("m4 = Reshape(m2, to4)\n  mx = Expand(m4, cs)", "mx = Identity(m2)")
    model = adain(flat, content="4, 4, 4, 4")
    assert found(model) == []


def test_what_a_reader_tells() -> None:
    scope = Graph(models.take(adain(FLAT.replace("COUNT", UNBIASED), content="2, 4, 6, 7"))[0]).main
    reader = Reader(scope, Limits())
    kinds = {n: reader.of(n) for n in ("m3", "d3", "q3", "v2", "u", "wx", "mx", "d", "c", "s")}
    told = {n: s.kind for n, s in kinds.items() if s is not None}
    assert told == {
        "m3": "mean", "d3": "centred", "q3": "squares", "v2": "var", "u": "var", "wx": "std",
        "mx": "mean", "d": "centred", "s": "std",
    }  # fmt: skip
    std = kinds["wx"]
    assert std is not None
    assert std.of == "c"
    assert std.factor == pytest.approx(42 / 41, rel=1e-15)
    assert std.epsilon == EPSILON

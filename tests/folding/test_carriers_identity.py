"""Identity, Dropout and Cast."""

from __future__ import annotations

import numpy as np
import pytest
from crossings import assert_stays, backwards, forwards, slug_of
from graphs import assert_folds, assert_kept, ops, parse, weights

import normsurgery

NONE = {"false": np.array(False), "r": np.float64(0.5)}


@pytest.mark.parametrize(
    ("call", "opset"),
    [
        ("Identity(c)", 21),
        ("Cast<to=11>(c)", 21),
        ("CastLike(c, x)", 21),
        ("Dropout(c)", 21),
        ("Dropout(c, r)", 21),
        ("Dropout(c, r, false)", 21),
        ("Dropout<ratio=0.3>(c)", 7),
        ("Dropout<ratio=0.3>(c)", 10),
    ],
)
def test_nothing_happens(call: str, opset: int) -> None:
    extra = {n: v for n, v in NONE.items() if n in call}
    op = call.partition("(")[0].partition("<")[0]
    assert_folds(backwards(f"d = {call}", opset=opset, **extra), ["Conv", op])
    call = call.replace("(c", "(b")
    assert_folds(forwards(f"d = {call}", opset=opset, **extra), ["Sigmoid", op, "Conv"])


@pytest.mark.parametrize("test", [0, 1])
def test_dropout_before_opset_7(test: int) -> None:
    model = backwards(f"d = Dropout<is_test={test}>(c)", opset=6)
    model.graph.node[-1].attribute.add(name="is_test", type=2, i=1)
    result = normsurgery.fold(model)
    assert [k.slug for k in result.report.kept] == ([] if test else ["training-mode"])
    assert ops(result.model) == ["Conv", "Dropout", "BatchNormalization"][: 3 - test]


@pytest.mark.parametrize("where", ["constant", "input"])
def test_dropout_that_may_train(where: str) -> None:
    inputs = ", bool t" if where == "input" else ""
    extra = {"r": np.float64(0.5)} | ({} if inputs else {"t": np.array(True)})
    assert_kept(backwards("d = Dropout(c, r, t)", inputs=inputs, **extra), "training-mode")
    model = forwards("d = Dropout(b, r, t)", inputs=inputs, **extra)
    assert slug_of(model, "Dropout") == "training-mode"
    assert_stays(model)


def test_mask_of_dropout_stays_true() -> None:
    model = backwards("d, m = Dropout(c)", outputs=", bool[N, 4, 6, 6] m")
    result = normsurgery.fold(model)
    assert ops(result.model) == ["Conv", "Dropout"]


def test_map_of_dropouts_ratio() -> None:
    text = """g (double[N, 3] x, double q) => (double[N, 4] y) {
      c = Mul(q, m)
      d = Dropout(x, c)
      y = MatMul(d, A)
    }"""
    assert_stays(parse(text, m=np.float64(0.3), A=weights(3, 4)))


def test_cast_that_rounds() -> None:
    text = "e = Cast<to=1>(c)\n d = Cast<to=11>(e)"
    assert_kept(backwards(text), "not-linear")
    model = forwards(text.replace("(c)", "(b)"))
    assert slug_of(model, "Cast") == "not-linear"
    assert_stays(model)


def test_map_of_the_type_that_a_cast_is_like() -> None:
    model = forwards("e = Relu(x)\n d = CastLike(e, b)")
    result = normsurgery.fold(model)
    assert ops(result.model)[-1] == "Conv"

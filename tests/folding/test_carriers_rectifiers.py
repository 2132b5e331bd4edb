"""Relu, LeakyRelu, PRelu and Abs let a positive scale pass."""

from __future__ import annotations

import pytest
from crossings import assert_stays, backwards, forwards, slug_of
from graphs import assert_folds, assert_kept, bn, parse, weights

CALLS = ["Relu(c)", "LeakyRelu<alpha=-0.5>(c)", "PRelu(c, slope)", "Abs(c)"]
SLOPES = [(1,), (4, 1, 1), (6, 6), (4, 6, 6)]


@pytest.mark.parametrize("call", CALLS)
def test_positive_scale(call: str) -> None:
    extra = {"slope": weights(4, 1, 1)} if "slope" in call else {}
    op = call.partition("(")[0].partition("<")[0]
    assert_folds(backwards(f"d = {call}", shift=False, sign=False, **extra), ["Conv", op])
    call = call.replace("(c", "(b")
    model = forwards(f"d = {call}", shift=False, sign=False, **extra)
    assert_folds(model, ["Sigmoid", op, "Conv"])


@pytest.mark.parametrize("shape", SLOPES)
def test_slope_of_any_shape(shape: tuple[int, ...]) -> None:
    model = backwards("d = PRelu(c, slope)", shift=False, sign=False, slope=weights(*shape))
    assert_folds(model, ["Conv", "PRelu"])


def test_slope_of_run_time() -> None:
    model = backwards("d = PRelu(c, q)", shift=False, sign=False, inputs=", double[4, 1, 1] q")
    assert_folds(model, ["Conv", "PRelu"])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("shift", "sign", "slug"), [(True, False, "shift-across"), (False, True, "negative-scale")]
)
def test_shift_or_negative_scale(call: str, shift: bool, sign: bool, slug: str) -> None:
    extra = {"slope": weights(4, 1, 1)} if "slope" in call else {}
    op = call.partition("(")[0].partition("<")[0]
    model = backwards(f"d = {call}", shift=shift, sign=sign, **extra)
    assert_kept(model, slug)
    model = forwards(f"d = {call.replace('(c', '(b')}", shift=shift, sign=sign, **extra)
    assert slug_of(model, op) == slug
    assert_stays(model)


def test_map_of_the_slope() -> None:
    model = parse(
        """g (double[N, 4] x, double[N, 4] z) => (double[N, 5] y) {
          b = BatchNormalization(z, scale, B, mean, var)
          d = PRelu(x, b)
          y = MatMul(d, A)
        }""",
        A=weights(4, 5),
        **bn(4, shift=False, sign=False),
    )
    assert slug_of(model, "PRelu", slot=1) == "not-linear"
    assert_stays(model)


def test_slope_that_depends_on_the_same_value() -> None:
    assert_kept(backwards("d = PRelu(c, c)", shift=False, sign=False), "fan-out")
    model = forwards("d = PRelu(b, b)", shift=False, sign=False)
    assert_stays(model)


@pytest.mark.parametrize("function", ["Sigmoid", "Elu", "Softplus", "Clip", "HardSigmoid", "Gelu"])
def test_functions_that_are_not_homogeneous(function: str) -> None:
    assert_kept(backwards(f"d = {function}(c)", shift=False, sign=False), "not-linear")

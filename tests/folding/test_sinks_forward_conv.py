"""Conv and ConvTranspose absorb a map on their input."""

from __future__ import annotations

import pytest
from crossings import assert_stays, forwards, slug_of
from graphs import assert_folds, parse, weights

GEOMETRIES: list[tuple[str, tuple[int, ...], str]] = [
    ("", (5, 4, 3, 3), "N, 4, 6, 6"),
    ("<group=2>", (6, 2, 3, 3), "N, 4, 6, 6"),
    ("<group=4>", (4, 1, 3, 3), "N, 4, 6, 6"),
    ("<group=4>", (8, 1, 3, 3), "N, 4, 6, 6"),
    ("<strides=[2, 1], dilations=[1, 2]>", (5, 4, 3, 2), "N, 4, 6, 6"),
    ('<auto_pad="VALID">', (5, 4, 3, 3), "N, 4, 6, 6"),
    ("<pads=[0, 0, 0, 0]>", (5, 4, 2, 2), "N, 4, 6, 6"),
    ('<auto_pad="SAME_UPPER">', (5, 4, 1, 1), "N, 4, 6, 6"),
    ("<dilations=[2]>", (5, 4, 3), "N, 4, 9"),
    ("<group=2>", (2, 2, 2, 1, 2), "N, 4, 3, 3, 3"),
]
PADDED = ["<pads=[1, 0, 0, 0]>", "<pads=[0, 0, 0, 2]>", '<auto_pad="SAME_LOWER", strides=[2, 2]>']


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("attributes", "shape", "x"), GEOMETRIES)
def test_conv(attributes: str, shape: tuple[int, ...], x: str, bias: bool) -> None:
    extra = {"k": weights(shape[0], seed=2)} if bias else {}
    last = f"y = Conv{attributes}(b, V{', k' if bias else ''})"
    assert_folds(forwards("", last, V=shape, x=x, rank=len(shape), **extra), ["Sigmoid", "Conv"])


@pytest.mark.parametrize("attributes", PADDED)
@pytest.mark.parametrize("group", [1, 2])
def test_padded_conv(attributes: str, group: int) -> None:
    last = f"y = Conv{attributes[:-1]}, group={group}>(b, V)"
    model = forwards("", last, V=(6, 4 // group, 3, 3), shift=False)
    assert_folds(model, ["Sigmoid", "Conv"])
    model = forwards("", last, V=(6, 4 // group, 3, 3))
    assert slug_of(model, "Conv") == "padded-shift"
    assert_stays(model)


@pytest.mark.parametrize(
    ("group", "shape"), [(1, (4, 5, 3, 3)), (2, (4, 3, 2, 2)), (4, (4, 1, 3, 3))]
)
def test_conv_transpose(group: int, shape: tuple[int, ...]) -> None:
    last = f"y = ConvTranspose<group={group}, strides=[2, 1], pads=[1, 0, 0, 0]>(b, V)"
    assert_folds(forwards("", last, V=shape, shift=False), ["Sigmoid", "ConvTranspose"])
    model = forwards("", last, V=shape)
    assert slug_of(model, "ConvTranspose") == "padded-shift"
    assert_stays(model)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_map_along_positions(op: str) -> None:
    model = forwards("", f"y = {op}(b, V)", V=(4, 4, 1, 1))
    assert slug_of(model, op, axis=2) == "no-channel"


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_map_of_the_weight(op: str) -> None:
    model = forwards("", f"y = {op}(z, b)", x="4, 4, 1, 1", inputs=", double[N, 4, 6, 6] z")
    assert slug_of(model, op, slot=1) == "not-constant"
    assert_stays(model)


def test_map_of_the_bias() -> None:
    model = parse(
        """g (double[4] x, double[N, 4, 6, 6] z) => (double[N, 4, 6, 6] y) {
          s = Sigmoid(x)
          b = Mul(s, m)
          y = Conv(z, W, b)
        }""",
        W=weights(4, 4, 1, 1), m=weights(4),
    )  # fmt: skip
    assert_stays(model)


def test_bias_of_run_time() -> None:
    last = "y = Conv(b, V, k)"
    model = forwards("", last, inputs=", double[5] k")
    assert slug_of(model, "Conv") == "not-constant"
    assert_folds(forwards("", last, inputs=", double[5] k", shift=False), ["Sigmoid", "Conv"])

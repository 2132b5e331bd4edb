"""Sizes known by name, and the integers that graphs compute of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import parse
from hypothesis import given
from hypothesis import strategies as st

from normsurgery import models, shapes
from normsurgery.graph import Graph
from normsurgery.shapes import Size


def sizes() -> st.SearchStrategy[Size]:
    names = st.lists(st.sampled_from("MNP"), max_size=3).map(lambda n: tuple(sorted(n)))
    return st.builds(Size, st.integers(1, 12), names)


@given(sizes(), sizes())
def test_products_and_quotients(x: Size, y: Size) -> None:
    """Division undoes multiplication, and either agrees with numbers in place of the names."""
    numbers = {"M": 5, "N": 7, "P": 11}

    def of(size: Size) -> int:
        return size.number * int(np.prod([numbers[n] for n in size.names], initial=1))

    both = Size.of((x, y))
    assert of(both) == of(x) * of(y)
    assert both.over(y) == x
    quotient = x.over(y)
    assert quotient is None or of(quotient) * of(y) == of(x)
    assert Size(3).over(Size(0)) is None


def test_names() -> None:
    assert str(Size(1, ("N",))) == "N"
    assert str(Size(4, ("M", "N"))) == "4·M·N"
    assert Size(4).fixed == 4
    assert Size(4, ("N",)).fixed is None


def target(shape: str, x: str = "N, 6, H", reshape: str = "Reshape", **tensors: Any) -> Any:
    """Return the sizes that ``shape`` makes a Reshape of x tell, as text."""
    model = parse(
        f"""g (double[{x}] x, double[M, 6] z) => (double[?] y) {{
          s = Shape(x)
          {shape}
          y = {reshape}(x, t)
        }}""",
        i0=np.array([0]), i1=np.array([1]), i2=np.array([2]), m=np.array([-1]), k=np.array(2),
        two=np.array([2]), three=np.array([3]), zero=np.array([0]), **tensors,
    )  # fmt: skip
    scope = Graph(models.take(model)[0]).main
    node = next(n for n in scope.nodes if n.output[0] == "y")
    found = shapes.target(scope, node)
    return None if found is None else ["?" if s is None else str(s) for s in found]


FIRST, LAST = "n = Gather<axis=0>(s, i0)\n ", "n = Gather<axis=0>(s, k)\n "


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (FIRST + "t = Concat<axis=0>(n, m)", ["N", "6·H"]),
        (FIRST + "t = Concat<axis=0>(n, two, m)", ["N", "2", "3·H"]),
        (FIRST + "p = Mul(n, two)\n t = Concat<axis=0>(p, m)", ["2·N", "3·H"]),
        (FIRST + "p = Div(n, two)\n t = Concat<axis=0>(p, m)", ["?", "?"]),
        (FIRST + "p = Mul(n, two)\n q = Div(p, two)\n t = Concat<axis=0>(q, m)", ["N", "6·H"]),
        (FIRST + "p = Sub(n, n)\n q = Add(p, n)\n t = Concat<axis=0>(q, m)", ["N", "6·H"]),
        (FIRST + "p = Add(n, two)\n t = Concat<axis=0>(p, m)", ["?", "?"]),
        (FIRST + "p = Cast<to=6>(n)\n q = Cast<to=7>(p)\n t = Concat<axis=0>(q, m)", ["N", "6·H"]),
        (FIRST + "p = Cast<to=1>(n)\n q = Cast<to=7>(p)\n t = Concat<axis=0>(q, m)", None),
        ("t = Slice(s, i0, i2)", ["N", "6"]),
        ("n = Slice(s, i0, i1)\n t = Concat<axis=0>(n, zero, m)", ["N", "6", "H"]),
        ("n = Shape<start=2>(x)\n t = Concat<axis=0>(n, m)", ["H", "6·N"]),
        ("n = Size(x)\n t = Unsqueeze(n, i0)", ["6·H·N"]),
        ("n = ReduceProd(s, i0)\n t = Concat<axis=0>(n)", ["6·H·N"]),
        (LAST + "u = Unsqueeze(n, i0)\n t = Concat<axis=0>(m, u)", ["6·N", "H"]),
        (LAST + "u = Squeeze(n)\n t = Reshape(u, m)", ["H"]),
        ("r = Shape(z)\n n = Gather<axis=0>(r, i0)\n t = Concat<axis=0>(n, m)", ["M", "?"]),
        ("t = Concat<axis=0>(m, m)", ["?", "?"]),
        ("r = Relu(z)\n t = Cast<to=7>(r)", None),
    ],
)  # fmt: skip
def test_targets(shape: str, expected: list[str] | None) -> None:
    assert target(shape) == expected


EXPAND = """
  full = Concat<axis=0>(n, two, h)
  ones = ConstantOfShape<value = int64[1] {1}>(size)
  negative = Mul(ones, m)
  which = Equal(full, negative)
  t = Where(which, ones, full)
"""


def test_where_keeps_what_is_not_minus_one() -> None:
    """The legacy exporter writes ``x.expand(n, -1, h)`` so; a size by name is never −1."""
    shape = FIRST + "h = Gather<axis=0>(s, i2)\n" + EXPAND
    assert target(shape, size=np.array([3])) == ["N", "2", "H"]
    assert target(shape.replace("two, h", "m, h"), size=np.array([3])) == ["N", "1", "H"]
    unknown = shape.replace("Equal(full, negative)", "Equal(full, ones)")
    assert target(unknown, size=np.array([3])) == ["?", "2", "?"]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("1, 2, 1", ["N", "2", "H"]),
        ("2, 1", ["N", "2", "H"]),
        ("N, 2, H", ["N", "2", "H"]),
        ("M, 2, 5", ["?", "2", "?"]),
        ("7, 1, N, 2, H", ["7", "1", "N", "2", "H"]),
    ],
)
def test_targets_of_expand(x: str, expected: list[str]) -> None:
    """A dimension that is not 1 in every run has to be the one asked for, or stays unknown."""
    model = parse(
        f"""g (double[{x}] v, double[N, 2, H] like) => (double[?] y) {{
          s = Shape(like)
          y = Expand(v, s)
        }}"""
    )
    scope = Graph(models.take(model)[0]).main
    found = shapes.target(scope, scope.nodes[-1])
    assert ["?" if s is None else str(s) for s in found or ()] == expected


def test_a_zero_that_is_allowed_is_no_copy() -> None:
    shape = "t = Concat<axis=0>(zero, three)"
    assert target(shape) == ["N", "3"]
    assert target(shape, reshape="Reshape<allowzero=1>") == ["0", "3"]


def test_unknown_rank() -> None:
    assert target("t = Concat<axis=0>(m, three)", x="") == ["?", "3"]
    assert target("t = Slice(s, i0, i2)", x="") is None


def test_a_dimension_without_a_name_gets_one() -> None:
    assert target(FIRST + "t = Concat<axis=0>(n, m)", x="?, 6, ?") == ["x[0]", "6·x[2]"]


def test_values_behind_a_computed_shape() -> None:
    model = parse(
        """g (double[?, 6, H] x) => (double[A, B, C] y) {
          s = Shape(x)
          n = Slice(s, zero, one)
          t = Concat<axis=0>(n, sizes)
          r = Reshape(x, t)
          y = Relu(r)
        }""",
        zero=np.array([0]), one=np.array([1]), sizes=np.array([3, -1]),
    )  # fmt: skip
    scope = Graph(models.take(model)[0]).main
    assert shapes.dims(scope, "r") == (None, 3, None)
    assert [str(s) for s in shapes.sizes(scope, "r") or ()] == ["x[0]", "3", "2·H"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == ""  # not changed


def test_endless_computations_end() -> None:
    chain = "\n".join(f"n{i + 1} = Mul(n{i}, two)" for i in range(300))
    assert target(f"n0 = Gather<axis=0>(s, i0)\n {chain}\n t = Concat<axis=0>(n300, m)") is None


def test_a_negative_size_is_free() -> None:
    """PaddlePaddle's exporter writes −1 where a size is free."""
    model = parse(
        """g (float[N, 3, h, w] x) => (float[N, 4, p, q] y) {
          c = Conv<strides=[2, 2]>(x, W)
          y = Relu(c)
        }""",
        W=np.zeros((4, 3, 3, 3), np.float32),
    )
    for value in (*model.graph.input, *model.graph.output):
        for i in (0, 2, 3):
            value.type.tensor_type.shape.dim[i].dim_value = -1
    before = model.SerializeToString(deterministic=True)
    scope = Graph(models.take(model)[0]).main
    assert shapes.dims(scope, "x") == (None, 3, None, None)
    assert shapes.dims(scope, "c") == (None, 4, None, None)
    assert shapes.dims(scope, "y") == (None, 4, None, None)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization_keeps_the_sizes(opset: int) -> None:
    model = parse(
        """g (float[N, 4, h, w] x) => (float[?] y) {
          r = GroupNormalization<num_groups=2>(x, s, s)
          q = Relu(r)
          y = GroupNormalization<num_groups=2>(q, s, s)
        }""",
        opset=opset,
        s=np.ones(4, np.float32),
    )
    scope = Graph(models.take(model)[0]).main
    for name in ("r", "q"):
        assert shapes.dims(scope, name) == (None, 4, None, None)
        assert [str(size) for size in shapes.sizes(scope, name) or ()] == ["N", "4", "h", "w"]

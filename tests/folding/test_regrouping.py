"""Reshapes to computed shapes, and channels that are cut into two axes and permuted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import assert_stays, backwards, forwards, ints
from graphs import assert_folds, assert_kept, bn, parse, weights
from hypothesis import given, settings
from hypothesis import strategies as st

# -- shapes computed when the model runs ---------------------------------------------------------

UNFLATTEN = """
  s = Shape(c)
  first = Slice(s, zero, one)
  rest = Slice(s, two, big)
  t = Concat<axis=0>(first, sizes, rest)
  d = Reshape(c, t)"""
INTS: dict[str, Any] = {
    "zero": ints(0), "one": ints(1), "two": ints(2), "big": ints(2**63 - 1), "minus": ints(-1),
}  # fmt: skip


def used(text: str, **more: Any) -> dict[str, Any]:
    """Return the shared integers that a text names."""
    return {k: v for k, v in {**INTS, **more}.items() if k in text}


def behind_gemm(between: str, *, rank: int = 4, x: str = "N, 3", **tensors: Any) -> Any:
    return parse(
        f"""g (double[{x}] x) => (double[{", ".join("NMPQR"[:rank])}] y) {{
          c = MatMul(x, W)
          {between}
          y = BatchNormalization(d, scale, B, mean, var)
        }}""",
        W=weights(3, 16), **used(between), **bn(4, shift=False), **tensors,
    )  # fmt: skip


@pytest.mark.parametrize("x", ["N, 3", "?, 3", "2, 3"])
def test_unflatten(x: str) -> None:
    model = behind_gemm(UNFLATTEN, x=x, sizes=ints(4, 2, 2))
    result = assert_folds(model, [n.op_type for n in model.graph.node][:-1])
    assert result.report.folded[0].into == ("MatMul (makes `c`)",)


def test_unflatten_into_other_channels() -> None:
    """A negative: 2·2·4 in place of 4·2·2 has the BN's 4 channels on axis 3."""
    model = behind_gemm(UNFLATTEN, sizes=ints(2, 4, 2))
    model.graph.node[-1].input[1:] = []
    model = parse(
        f"""g (double[N, 3] x) => (double[N, 2, 4, 2] y) {{
          c = MatMul(x, W)
          {UNFLATTEN}
          y = Mul(d, m)
        }}""",
        W=weights(3, 16), m=weights(4, 1), sizes=ints(2, 4, 2), **used(UNFLATTEN),
    )  # fmt: skip
    assert_folds(model, [n.op_type for n in model.graph.node][:-1])


VIEW = """
  s = Shape(OF)
  n = Gather<axis=0>(s, k0)
  u = Unsqueeze(n, zero)
  t = Concat<axis=0>(u, sizes)
  d = Reshape(c, t)"""


@pytest.mark.parametrize("of", ["x", "c"])
@pytest.mark.parametrize("batch", ["N", "?"])
def test_view_with_the_batch_of_a_value(of: str, batch: str) -> None:
    """``c.view(x.size(0), 4, -1)`` of a value whose positions are not fixed either."""
    model = backwards(
        VIEW.replace("OF", of), x=f"{batch}, 3, H, W", rank=3, k0=np.int64(0), zero=ints(0),
        sizes=ints(4, -1),
    )  # fmt: skip
    assert_folds(model, [n.op_type for n in model.graph.node][:-1], H=3, W=2)


def test_view_with_the_batch_of_another_input() -> None:
    """It may be another number: then channels are not where they were."""
    model = backwards(
        VIEW.replace("OF", "z"), inputs=", double[M] z", rank=3, k0=np.int64(0), zero=ints(0),
        sizes=ints(4, -1),
    )  # fmt: skip
    assert_kept(model, "unknown-shape")


def test_view_with_another_dimension_for_the_batch() -> None:
    model = backwards(
        VIEW.replace("OF", "x"), x="N, 3, H, W", rank=3, k0=np.int64(2), zero=ints(0),
        sizes=ints(4, -1),
    )  # fmt: skip
    assert_kept(model, "unknown-shape")


def test_flattened_by_a_product_of_dimensions() -> None:
    """``c.view(n·h·w, 4)`` behind a Transpose, and ``view(n, h·w, 4)``."""
    text = """g (double[N, H, W, 3] x) => (double[M, 4] y) {
      c = MatMul(x, V)
      s = Shape(c)
      n, h, w, k = Split<axis=0, num_outputs=4>(s)
      p = Mul(n, h)
      q = Mul(p, w)
      t = Concat<axis=0>(q, four)
      d = Reshape(c, t)
      y = BatchNormalization(d, scale, B, mean, var)
    }"""
    text = text.replace("n, h, w, k = Split<axis=0, num_outputs=4>(s)", "\n".join(
        f"{n} = Gather<axis=0>(s, i{i})" for i, n in enumerate("nhw")
    ))  # fmt: skip
    extra: dict[str, Any] = {f"i{i}": ints(i) for i in range(3)}
    model = parse(text, V=weights(3, 4), four=ints(4), **extra, **bn(4, shift=False))
    assert_folds(model, [n.op_type for n in model.graph.node][:-1], H=3, W=2)


def test_what_lies_behind_a_computed_shape_has_a_rank() -> None:
    """The constant along an axis needs one, and ONNX's inference gives none."""
    between = UNFLATTEN + "\n e = Relu(d)\n f = Mul(e, m)"
    text = f"""g (double[N, 3] x) => (double[N, 5, 2, 2] y) {{
      c = MatMul(x, W)
      {between}
      y = Conv(f, V)
    }}"""
    model = parse(
        text, W=weights(3, 16), V=weights(5, 4, 1, 1), sizes=ints(4, 2, 2), m=weights(4, 1, 1),
        **used(text),
    )  # fmt: skip
    expected = [n.op_type for n in model.graph.node]
    expected.remove("Mul")
    assert_folds(model, expected)


# -- channel shuffles ----------------------------------------------------------------------------

SHUFFLE = """
  r = Reshape(IN, apart)
  t = Transpose<perm=[0, 2, 1, 3, 4]>(r)
  d = Reshape(t, together)"""
SHAPES: dict[str, Any] = {"apart": ints(0, 2, 4, 6, 6), "together": ints(0, 8, 6, 6)}


def test_channel_shuffle() -> None:
    model = backwards(SHUFFLE.replace("IN", "c"), channels=8, W=(8, 3, 1, 1), **SHAPES)
    assert_folds(model, ["Conv", "Reshape", "Transpose", "Reshape"])
    text = SHUFFLE.replace("IN", "b")
    model = forwards(text, channels=8, x="N, 8, 6, 6", V=(5, 8, 1, 1), **SHAPES)
    assert_folds(model, ["Sigmoid", "Reshape", "Transpose", "Reshape", "Conv"])


def test_channel_shuffle_in_a_computed_shape() -> None:
    """As the legacy exporter writes torchvision's, with everything but channels dynamic."""
    sizes = "\n".join(
        f"i{i} = Gather<axis=0>(s, at{i})\n u{i} = Unsqueeze(i{i}, zero)" for i in (0, 2, 3)
    )
    text = f"""
      s = Shape(c)
      {sizes}
      apart = Concat<axis=0>(u0, g, k, u2, u3)
      r = Reshape(c, apart)
      t = Transpose<perm=[0, 2, 1, 3, 4]>(r)
      together = Concat<axis=0>(u0, m, u2, u3)
      d = Reshape(t, together)"""
    extra: dict[str, Any] = {f"at{i}": np.int64(i) for i in (0, 2, 3)}
    extra |= {"zero": ints(0), "g": ints(2), "k": ints(4), "m": ints(-1)}
    model = backwards(text, channels=8, W=(8, 3, 1, 1), x="N, 3, H, W", **extra)
    assert_folds(model, [n.op_type for n in model.graph.node][:-1], H=3, W=2)


def test_megvii_shuffle_keeps_channels_with_the_batch() -> None:
    """(N, 2c, HW) → (N·c, 2, HW) → (2, N·c, HW) → (2, N, c, HW): channels end on two axes."""
    text = """
      r = Reshape(b, apart)
      t = Transpose<perm=[1, 0, 2]>(r)
      d = Reshape(t, together)"""
    model = forwards(
        text, "y = Relu(d)", channels=8, x="N, 8, 6", rank=4, apart=ints(-1, 2, 6),
        together=ints(2, -1, 4, 6),
    )  # fmt: skip
    assert_stays(model)


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (("perm=[0, 2, 1, 3, 4]", "perm=[0, 3, 2, 1, 4]"), "mixed-channels"),  # with positions
        (("t = T", "z = Relu(r)\n t = T"), "mixed-channels"),  # a second reader on the way
        (("together)", "together)\n z = Identity(t)"), "mixed-channels"),
    ],
)
def test_shuffle_that_is_none(change: tuple[str, str], slug: str) -> None:
    text = SHUFFLE.replace("IN", "c").replace(*change)
    outputs = ", double[A, B, C, D, E] z" if " z " in text else ""
    model = backwards(text, channels=8, W=(8, 3, 1, 1), outputs=outputs, **SHAPES)
    assert_kept(model, slug)


def test_value_inside_a_shuffle_that_is_an_output() -> None:
    model = backwards(
        SHUFFLE.replace("IN", "c"), channels=8, W=(8, 3, 1, 1),
        outputs=", double[A, B, C, D, E] r", **SHAPES,
    )  # fmt: skip
    assert_kept(model, "mixed-channels")


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_chain_of_layouts(data: st.DataObject) -> None:
    """Factors of channels and positions regrouped and permuted at random: equal outputs."""
    factors = data.draw(st.lists(st.sampled_from([1, 2, 2, 3]), min_size=2, max_size=4))
    own = data.draw(st.integers(0, len(factors) - 1))

    def shaped(sizes: list[int]) -> list[int]:
        made = [sizes[0]]
        for f in sizes[1:]:
            if data.draw(st.booleans()):
                made.append(f)
            else:
                made[-1] *= f
        return made

    near = factors
    lines, tensors, shape, value = [], {}, list(factors), "c"
    for i in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(len(shape))))
            shape = [shape[p] for p in perm]
            lines.append(f"d{i} = Transpose<perm={list(perm)}>({value})")
        else:
            pieces = [p for size in shape for p in ([2, size // 2] if size % 2 == 0 else [size])]
            shape = shaped(pieces)
            tensors[f"s{i}"] = ints(*shape)
            lines.append(f"d{i} = Reshape({value}, s{i})")
        value = f"d{i}"
    far = data.draw(st.integers(0, len(shape) - 1))
    k = weights(*[d if i == own else 1 for i, d in enumerate(near)])
    m = weights(*[d if i == far else 1 for i, d in enumerate(shape)], seed=8)
    body = "\n".join(lines)
    text = f"""g (double[{", ".join(map(str, near))}] x) =>
      (double[{", ".join(map(str, shape))}] y) {{
      c = Mul(x, k)
      {body}
      y = Mul({value}, m)
    }}"""
    from graphs import assert_same

    import normsurgery

    model = parse(text, k=k, m=m, **tensors)
    assert_same(model, normsurgery.fold(model).model)

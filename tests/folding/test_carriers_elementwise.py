"""Add, Sub, Sum, Mul and Div: with constants of any shape, and of branches."""

from __future__ import annotations

import numpy as np
import pytest
from crossings import assert_stays, backwards, forwards, slug_of
from graphs import assert_folds, assert_kept, bn, parse, weights

import normsurgery
from normsurgery.affine import ChannelAffine

SHAPES = [(), (1,), (6,), (6, 6), (4, 1, 1), (1, 4, 1, 1), (4, 6, 6), (1, 4, 6, 1), (1, 1, 1, 1)]
SUMS = ["Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)"]
PRODUCTS = ["Mul(c, k)", "Mul(k, c)", "Div(c, k)"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("call", SUMS)
def test_sum_with_a_constant_backwards(call: str, shape: tuple[int, ...]) -> None:
    per_channel = [d for d in shape if d != 1] in ([], [4])  # folds as a source of its own
    expected = ["Conv"] if per_channel else ["Conv", call[:3]]
    assert_folds(backwards(f"d = {call}", k=weights(*shape)), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("call", SUMS)
def test_sum_with_a_constant_forwards(call: str, shape: tuple[int, ...]) -> None:
    per_channel = [d for d in shape if d != 1] in ([], [4])
    expected = ["Sigmoid", "Conv"] if per_channel else ["Sigmoid", call[:3], "Conv"]
    call = call.replace("c", "b")
    assert_folds(forwards(f"d = {call}", k=weights(*shape)), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("call", PRODUCTS)
def test_product_with_a_constant_backwards(call: str, shape: tuple[int, ...]) -> None:
    per_channel = [d for d in shape if d != 1] in ([], [4])
    expected = ["Conv"] if per_channel else ["Conv", call[:3]]
    assert_folds(backwards(f"d = {call}", shift=False, k=weights(*shape)), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("call", PRODUCTS)
def test_product_with_a_constant_forwards(call: str, shape: tuple[int, ...]) -> None:
    per_channel = [d for d in shape if d != 1] in ([], [4])
    expected = ["Sigmoid", "Conv"] if per_channel else ["Sigmoid", call[:3], "Conv"]
    call = call.replace("c", "b")
    assert_folds(forwards(f"d = {call}", shift=False, k=weights(*shape)), expected)


def test_shift_does_not_cross_a_product_backwards() -> None:
    assert_kept(backwards("d = Mul(c, k)", k=weights(6)), "no-bias")


def test_shift_does_not_cross_a_product_along_another_axis() -> None:
    model = forwards("d = Mul(b, k)", k=weights(6))
    assert slug_of(model, "Mul") == "shift-across"
    assert_stays(model)


def test_shift_crosses_a_product_per_channel_forwards() -> None:
    model = forwards("e = Mul(b, k)\n d = Add(e, q)", k=weights(4, 1, 1), q=weights(6, 6))
    assert_folds(model, ["Sigmoid", "Add", "Conv"])


def test_division_of_a_constant() -> None:
    assert_kept(backwards("d = Div(k, c)", k=weights(4, 1, 1)), "not-linear")
    model = forwards("d = Div(k, b)", k=weights(4, 1, 1))
    assert slug_of(model, "Div") == "not-linear"
    assert_stays(model)


@pytest.mark.parametrize("call", ["Add(b, k)", "Div(b, k)"])
def test_scale_of_0_does_not_divide(call: str) -> None:
    model = forwards(f"d = {call}", shift=False, k=weights(6))
    model.graph.initializer[1].raw_data = np.array([1.0, 0.0, 2.0, 3.0]).tobytes()
    assert model.graph.initializer[1].name == "scale"
    assert slug_of(model, call[:3]) in {"not-finite", "not-linear"}
    assert_stays(model)


def test_scale_of_0_passes_backwards() -> None:
    model = backwards("d = Add(c, k)", k=weights(6))
    model.graph.initializer[1].raw_data = np.array([1.0, 0.0, 2.0, 3.0]).tobytes()
    assert_folds(model, ["Conv", "Add"])


def test_operand_that_is_an_input() -> None:
    model = backwards("d = Mul(c, k)", inputs=", double[4, 1, 1] k")
    assert_kept(model, "not-linear")
    model = forwards("d = Mul(b, k)", inputs=", double[4, 1, 1] k")
    assert slug_of(model, "Mul") == "not-linear"
    assert_stays(model)


@pytest.mark.parametrize(
    ("x", "shape", "C"),
    [("N, 1, 6, 6", (4, 1, 1), 4), ("N, 4, 1, 6", (4, 6, 1), 4), ("N, 6, 6", (4, 1, 6), 4)],
)
def test_constant_that_widens(x: str, shape: tuple[int, ...], C: int) -> None:
    model = parse(
        f"""g (double[{x}] x) => (double[A, B, C, D] y) {{
          c = Sin(x)
          d = Add(c, k)
          y = BatchNormalization(d, scale, B, mean, var)
        }}""",
        k=weights(*((1, *shape) if x.count(",") == 2 else shape)),
        **bn(C),
    )
    assert_kept(model, "no-channel")


def test_constant_that_widens_channels_behind_a_linear_layer() -> None:
    """Each of the four sums holds the one channel of the layer: there is nothing to scale."""
    model = backwards("d = Add(c, k)", W=(1, 3, 1, 1), k=weights(4, 1, 1))
    assert_kept(model, "no-channel")
    model = backwards("d = Mul(c, k)", W=(1, 3, 1, 1), k=weights(4, 1, 1))
    assert_kept(model, "no-channel")


def test_constant_that_may_widen() -> None:
    """Nothing tells the width of x; the layer behind tells that one may be wider."""
    text = """g (double[N, C, H, W] x) => (double[N, M, P, Q] y) {
      d = Mul(x, k)
      y = Conv(d, V)
    }"""
    model = parse(text, k=weights(4, 1, 1), V=weights(5, 4, 1, 1))
    result = normsurgery.fold(model)
    assert not result.report.folded
    assert len(result.model.graph.node) == 2


@pytest.mark.parametrize("width", ["4", "C"])
def test_constant_with_channels_that_come_from_a_broadcast(width: str) -> None:
    """The Add makes 4 channels out of 1 or 4, and shape inference knows it."""
    model = parse(
        f"""g (double[N, {width}, 5, 5] x) => (double[N, M, P, Q] y) {{
          d = Add(x, k)
          e = Sigmoid(d)
          f = Mul(e, m)
          y = Conv(f, V)
        }}""",
        k=weights(4, 1, 1),
        m=weights(4, 1, 1),
        V=weights(5, 4, 1, 1),
    )
    assert_folds(model, ["Add", "Sigmoid", "Conv"], C=1)


# -- branches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Add", "Sub", "Sum"])
def test_sum_of_two_layers(op: str) -> None:
    model = backwards(f"e = Conv(z, W)\n d = {op}(c, e)", inputs=", double[N, 3, 6, 6] z")
    assert_folds(model, ["Conv", "Conv", op])


def test_sum_of_three_layers() -> None:
    model = backwards("e = Conv(x, W)\n f = Conv(x, W)\n d = Sum(c, e, f)")
    assert_folds(model, ["Conv", "Conv", "Conv", "Sum"])


@pytest.mark.parametrize("call", ["Add(c, m)", "Add(m, c)", "Sub(c, m)", "Sub(m, c)"])
def test_shift_goes_to_the_branch_that_can_take_it(call: str) -> None:
    model = parse(
        f"""g (double[N, 3, 6, 6] x, double[N, 4, 6, 7] z) => (double[N, M, P, Q] y) {{
          c = Conv(x, W)
          m = MatMul(z, V)
          t = Transpose<perm=[0, 1, 2, 3]>(m)
          d = {call.replace("m", "t")}
          y = BatchNormalization(d, scale, B, mean, var)
        }}""",
        W=weights(4, 3, 1, 1),
        V=weights(4, 7, 6),
        **bn(4),
    )
    assert_folds(model, ["Conv", "MatMul", "Transpose", call[:3]])


def test_branch_that_broadcasts_over_positions() -> None:
    model = backwards("p = GlobalAveragePool(x)\n e = Conv(p, W)\n d = Add(e, c)")
    assert_folds(model, ["Conv", "GlobalAveragePool", "Conv", "Add"])


def test_branch_that_broadcasts_over_channels() -> None:
    model = backwards("e = Conv(x, U)\n d = Add(e, c)", U=weights(1, 3, 1, 1))
    assert_kept(model, "unknown-shape")


def test_branch_of_lower_rank() -> None:
    model = backwards(
        "s = Conv(x, U)\n e = Squeeze(s, zero)\n d = Add(e, c)",
        x="1, 3, 6, 6",
        U=weights(4, 3, 1, 1),
        zero=np.array([0]),
    )
    assert_kept(model, "unknown-shape")


def test_branch_that_absorbs_nothing() -> None:
    assert_kept(backwards("e = Sigmoid(c2)\n c2 = Conv(x, W)\n d = Add(e, c)".replace(
        "e = Sigmoid(c2)\n c2 = Conv(x, W)", "c2 = Conv(x, W)\n e = Sigmoid(c2)"
    )), "not-linear")  # fmt: skip


def test_the_same_branch_twice() -> None:
    assert_kept(backwards("d = Add(c, c)"), "fan-out")
    model = forwards("d = Add(b, b)")
    assert_stays(model)


def test_two_branches_that_meet_in_one_layer() -> None:
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[N, 2, 6, 6] y) {
          c = Conv(x, W)
          p, q = Split<axis=1, num_outputs=2>(c)
          d = Add(p, q)
          y = BatchNormalization(d, scale, B, mean, var)
        }""",
        W=weights(4, 3, 1, 1),
        **bn(2),
    )
    assert_kept(model, "reached-twice")


def test_branches_of_unknown_rank() -> None:
    model = backwards("e = Conv(z, W)\n d = Add(c, e)", inputs=", double z")
    model.graph.input[1].type.tensor_type.ClearField("shape")
    assert_kept(model, "unknown-rank")


def test_constant_in_a_sum_of_many() -> None:
    between = "e = Conv(x, W)\n d = Sum(c, e, k, l)"
    constants = {"k": weights(4, 1, 1), "l": weights(6, 6, seed=8)}
    assert_folds(backwards(between, **constants), ["Conv", "Conv", "Sum"])
    assert_folds(forwards("d = Sum(k, b, l)", **constants), ["Sigmoid", "Sum", "Conv"])


def test_constant_in_a_sum_that_has_no_place_for_the_channels() -> None:
    model = backwards("d = Sum(c, k)", k=weights(3, 1, 1), W=(1, 3, 1, 1), channels=1)
    assert slug_of(model, "Sum", forwards=False, affine=ChannelAffine(np.ones(4), np.ones(4))) == (
        "unknown-shape"
    )
    model = forwards("d = Sum(b, k)", k=weights(1, 1, 4, 1, 1), rank=5)
    assert slug_of(model, "Sum") == "no-channel"


def test_constants_in_a_sum_cannot_undo_a_scale_of_0() -> None:
    model = forwards("d = Sum(b, k)", k=weights(4, 1, 1))
    zero = ChannelAffine(np.array([1.0, 0, 1, 1]), np.ones(4))
    assert slug_of(model, "Sum", affine=zero) == "not-finite"


def test_only_a_shift_crosses_a_sum_of_branches_and_constants() -> None:
    assert slug_of(forwards("d = Sum(b, x, k)", k=weights(4, 1, 1)), "Sum") == "not-linear"


# -- products of branches ------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["Mul(c, g)", "Mul(g, c)", "Div(c, g)"])
def test_scale_goes_to_one_factor(call: str) -> None:
    model = backwards(f"g = Exp(x)\n d = {call}", x="N, 4, 6, 6", W=(4, 4, 1, 1), shift=False)
    assert_folds(model, ["Conv", "Exp", call[:3]])


@pytest.mark.parametrize("call", ["Mul(b, g)", "Mul(g, b)", "Div(b, g)"])
def test_scale_of_one_factor_is_the_product_s(call: str) -> None:
    model = forwards(f"g = Exp(x)\n d = {call}", shift=False)
    assert_folds(model, ["Sigmoid", "Exp", call[:3], "Conv"])


def test_shift_does_not_cross_a_product() -> None:
    between = "g = Exp(x)\n d = Mul(BC, g)"
    model = backwards(between.replace("BC", "c"), x="N, 4, 6, 6", W=(4, 4, 1, 1))
    assert slug_of(model, "Mul", forwards=False) == "not-linear"
    assert slug_of(forwards(between.replace("BC", "b")), "Mul") == "not-linear"


def test_scale_does_not_go_to_the_divisor() -> None:
    model = forwards("g = Exp(x)\n d = Div(g, b)", shift=False)
    assert slug_of(model, "Div", slot=1) == "not-linear"
    model = backwards("d = Div(x, c)", x="N, 4, 6, 6", W=(4, 4, 1, 1), shift=False)
    assert_stays(model)


def test_factor_that_is_broadcast_takes_no_scale_per_channel() -> None:
    """(N, 1, 6, 6)·(N, 4, 6, 6): the second has the channels, the first has not."""
    model = backwards("d = Mul(c, z)", W=(1, 3, 1, 1), inputs=", double[N, 4, 6, 6] z", shift=False)
    assert_kept(model, "graph-input")
    model = backwards("d = Mul(c, z)", W=(1, 3, 1, 1), inputs=", double[N, Q, 6, 6] z", shift=False)
    assert_kept(model, "unknown-shape")


def test_only_a_shift_crosses_a_sum_forwards() -> None:
    model = forwards("d = Add(b, x)")
    assert slug_of(model, "Add") == "not-linear"
    assert_stays(model)
    text = """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {
      s = Sigmoid(x)
      b = Add(s, k)
      d = CALL
      y = Conv(d, V)
    }"""
    for call in ("Add(b, x)", "Add(x, b)", "Sub(b, x)", "Sub(x, b)", "Sum(x, b)"):
        model = parse(text.replace("CALL", call), k=weights(4, 1, 1), V=weights(5, 4, 1, 1))
        assert_folds(model, ["Sigmoid", call[:3], "Conv"])


def test_shift_of_a_branch_that_broadcasts_over_channels() -> None:
    text = """g (double[N, 1, 6, 6] x, double[N, 4, 6, 6] z) => (double[N, 5, 6, 6] y) {
      s = Sigmoid(x)
      b = Add(s, k)
      d = Add(b, z)
      y = Conv(d, V)
    }"""
    model = parse(text, k=weights(1, 1, 6), V=weights(5, 4, 1, 1))
    assert_stays(model)
    model = parse(text, k=weights(1), V=weights(5, 4, 1, 1))
    assert_folds(model, ["Sigmoid", "Add", "Conv"])


def test_uniform_map_over_branches_that_broadcast() -> None:
    model = parse(
        """g (double[N, 3, 6, 6] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          e = Conv(x, U)
          d = Add(e, c)
          f = Mul(d, two)
          y = Add(f, one)
        }""",
        W=weights(4, 3, 1, 1),
        U=weights(1, 3, 1, 1),
        two=np.float64(2),
        one=np.array([1.0]),
    )
    assert_folds(model, ["Conv", "Conv", "Add"])


def test_before_opset_7_constants_broadcast_by_attribute() -> None:
    model = backwards("d = Mul<broadcast=1, axis=1>(c, k)", shift=False, opset=6, k=weights(4))
    model.graph.node[-1].attribute.add(name="is_test", type=2, i=1)
    folded = normsurgery.fold(model)
    assert [n.op_type for n in folded.model.graph.node] == ["Conv"]


def test_look_alike_of_a_map_on_a_summed_pair_of_maps() -> None:
    """Both operands of a product depend on x."""
    assert_kept(backwards("e = Conv(x, W)\n d = Mul(c, e)"), "not-linear")

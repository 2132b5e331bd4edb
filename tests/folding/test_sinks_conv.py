"""Conv and ConvTranspose absorb BatchNormalization backwards."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import assert_folds, assert_kept, bn, parse, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import normsurgery
from normsurgery.errors import GraphError

CONV_BN = """
g (double[N, 6, 8, 8] x) => (double[N, M, P, Q] y) {
  c = Conv<ATTRIBUTES>(x, WEIGHTS)
  y = BatchNormalization(c, scale, B, mean, var)
}"""


def conv(attributes: str = "", inputs: str = "W", op: str = "Conv") -> str:
    text = CONV_BN.replace("WEIGHTS", inputs).replace("Conv<", f"{op}<")
    return text.replace("<ATTRIBUTES>", f"<{attributes}>" if attributes else "")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ("", (5, 6, 3, 3)),
        ("group=2", (4, 3, 3, 3)),
        ("group=6", (6, 1, 3, 3)),
        ("group=6", (12, 1, 3, 3)),
        ("strides=[2, 1], pads=[0, 1, 2, 1], dilations=[1, 2]", (5, 6, 3, 3)),
        ('auto_pad="SAME_UPPER"', (5, 6, 3, 3)),
    ],
)
def test_conv(attributes: str, shape: tuple[int, ...], bias: bool) -> None:
    extra = {"b": weights(shape[0], seed=2)} if bias else {}
    model = parse(
        conv(attributes, "W, b" if bias else "W"), W=weights(*shape), **bn(shape[0]), **extra
    )
    assert_folds(model, ["Conv"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("attributes", "shape", "channels"),
    [
        ("", (6, 5, 3, 3), 5),
        ("group=2", (6, 2, 3, 3), 4),
        ("group=3", (6, 4, 2, 2), 12),
        ("group=6", (6, 1, 3, 3), 6),
        ("strides=[2, 2], output_padding=[1, 0], pads=[1, 0, 0, 1]", (6, 5, 3, 3), 5),
    ],
)
def test_conv_transpose(attributes: str, shape: tuple[int, ...], channels: int, bias: bool) -> None:
    extra = {"b": weights(channels, seed=2)} if bias else {}
    text = conv(attributes, "W, b" if bias else "W", "ConvTranspose")
    assert_folds(parse(text, W=weights(*shape), **bn(channels), **extra), ["ConvTranspose"])


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("n", [1, 3])
def test_other_dimensions(op: str, n: int) -> None:
    dims = ", ".join(["5"] * n)
    model = parse(
        f"""g (double[N, 4, {dims}] x) => (double[N, M, {", ".join("abc"[:n])}] y) {{
          c = {op}(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
        }}""",
        W=weights(4, 4, *[3] * n),
        **bn(4),
    )
    assert_folds(model, [op])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_geometry(data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(["Conv", "ConvTranspose"]))
    group = data.draw(st.integers(1, 4))
    c_in, c_out = (group * data.draw(st.integers(1, 3)) for _ in range(2))
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
    strides = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
    shape = (c_out, c_in // group) if op == "Conv" else (c_in, c_out // group)
    epsilon = data.draw(st.sampled_from(["", "<epsilon=0.5>", "<epsilon=0.0>"]))
    model = parse(
        f"""g (double[N, {c_in}, 7, 6] x) => (double[N, {c_out}, P, Q] y) {{
          c = {op}<group={group}, strides={strides}>(x, W)
          y = BatchNormalization{epsilon}(c, scale, B, mean, var)
        }}""",
        W=weights(*shape, *kernel),
        **bn(c_out, seed=data.draw(st.integers(0, 99))),
    )
    assert_folds(model, [op])


def test_names_of_folded_tensors() -> None:
    model = parse(conv().replace("W)", '"conv1.weight")'), **bn(5))
    model.graph.initializer.append(parse(conv(), w=weights(5, 6, 3, 3)).graph.initializer[0])
    model.graph.initializer[-1].name = "conv1.weight"
    result = assert_folds(model, ["Conv"])
    node = result.model.graph.node[0]
    assert list(node.input) == ["x", "conv1.weight_folded", "conv1.bias_folded"]
    assert list(node.output) == ["y"]
    assert {t.name for t in result.model.graph.initializer} == set(node.input) - {"x"}


def test_shared_weight_gets_its_own_copy() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y, double[N, 4, 6, 6] z) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
          z = Conv(x, W)
        }""",
        W=weights(4, 3, 3, 3),
        **bn(4),
    )
    result = assert_folds(model, ["Conv", "Conv"])
    assert result.model.graph.node[1].input[1] == "W"


def test_shared_parameters_fold_into_both() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y, double[N, 4, 6, 6] z) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
          d = Conv(x, V)
          z = BatchNormalization(d, scale, B, mean, var)
        }""",
        W=weights(4, 3, 3, 3),
        V=weights(4, 3, 3, 3, seed=5),
        **bn(4),
    )
    result = assert_folds(model, ["Conv", "Conv"])
    assert len(result.model.graph.initializer) == 4


# -- one negative test per precondition --------------------------------------------------------


def test_weight_is_an_input() -> None:
    text = conv().replace("(double[N, 6, 8, 8] x)", "(double[N, 6, 8, 8] x, double[5, 6, 3, 3] W)")
    assert_kept(parse(text, **bn(5)), "not-constant")


def test_bias_is_an_input() -> None:
    text = conv(inputs="W, b").replace("8] x)", "8] x, double[5] b)")
    assert_kept(parse(text, W=weights(5, 6, 3, 3), **bn(5)), "not-constant")


def test_weight_may_be_overridden() -> None:
    text = conv().replace("8] x)", "8] x, double[5, 6, 3, 3] W)")
    model = parse(text, W=weights(5, 6, 3, 3), **bn(5))
    assert_kept(model, "overridable")
    folded = normsurgery.fold(model, freeze_inputs=True)
    assert not folded.report.kept
    assert [i.name for i in folded.model.graph.input] == ["x"]


def test_old_models_list_every_initializer() -> None:
    listed = (
        "8] x, double[5, 6, 3, 3] W, double[5] scale, double[5] B, double[5] mean, double[5] var)"
    )
    model = parse(conv().replace("8] x)", listed), ir=3, opset=9, W=weights(5, 6, 3, 3), **bn(5))
    result = assert_folds(model, ["Conv"])
    inputs = [i.name for i in result.model.graph.input]
    assert inputs == ["x", "W_folded", "W_bias_folded"]


def test_output_read_twice() -> None:
    model = parse(
        """g (double[N, 6, 8, 8] x) => (double[N, 5, 6, 6] y, double[N, 5, 6, 6] z) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
          z = Relu(c)
        }""",
        W=weights(5, 6, 3, 3),
        **bn(5),
    )
    assert_kept(model, "fan-out")


def test_conv_read_by_two_batch_norms() -> None:
    model = parse(
        """g (double[N, 6, 8, 8] x) => (double[N, 5, 6, 6] y, double[N, 5, 6, 6] z) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
          z = BatchNormalization<epsilon=0.1>(c, scale, B, mean, var)
        }""",
        W=weights(5, 6, 3, 3),
        **bn(5),
    )
    assert_kept(model, "fan-out", "fan-out")


def test_output_is_a_graph_output() -> None:
    text = conv().replace("Q] y)", "Q] y, double[N, M, P, Q] c)")
    assert_kept(parse(text, W=weights(5, 6, 3, 3), **bn(5)), "graph-output")


def test_output_is_read_inside_a_body() -> None:
    model = parse(
        """g (double[N, 6, 8, 8] x, bool flag) => (double[N, 5, 6, 6] y, double[N, 5, 6, 6] z) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
          z = If (flag) <
            then_branch = t () => (double[N, 5, 6, 6] u) { u = Relu(c) },
            else_branch = e () => (double[N, 5, 6, 6] v) { v = Neg(y) }
          >
        }""",
        W=weights(5, 6, 3, 3),
        **bn(5),
    )
    assert_kept(model, "fan-out")


def test_readers_of_shape_and_type_do_not_count() -> None:
    model = parse(
        """g (double[N, 6, 8, 8] x, float[1] f) => (double[N, 5, 6, 6] y, int64[4] s, double[1] t) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
          s = Shape(c)
          t = CastLike(f, c)
        }""",
        W=weights(5, 6, 3, 3),
        **bn(5),
    )
    assert_folds(model, ["Conv", "Shape", "CastLike"])


def test_custom_conv() -> None:
    text = conv().replace("c = Conv", "c = custom.Conv")
    assert_kept(parse(text, W=weights(5, 6, 3, 3), **bn(5)), "custom-operator")


def test_model_function_called_conv_is_no_conv() -> None:
    model = parse(conv(), W=weights(5, 6, 3, 3), **bn(5))
    opsets = [normsurgery_opset()]

    relu = onnx.helper.make_node("Relu", ["X"], ["Y"])
    model.functions.append(onnx.helper.make_function("", "Conv", ["X", "W"], ["Y"], [relu], opsets))
    assert_kept(model, "custom-operator")


def normsurgery_opset() -> object:

    return onnx.helper.make_opsetid("", 21)


def test_behind_a_nonlinearity() -> None:
    text = conv().replace("y = Batch", "r = Sigmoid(c)\n y = Batch").replace("tion(c,", "tion(r,")
    result = assert_kept(parse(text, W=weights(5, 6, 3, 3), **bn(5)), "not-linear")
    assert "Sigmoid" in result.report.kept[0].reason


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_channels_that_do_not_match(op: str) -> None:
    shape = (5, 6, 3, 3) if op == "Conv" else (6, 5, 3, 3)
    with pytest.raises(GraphError, match="channels"):
        normsurgery.fold(parse(conv(op=op), W=weights(*shape), **bn(4)))


@pytest.mark.parametrize(
    ("dtype", "power", "slug"),
    [
        (np.float32, 2.0**127, "overflow"),
        (np.float32, 2.0**-140, "underflow"),
        (np.float16, 2.0**15, "overflow"),
        (np.float16, 2.0**-20, "underflow"),
    ],
)
def test_coefficients_that_leave_their_type(dtype: type, power: float, slug: str) -> None:
    kind = "float16" if dtype is np.float16 else "float"
    W = np.ones((5, 6, 3, 3), dtype)
    parameters = bn(5, shift=False, dtype=np.float32)
    parameters["scale"][:] = 4.0
    parameters["var"][:] = 1.0
    text = conv().replace("double", kind)
    model = parse(text, W=W, **parameters)
    assert not normsurgery.fold(model).report.kept
    W[3] *= dtype(power)
    parameters["scale"][3] = 2.0 if power > 1 else np.float32(2.0**-10)
    if power > 1:
        parameters["scale"][3] = 4.0
    result = assert_kept(parse(text, W=W, **parameters), slug)
    assert "channel 3" in result.report.kept[0].reason


def test_weight_that_is_not_finite() -> None:
    W = weights(5, 6, 3, 3)
    W[2, 0, 0, 0] = np.inf
    assert_kept(parse(conv(), W=W, **bn(5)), "weight-not-finite")


def dead_channel(shift: float) -> onnx.ModelProto:
    """A channel that weight decay has killed: tiny weights, no variance."""
    W, parameters = np.ones((5, 6, 3, 3), np.float32), bn(5, dtype=np.float32)
    W[3] = 1e-40
    parameters["var"][3], parameters["scale"][3] = 1.0, 1e-7
    parameters["mean"][3], parameters["B"][3] = 0.0, shift
    return parse(conv().replace("double", "float"), W=W, **parameters)


def test_a_dead_channel_is_its_shift_and_folds() -> None:
    """1e-47·x vanishes next to 0.5 whatever x is, so nothing is lost."""
    assert not normsurgery.fold(dead_channel(0.5)).report.kept


@pytest.mark.parametrize("shift", [0.0, 1e-30])
def test_a_dead_channel_next_to_which_the_rest_does_not_vanish(shift: float) -> None:
    assert_kept(dead_channel(shift), "underflow")

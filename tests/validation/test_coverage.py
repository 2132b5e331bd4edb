"""Channels that inputs excite, counted inside the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from validation.nets import conv_bn_net, graph
from validation.specimens import MODELS

from normsurgery.validation.coverage import coverage


def covered(tmp_path, model, *sets):
    onnx.save(model, tmp_path / "model.onnx")
    return coverage(tmp_path / "model.onnx", sets)


def images(*shape, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


def one(op, attributes="", inputs="", opset=17, **initializers):
    text = f"""g (float[N, 3, 4] x) => (float[N, 3, 4] y) {{ y = {op}{attributes}(x{inputs}) }}"""
    return graph(text, opset=opset, **initializers)


def ramp(*channels):
    """One sample of 3 channels with these lowest and highest values."""
    return {"x": np.array([[np.linspace(*c, 4) for c in channels]], np.float32)}


def test_relu_is_excited_above_zero(tmp_path):
    found = covered(tmp_path, one("Relu"), ramp((-2, -1), (-1, 0), (-1, 1)))
    assert found.activations[0].excited == 1
    assert found.activations[0].silent == (0, 1)
    assert found.share == pytest.approx(1 / 3)
    assert "2 of 3 channels never fire" in found.warnings()[0]


def test_sets_add_up(tmp_path):
    sets = ramp((-2, -1), (-1, 1), (-1, 0)), ramp((-2, 1), (-2, -1), (-1, 0))
    found = covered(tmp_path, one("Relu"), *sets)
    assert found.shares == pytest.approx((1 / 3, 2 / 3))
    assert found.activations[0].silent == (2,)


def test_clip_is_excited_between_its_bounds(tmp_path):
    low, high = np.float32(0), np.float32(6)
    model = one("Clip", inputs=", low, high", low=low, high=high)
    found = covered(tmp_path, model, ramp((-2, 0), (6, 9), (1, 2)))
    assert found.activations[0].silent == (0, 1)
    assert found.activations[0].idle == ()


def test_clip_with_attributes(tmp_path):
    model = one("Clip", "<min=0.0, max=6.0>", opset=10)
    found = covered(tmp_path, model, ramp((-2, 0), (6, 9), (1, 2)))
    assert found.activations[0].silent == (0, 1)


@pytest.mark.parametrize(
    ("ranges", "idle"),
    [
        (((-1, 1), (1, 2), (1, 2)), ("maximum",)),
        (((1, 7), (1, 2), (1, 2)), ("minimum",)),
        (((1, 2), (1, 2), (1, 2)), ("minimum", "maximum")),
    ],
)
def test_bounds_that_nothing_reaches_are_told(tmp_path, ranges, idle):
    model = one("Clip", inputs=", low, high", low=np.float32(0), high=np.float32(6))
    found = covered(tmp_path, model, ramp(*ranges))
    assert found.activations[0].idle == idle
    assert found.warnings() == [f"Clip (makes `y`): no channel reaches its {s}" for s in idle]


def test_a_relu_that_never_cuts_is_told(tmp_path):
    found = covered(tmp_path, one("Relu"), ramp((1, 2), (1, 2), (1, 2)))
    assert found.share == 1
    assert found.activations[0].idle == ("minimum",)


def test_bounds_of_run_time_are_not_measured(tmp_path):
    model = graph("g (float[N, 3, 4] x, float top) => (float[N, 3, 4] y) { y = Clip(x, , top) }")
    found = covered(tmp_path, model, {**ramp((0, 1), (0, 1), (0, 1)), "top": np.float32(1)})
    assert found.unmeasured == ("Clip (makes `y`)",)
    assert found.share is None
    assert "not measured" in found.line()


@pytest.mark.parametrize(
    "kind", ["LeakyRelu", "Elu", "Selu", "Celu", "HardSwish", "Softplus", "ThresholdedRelu"]
)
def test_the_positive_side_of_the_others(tmp_path, kind):
    found = covered(tmp_path, one(kind), ramp((-9, -4), (-9, 4), (2, 4)))
    expected = () if kind == "Softplus" else (0,)  # which is positive everywhere
    assert found.activations[0].silent == expected


def test_prelu_and_hard_sigmoid(tmp_path):
    model = one("PRelu", inputs=", slope", slope=np.full((3, 1), 0.1, np.float32))
    assert covered(tmp_path, model, ramp((-9, -4), (-9, 4), (2, 4))).activations[0].excited == 2
    found = covered(tmp_path, one("HardSigmoid"), ramp((-9, -4), (4, 9), (-1, 1)))
    assert found.activations[0].silent == (0, 1)


def test_channels_are_last_behind_a_matmul(tmp_path):
    model = graph(
        """g (float[N, L, 3] x) => (float[N, L, 2] y) {
            p = MatMul(x, W)
            q = Add(p, b)
            y = Relu(q)
        }""",
        W=np.ones((3, 2), np.float32),
        b=np.array([0, -100], np.float32),
    )
    found = covered(tmp_path, model, {"x": np.ones((2, 5, 3), np.float32)})
    assert found.activations[0].channels == 2
    assert found.activations[0].silent == (1,)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types(tmp_path, dtype):
    if dtype == np.float64:
        model = graph("g (double[N, 3, 4] x) => (double[N, 3, 4] y) { y = Relu(x) }")
    else:
        model = graph("g (float16[N, 3, 4] x) => (float16[N, 3, 4] y) { y = Relu(x) }")
    feeds = {"x": ramp((-2, -1), (-1, 1), (1, 2))["x"].astype(dtype)}
    assert covered(tmp_path, model, feeds).activations[0].excited == 2


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_operator_sets(tmp_path, opset):
    model = one("Relu", opset=opset)
    assert covered(tmp_path, model, ramp((-2, -1), (-1, 1), (1, 2))).activations[0].excited == 2


def test_the_dead_channel_of_a_network(tmp_path):
    model = MODELS["dead"]()
    found = covered(tmp_path, model, images(2, 3, 16, 16), images(1, 3, 16, 16, seed=1))
    assert found.activations[0].silent == (3,)
    assert found.activations[0].node == "Relu (makes `r`)"
    assert found.channels == 8


def test_discrete_outputs(tmp_path):
    assert covered(tmp_path, MODELS["labels"](), images(1, 3, 16, 16)).discrete == ("label",)
    model = conv_bn_net()
    last = [
        helper.make_node("Greater", ["scores", "scores"], ["more"]),
        helper.make_node("Cast", ["more"], ["flags"], to=1),
    ]
    model.graph.node.extend(last)
    model.graph.output.append(helper.make_tensor_value_info("flags", 1, ["N", 5]))
    assert covered(tmp_path, model, images(1, 3, 16, 16)).discrete == ("flags",)


def test_the_values_of_topk_are_not_discrete(tmp_path):
    model = graph(
        "g (float[N, 3] x) => (float[N, 2] v, int64[N, 2] i) { v, i = TopK<axis=1>(x, k) }",
        k=np.array([2]),
    )
    assert covered(tmp_path, model, images(4, 3)).discrete == ("i",)


def test_a_vector_without_channels_does_not_hide_the_others(tmp_path):
    text = """g (float[N, 3, 4] x, float[3] v) => (float[N, 3, 4] y, float[3] z) {
        y = Relu(x)
        z = Relu(v)
    }"""
    feeds = {**ramp((-2, -1), (-1, 0), (-1, 1)), "v": np.ones(3, np.float32)}
    found = covered(tmp_path, graph(text), feeds)
    assert [one.excited for one in found.activations] == [1]
    assert found.unmeasured == ("Relu (makes `z`)",)


def test_inside_a_body_nothing_is_measured(tmp_path):
    model = graph(
        """g (bool c, float[N, 2] x) => (float[N, 2] y) {
            y = If (c) <
                then_branch = yes () => (float[N, 2] a) { a = Relu(x) },
                else_branch = no () => (float[N, 2] b) { b = Neg(x) }
            >
        }"""
    )
    found = covered(tmp_path, model, {**images(1, 2), "c": np.array(True)})
    assert found.unmeasured == ("Relu (makes `a`)",)

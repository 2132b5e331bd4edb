"""If, Loop and Scan: bodies, what they capture, weights inside them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from pytorch.interpreter.nodes import by_module, by_onnxruntime, randoms
from pytorch.interpreter.texts import parse

from normsurgery.pytorch import to_module, update_weights


def assert_same(model: onnx.ModelProto, feeds: dict) -> None:
    module = to_module(model)
    for found, expected in zip(by_module(module, feeds), by_onnxruntime(model, feeds), strict=True):
        assert found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-6)


BRANCHES = """g (bool yes, float[2, 3] x) => (float[2, 3] y) {
    two = Add(x, x)
    y = If (yes) <
        then_branch = g1 () => (float[2, 3] a) {
            w = Constant<value = float[3] {1.0, 2.0, 3.0}> ()
            a = Mul(two, w)
        },
        else_branch = g2 () => (float[2, 3] b) { b = Sub(x, shift) }
    >
}"""


@pytest.mark.parametrize("yes", [True, False])
def test_if(yes):
    model = parse(BRANCHES, shift=np.array([0.5, 1.0, 2.0], np.float32))
    assert_same(model, {"yes": np.array(yes), "x": randoms(0, (2, 3))[0].astype(np.float32)})


def test_weights_of_a_branch_train_and_go_back():
    model = parse(BRANCHES, shift=np.array([0.5, 1.0, 2.0], np.float32))
    module = to_module(model)
    assert {k for k, _ in module.named_parameters()} == {"w", "shift"}
    module(torch.tensor(True), torch.ones(2, 3)).sum().backward()
    assert torch.equal(module.w.grad, torch.full((3,), 4.0))
    assert module.shift.grad is None
    with torch.no_grad():
        module.w += 1
    result = update_weights(model, module)
    assert result.report.written == ["w"]
    feeds = {"yes": np.array(True), "x": np.ones((2, 3), np.float32)}
    assert by_onnxruntime(result.model, feeds)[0][0].tolist() == [4.0, 6.0, 8.0]


LOOP = """g (int64 n, float[2] x) => (float[2] last, float[k, 2] all) {
    last, all = Loop (n, go, x) <
        body = b (int64 i, bool c, float[2] s) => (bool more, float[2] t, float[2] u) {
            step = Cast<to = 1> (i)
            half = Constant<value_float = 0.5> ()
            scaled = Mul(s, half)
            t = Add(scaled, step)
            u = Mul(t, w)
            sum = ReduceSum<keepdims = 0> (t)
            more = Less(sum, limit)
        }
    >
}"""


@pytest.mark.parametrize("turns", [0, 3, 100])
def test_loop(turns):
    model = parse(
        LOOP,
        go=np.array(True),
        w=np.array([1.0, 2.0], np.float32),
        limit=np.array(20.0, np.float32),
    )
    feeds = {"n": np.array(turns), "x": np.array([1.0, -1.0], np.float32)}
    if turns:
        assert_same(model, feeds)
    else:
        last, _ = to_module(model, check=False)(torch.tensor(0), torch.tensor([1.0, -1.0]))
        assert last.tolist() == [1.0, -1.0]


def test_gradients_go_through_a_loop():
    model = parse(
        LOOP, go=np.array(True), w=np.array([1.0, 2.0], np.float32), limit=np.array(1e9, np.float32)
    )
    module = to_module(model).double()
    _, everything = module(torch.tensor(3), torch.tensor([1.0, -1.0]))
    everything.sum().backward()
    # s: 1, .5, 1.25, 2.625 and −1, −.5, .75, 2.375; u = w·t of each turn
    assert module.w.grad.tolist() == [0.5 + 1.25 + 2.625, -0.5 + 0.75 + 2.375]


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan(backwards):
    text = """g (float[2] s, float[4, 2] x) => (float[2] last, float[4, 2] y) {
        last, y = Scan <
            num_scan_inputs = 1,
            scan_input_directions = [DIRECTION],
            scan_output_directions = [DIRECTION],
            body = b (float[2] before, float[2] one) => (float[2] after, float[2] out) {
                after = Add(before, one)
                out = Mul(after, w)
            }
        > (s, x)
    }""".replace("DIRECTION", str(backwards))
    model = parse(text, w=np.array([1.0, 3.0], np.float32))
    s, x = (a.astype(np.float32) for a in randoms(0, (2,), (4, 2)))
    assert_same(model, {"s": s, "x": x})

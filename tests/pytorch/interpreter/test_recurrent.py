"""LSTM, GRU and RNN against onnxruntime; with torch's own layers in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch.interpreter.nodes import check, node_model, randoms

from normsurgery.errors import UnsupportedModelError
from normsurgery.pytorch import to_module

STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(op_type, directions, seed=0):
    g = GATES[op_type] * HIDDEN
    shapes = [
        (STEPS, BATCH, INPUT),
        (directions, g, INPUT),
        (directions, g, HIDDEN),
        (directions, 2 * g),
    ]
    return randoms(seed, *shapes)


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("more", ["nothing", "state", "lengths"])
def test_against_onnxruntime(op_type, direction, more):
    directions = 2 if direction == "bidirectional" else 1
    arrays = weights(op_type, directions)
    if more != "nothing":
        arrays += [np.array([5, 2, 4], np.int32) if more == "lengths" else None]
        states = 2 if op_type == "LSTM" else 1
        arrays += randoms(1, *[(directions, BATCH, HIDDEN)] * states) if more == "state" else []
    check(
        op_type, arrays, settings=(1, 2, 3), outputs=3 if op_type == "LSTM" else 2, opset=14,
        direction=direction, hidden_size=HIDDEN, oracle=False,
    )  # fmt: skip


def test_variants():
    arrays = weights("GRU", 1)
    for after in (0, 1):
        check("GRU", arrays, outputs=2, hidden_size=HIDDEN, linear_before_reset=after, oracle=False)
    check(
        "RNN", weights("RNN", 1), outputs=2, hidden_size=HIDDEN, activations=["Relu"], oracle=False
    )
    check("LSTM", weights("LSTM", 1)[:3], outputs=1, hidden_size=HIDDEN, oracle=False)


def test_what_is_not_known_is_refused():
    arrays = weights("LSTM", 1)
    for attributes, name in (
        ({"clip": 1.0}, "clip"),
        ({"layout": 1}, "layout"),
        ({"activations": ["Affine"] * 3}, "activations"),
    ):
        model = node_model("LSTM", arrays, hidden_size=HIDDEN, **attributes)
        with pytest.raises(UnsupportedModelError, match=f"LSTM `node`: .*{name}"):
            to_module(model, check=False)
    arrays += [None, None, None, randoms(2, (1, 3 * HIDDEN))[0]]
    with pytest.raises(UnsupportedModelError, match="peepholes"):
        to_module(node_model("LSTM", arrays, hidden_size=HIDDEN), check=False)


def test_gradients_are_those_of_torchs_lstm():
    layer = torch.nn.LSTM(INPUT, HIDDEN).double()
    i, f, g, o = (slice(n * HIDDEN, (n + 1) * HIDDEN) for n in range(4))

    def onnx_order(tensor):
        return torch.cat([tensor[i], tensor[o], tensor[f], tensor[g]])

    W, R = (onnx_order(w.detach()).numpy()[None] for w in (layer.weight_ih_l0, layer.weight_hh_l0))
    B = torch.cat([onnx_order(b.detach()) for b in (layer.bias_ih_l0, layer.bias_hh_l0)]).numpy()[
        None
    ]
    (x,) = randoms(0, (STEPS, BATCH, INPUT))
    model = node_model(
        "LSTM", [x, W, R, B], constants=(1, 2, 3), hidden_size=HIDDEN, dtype=np.float64
    )
    module = to_module(model, check=False)
    ours, (theirs, _) = module(torch.from_numpy(x)), layer(torch.from_numpy(x))
    assert torch.allclose(ours[:, 0], theirs, atol=1e-14)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert torch.allclose(module.i1.grad[0], onnx_order(layer.weight_ih_l0.grad), atol=1e-13)
    assert torch.allclose(module.i2.grad[0], onnx_order(layer.weight_hh_l0.grad), atol=1e-13)

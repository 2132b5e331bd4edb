from __future__ import annotations

import numpy as np
import onnx
from validation.nets import graph

from normsurgery import runtime
from normsurgery.validation import oracle
from normsurgery.validation.order import sort


def shuffled(model, order):
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[at] for at in order)
    return model


def names(model):
    return [node.output[0] for node in model.graph.node]


def net():
    return graph("g (float[4] x) => (float[4] e) {a = Relu(x) b = Neg(x) c = Add(a, b) "
                 "d = Exp(c) e = Mul(d, a)}")  # fmt: skip


def test_what_is_in_order_stays():
    model = net()
    before = model.SerializeToString()
    sort(model.graph)
    assert model.SerializeToString() == before


def test_what_is_not_is_put_in_order(tmp_path):
    model = shuffled(net(), [4, 2, 3, 1, 0])
    onnx.save(model, str(tmp_path / "m.onnx"))
    sort(model.graph)
    assert names(model) == ["b", "a", "c", "d", "e"]
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    true = oracle.run(oracle.load(tmp_path / "m.onnx"), {"x": x})["e"]
    assert np.allclose(true, np.exp(np.maximum(x, 0) - x) * np.maximum(x, 0))
    assert np.allclose(runtime.run(runtime.session(tmp_path / "m.onnx"), {"x": x})["e"], true)


def test_bodies_and_what_they_read(tmp_path):
    model = graph("g (float[4] x, bool c) => (float[4] y) {k = Neg(x) y = If<"
                  "then_branch = t () => (float[4] u) {v = Exp(k) u = Neg(v)}, "
                  "else_branch = f () => (float[4] w) {w = Identity(x)}>(c)}")  # fmt: skip
    branch = model.graph.node[1].attribute[0].g
    nodes = list(branch.node)
    del branch.node[:]
    branch.node.extend(reversed(nodes))
    sort(shuffled(model, [1, 0]).graph)
    assert [node.op_type for node in model.graph.node] == ["Neg", "If"]
    assert [node.op_type for node in model.graph.node[1].attribute[0].g.node] == ["Exp", "Neg"]


def test_a_cycle_is_left_alone():
    model = graph("g (float[4] x) => (float[4] y) {a = Add(x, y) y = Relu(a)}")
    sort(model.graph)
    assert names(model) == ["a", "y"]

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from validation.nets import conv_bn_net, graph

from normsurgery import runtime
from normsurgery.providers import CPU, CUDA
from normsurgery.validation.placement import place

TEXT = """g (float[N,4] x) => (float[N,4] y, int64[?] n) {
    r = Relu(x)
    s = Shape(r)
    f = Gather(s, zero)
    g = Add(f, one)
    n = NonZero(r)
    y = Elu(r)
}"""
ON_CUDA = [(CUDA, "Relu", "relu"), (CUDA, "Elu", "")]
ON_CPU = [(CPU, "Shape", "shape"), (CPU, "Gather", "first"), (CPU, "Add", "add")]


@pytest.fixture
def model():
    made = graph(TEXT, zero=np.array(0), one=np.array(1))
    names = ["relu", "shape", "first", "add", "nonzero", ""]
    for node, name in zip(made.graph.node, names, strict=True):
        node.name = name
    return made


def test_shape_arithmetic_belongs_on_the_cpu(model):
    found = place([*ON_CUDA, *ON_CPU, (CUDA, "NonZero", "nonzero")], CUDA, model)
    assert found.ok
    assert found.nodes == {"CUDA": 3, "CPU": 3}
    assert found.shapes == 3
    assert found.line() == "nodes: 3 on CPU, 3 on CUDA (3 of shape arithmetic)"


def test_a_node_that_fell_back_is_named_and_fails(model):
    record = [*ON_CUDA, *ON_CPU, (CPU, "NonZero", "nonzero")]
    found = place(record, CUDA, model)
    assert not found.ok
    assert found.fell_back == ("NonZero nonzero",)
    assert "FELL BACK: NonZero nonzero" in found.line()
    assert json.loads(json.dumps(found.to_dict()))["ok"] is False


@pytest.mark.parametrize("name", ["nonzero", "NonZero"])
def test_it_may_be_allowed_by_name_or_operator(model, name):
    found = place([*ON_CUDA, (CPU, "NonZero", "nonzero")], CUDA, model, [name])
    assert found.ok
    assert found.allowed == ("NonZero nonzero",)
    assert place([*ON_CUDA, (CPU, "NonZero", "nonzero")], CUDA, model, ["other"]).ok is False


def test_nameless_nodes_are_counted(model):
    record = [(CUDA, "Relu", "relu"), (CPU, "Elu", ""), (CPU, "Elu", "")]
    assert place(record, CUDA, model).fell_back == ("Elu ×2",)


def test_a_nameless_node_that_may_be_another_is_not_excused():
    model = graph("g (float[N,4] x) => (float[N,4] y, int64[1] t) "
                  "{y = Identity(x) s = Shape(x) t = Identity(s)}")  # fmt: skip
    assert place([(CUDA, "Shape", ""), (CPU, "Identity", "")], CUDA, model).ok is False


def test_copies_are_no_fall_back_and_no_work(model):
    found = place(
        [*ON_CUDA, (CUDA, "MemcpyToHost", "m"), (CPU, "MemcpyFromHost", "n")], CUDA, model
    )
    assert found.ok
    assert not place([], CUDA, model).ok  # nothing ran on CUDA: nothing was proved
    assert not place([(CPU, "Shape", "shape")], CUDA, model).ok


def test_the_record_of_a_session(tmp_path):
    path = tmp_path / "m.onnx"
    net = conv_bn_net()
    onnx.save(net, str(path))
    record = runtime.assigned(runtime.session(path))
    if record is None:
        pytest.skip("this onnxruntime is older than 1.24 and records nothing")
    assert sorted(op for _, op, _ in record) == sorted(node.op_type for node in net.graph.node)
    assert place(record, CPU, net).ok
    pretended = place(record, CUDA, net)
    assert not pretended.ok
    assert "Conv a" in pretended.fell_back


def test_an_onnxruntime_without_a_record_says_so():
    assert runtime.assigned(object()) is None

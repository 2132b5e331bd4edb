from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from anymodel import models, same
from hypothesis import given, settings
from onnx import ModelProto, TensorProto, helper, numpy_helper

from normsurgery import io, tensors
from normsurgery.errors import GraphError, UnsafeModelError
from normsurgery.payloads import Computed
from normsurgery.tensors import tensors_in

if TYPE_CHECKING:
    from pathlib import Path


def model_of(*stored: TensorProto) -> ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], list(stored)))


def bits(array: Any) -> Any:
    return (array.dtype, array.shape, array.tobytes())


@given(models())
@settings(max_examples=60)
def test_every_tensor_reads_as_onnx_reads_it(model: ModelProto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "LARGE", 8)
        loaded = io.from_proto(model)
        pairs = list(zip(tensors_in(model), tensors_in(loaded.proto), strict=True))
        for before, after in pairs:
            expected = numpy_helper.to_array(before)
            if before.data_type == TensorProto.STRING:
                assert loaded.store.array(after).tolist() == expected.tolist()
            else:
                assert bits(loaded.store.array(after)) == bits(expected)
        assert same(io.to_proto(loaded), model)


def test_tensors_in_finds_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    one = numpy_helper.from_array(np.zeros(1), "w")
    model = model_of(one)
    node = model.graph.node.add(op_type="If")
    node.attribute.add(name="then").g.initializer.append(one)
    node.attribute.add(name="all").graphs.add().initializer.append(one)
    node.attribute.add(name="t").t.CopyFrom(one)
    node.attribute.add(name="ts").tensors.append(one)
    node.attribute.add(name="s").sparse_tensor.values.CopyFrom(one)
    node.attribute.add(name="ss").sparse_tensors.add().indices.CopyFrom(one)
    model.graph.sparse_initializer.add().values.CopyFrom(one)
    model.training_info.add().algorithm.initializer.append(one)
    function = model.functions.add()
    function.node.add().attribute.add(name="t").t.CopyFrom(one)
    function.attribute_proto.add(name="t").t.CopyFrom(one)
    assert len(list(tensors_in(model))) == 11


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (TensorProto(name="w", data_type=1, dims=[5000], raw_data=bytes(19_999)), "20000 bytes"),
        (TensorProto(name="w", data_type=1, dims=[5001], float_data=[0] * 5000), "20004 bytes"),
        (TensorProto(name="w", data_type=1, dims=[5000], double_data=[0] * 2500), "another type"),
        (TensorProto(name="w", data_type=11, dims=[2500], float_data=[0] * 5000), "another type"),
        (TensorProto(name="w", data_type=8, dims=[5000], raw_data=bytes(20_000)), "needs None"),
        (TensorProto(name="w", data_type=1, dims=[-1], float_data=[1, 2]), "negative dimension"),
    ],
)
def test_refused_at_loading(tensor: TensorProto, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        io.from_proto(model_of(tensor))


def test_too_many_elements() -> None:
    with pytest.raises(UnsafeModelError, match="claims 1099511627776000 elements"):
        io.from_proto(model_of(TensorProto(name="w", data_type=1, dims=[1 << 40, 1000])))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="w", data_type=1, dims=[3], raw_data=bytes(8)),
        TensorProto(name="w", data_type=1, dims=[3], float_data=[1]),
        TensorProto(name="w", data_type=0, dims=[1], raw_data=bytes(4)),
        TensorProto(name="w", data_type=99, dims=[1], raw_data=bytes(4)),
        TensorProto(name="w", data_type=8, dims=[1], string_data=[b"\xff"]),
        TensorProto(name="w", data_type=22, dims=[9], raw_data=bytes(1)),
        TensorProto(name="w", data_type=1, dims=[1], segment=TensorProto.Segment(begin=0)),
    ],
)
def test_small_tensor_that_cannot_be_read(tensor: TensorProto) -> None:
    model = io.from_proto(model_of(tensor))
    with pytest.raises(GraphError, match="cannot be read"):
        model.store.array(model.proto.graph.initializer[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, "int4", "bfloat16", np.bool_])
def test_large_tensors_are_views(dtype: Any) -> None:
    values = (np.arange(40_000) % 2).astype(
        helper.tensor_dtype_to_np_dtype(getattr(TensorProto, str(dtype).upper()))
        if isinstance(dtype, str)
        else dtype
    )
    model = io.from_proto(model_of(numpy_helper.from_array(values.reshape(2, -1), "w")))
    tensor = model.proto.graph.initializer[0]
    assert len(model.proto.SerializeToString()) < 200
    array = model.store.array(tensor)
    assert bits(array) == bits(values.reshape(2, -1))
    if dtype != "int4":
        assert not array.flags.writeable
        assert np.shares_memory(array, model.store.array(tensor))


def test_external_data_comes_before_data_inside(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    (tmp_path / "data").write_bytes(values.tobytes())
    for inside in (32, 40_000):
        tensor = TensorProto(name="w", data_type=1, dims=[8], raw_data=bytes(inside))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
        model = io.from_proto(model_of(tensor), tmp_path / "model.onnx")
        assert np.array_equal(model.store.array(model.proto.graph.initializer[0]), values)
        (written,) = io.to_proto(model).graph.initializer
        assert np.array_equal(numpy_helper.to_array(written), values)


def test_put_replaces_everything() -> None:
    tensor = TensorProto(
        name="w", data_type=11, dims=[2], double_data=[1, 2], doc_string="about", raw_data=b"x"
    )
    tensor.external_data.add(key="location", value="data")
    model = io.from_proto(model_of(numpy_helper.from_array(np.zeros(1), "v")))
    added = model.proto.graph.initializer.add()
    added.CopyFrom(tensor)
    model.store.put(added, Computed(np.array([3.0, 4]), (np.array([2.0]),), 11))
    assert model.store.array(added).tolist() == [6, 8]
    buffer = BytesIO()
    io.write(model, buffer)
    written = onnx.load_from_string(buffer.getvalue()).graph.initializer[1]
    assert numpy_helper.to_array(written).tolist() == [6, 8]
    assert written.doc_string == "about"
    assert not written.double_data
    assert not written.external_data


@pytest.mark.parametrize("shape", [(), (0, 3), (300, 400)])
def test_computed_tensors_are_read_rounded(shape: tuple[int, ...]) -> None:
    model = io.from_proto(model_of(TensorProto(name="w", data_type=10, dims=shape)))
    tensor = model.proto.graph.initializer[0]
    model.store.put(tensor, Computed(np.full(shape, 0.1), (), 10))
    array = model.store.array(tensor)
    assert bits(array) == bits(np.full(shape, 0.1).astype(np.float16))


@pytest.mark.parametrize(
    "where", ["node", "value", "attribute", "tensor", "input", "function", "body"]
)
def test_names_that_are_not_utf8(where: str) -> None:
    from normsurgery.errors import InvalidModelError

    model = model_of(numpy_helper.from_array(np.zeros(1), "NAME" if where == "tensor" else "w"))
    node = model.graph.node.add(op_type="If", name="NAME" if where == "node" else "n")
    node.output.append("NAME" if where == "value" else "y")
    attribute = node.attribute.add(name="NAME" if where == "attribute" else "then")
    attribute.g.node.add(op_type="Abs", name="NAME" if where == "body" else "n")
    model.graph.input.add(name="NAME" if where == "input" else "x")
    model.functions.add(name="NAME" if where == "function" else "f")
    data = model.SerializeToString()
    io.from_bytes(data)
    with pytest.raises(InvalidModelError, match="is no UTF-8"):
        io.from_bytes(data.replace(b"NAME", b"N\xff\xfeE"))

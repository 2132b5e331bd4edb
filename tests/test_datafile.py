from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from normsurgery import datafile, io
from normsurgery.content import Content


def values(size: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)


def model_of(*arrays: Any) -> io.Model:
    stored = [numpy_helper.from_array(a, f"w{i}") for i, a in enumerate(arrays)]
    return io.from_proto(helper.make_model(helper.make_graph([], "g", [], [], stored)))


def entries(tensor: TensorProto) -> dict[str, str]:
    return {e.key: e.value for e in tensor.external_data}


def skeleton(path: Path) -> ModelProto:
    return onnx.load(path, load_external_data=False)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_layout_of_the_file(tmp_path: Path) -> None:
    arrays = [values(5000), values(7, 1), values(9001, 2)]
    data = io.save(model_of(*arrays), tmp_path / "m.onnx", external=True)
    assert data is not None
    content = data.read_bytes()
    first, small, last = skeleton(tmp_path / "m.onnx").graph.initializer
    assert not small.external_data, "what is small stays in the model"
    for tensor, array in ((first, arrays[0]), (last, arrays[2])):
        found = entries(tensor)
        offset, length = int(found["offset"]), int(found["length"])
        assert set(found) == {"location", "offset", "length"}
        assert found["location"] == data.name
        assert offset % 4096 == 0
        assert content[offset : offset + length] == array.tobytes()
        assert tensor.data_location == TensorProto.EXTERNAL
        assert not tensor.raw_data
    assert int(entries(last)["offset"]) == 5 * 4096, "no more padding than it takes"
    assert len(content) == 5 * 4096 + arrays[2].nbytes


def test_name_holds_the_hash_of_the_content(tmp_path: Path) -> None:
    made = set()
    for seed in (0, 1, 0):
        data = io.save(model_of(values(5000, seed)), tmp_path / "m.onnx", external=True, force=True)
        assert data is not None
        made.add(data.name)
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
        assert data.name == f"m.onnx.{digest[:16]}.data"
    assert len(made) == 2
    assert names(tmp_path) == sorted({"m.onnx", *made}), "older data is never touched"


@pytest.mark.parametrize("name", ["a b:c\\d.onnx", "..onnx", "模型.onnx"])
def test_location_is_one_that_loads(tmp_path: Path, name: str) -> None:
    array = values(5000)
    data = io.save(model_of(array), tmp_path / name, external=True)
    assert data is not None
    back = io.load(tmp_path / name)
    assert np.array_equal(back.store.array(back.proto.graph.initializer[0]), array)
    assert not set(data.name) & set(" :\\")


def test_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = Path(str(tmp_path) + "/\udcff.onnx")
    assert io.save(model_of(values(5000)), path, external=True) is not None
    assert io.load(path).proto.graph.initializer[0].external_data


def test_nothing_large_no_file(tmp_path: Path) -> None:
    assert io.save(model_of(values(7)), tmp_path / "m.onnx", external=True) is None
    assert names(tmp_path) == ["m.onnx"]


def test_what_is_moved(tmp_path: Path) -> None:
    """Initializers go, attributes only where they were external before."""
    stored = [numpy_helper.from_array(values(5000, i), f"w{i}") for i in range(3)]
    (tmp_path / "data").write_bytes(stored[2].raw_data)
    outside = TensorProto(name="o", data_type=1, dims=[5000])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="data")
    nodes = [
        helper.make_node("Constant", [], ["a"], value=stored[1]),
        helper.make_node("Constant", [], ["b"], value=outside),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [], [], stored[:1]))
    model = io.from_proto(proto, tmp_path / "x.onnx")
    io.save(model, tmp_path / "m.onnx")
    back = skeleton(tmp_path / "m.onnx").graph
    assert back.initializer[0].external_data
    assert not back.node[0].attribute[0].t.external_data
    assert back.node[0].attribute[0].t.raw_data == stored[1].raw_data
    assert entries(back.node[1].attribute[0].t)["location"] != "data"
    whole = onnx.load(tmp_path / "m.onnx").graph
    assert whole.node[1].attribute[0].t.raw_data == stored[2].raw_data


def test_copies_of_a_tensor_are_stored_once(tmp_path: Path) -> None:
    model = model_of(values(5000))
    copy = model.proto.graph.initializer.add()
    copy.CopyFrom(model.proto.graph.initializer[0])
    copy.name = "copy"
    data = io.save(model, tmp_path / "m.onnx", external=True)
    assert data is not None
    assert data.stat().st_size == 20_000
    back = onnx.load(tmp_path / "m.onnx").graph.initializer
    assert back[0].raw_data == back[1].raw_data == values(5000).tobytes()


def test_checksum_is_the_sha1_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "source.onnx"
    io.save(model_of(values(5000)), path, external=True)
    proto = skeleton(path)
    proto.graph.initializer[0].external_data.add(key="checksum", value="0" * 40)
    path.write_bytes(proto.SerializeToString())
    model = io.load(path)
    model.proto.graph.initializer[0].doc_string = "edited"
    data = io.save(model, tmp_path / "m.onnx")
    assert data is not None
    found = entries(skeleton(tmp_path / "m.onnx").graph.initializer[0])
    assert found["checksum"] == hashlib.sha1(data.read_bytes(), usedforsecurity=False).hexdigest()


class StopError(Exception):
    pass


def moved_then(tmp_path: Path, action: Any) -> None:
    model = model_of(values(5000))
    content = Content.of(model.proto, model.store)
    path = tmp_path / "m.onnx"
    with datafile.moved_out(content, path, was_external=[False], checksum=False) as data:
        assert data is not None
        assert data.is_file()
        action(path)


def test_an_error_takes_the_file_away(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise StopError

    with pytest.raises(StopError):
        moved_then(tmp_path, fail)
    assert names(tmp_path) == []


def test_an_error_after_the_model_is_there_leaves_the_file(tmp_path: Path) -> None:
    """An interrupt after the rename must not take the data of the model that is there now."""

    def fail(path: Path) -> None:
        path.write_bytes(b"model")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moved_then(tmp_path, fail)
    assert len(names(tmp_path)) == 2


def test_a_damaged_file_of_that_name_is_replaced(tmp_path: Path) -> None:
    moved_then(tmp_path, lambda _: None)
    (damaged,) = tmp_path.iterdir()
    damaged.write_bytes(b"damaged")
    moved_then(tmp_path, lambda _: None)
    assert damaged.read_bytes() == values(5000).tobytes()


def test_an_error_leaves_a_file_that_was_there_before(tmp_path: Path) -> None:
    """An older output with the same data uses it."""
    moved_then(tmp_path, lambda _: None)
    before = names(tmp_path)
    assert len(before) == 1

    def fail(_: Path) -> None:
        raise StopError

    with pytest.raises(StopError):
        moved_then(tmp_path, fail)
    assert names(tmp_path) == before

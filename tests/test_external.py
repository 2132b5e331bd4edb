from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from normsurgery import external, io
from normsurgery.errors import (
    GraphError,
    MissingDataError,
    NormSurgeryError,
    UnsafeModelError,
)

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(4, dtype=np.float32)


def model_with(tensor: TensorProto) -> ModelProto:
    graph = helper.make_graph([], "g", [], [], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def tensor_at(location: str, **entries: Any) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location} | entries).items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with good data; ``outside`` is beside it."""
    (tmp_path / "outside").write_bytes(VALUES.tobytes())
    inside = tmp_path / "models"
    (inside / "sub").mkdir(parents=True)
    (inside / "data").write_bytes(VALUES.tobytes())
    (inside / "sub" / "data").write_bytes(VALUES.tobytes())
    return inside


def load(folder: Path, location: str, **entries: Any) -> Any:
    path = folder / "model.onnx"
    path.write_bytes(model_with(tensor_at(location, **entries)).SerializeToString())
    model = io.load(path)
    return model.store.array(model.proto.graph.initializer[0])


@pytest.mark.parametrize("location", ["data", "./data", "sub/data", "sub//data"])
def test_files_in_the_folder_are_read(folder: Path, location: str) -> None:
    assert np.array_equal(load(folder, location), VALUES)


def test_offset_and_length(folder: Path) -> None:
    (folder / "data").write_bytes(b"before" + VALUES.tobytes() + b"after")
    assert np.array_equal(load(folder, "data", offset=6, length=16), VALUES)
    assert np.array_equal(load(folder, "data", offset=6), VALUES)


def refused(
    folder: Path, error: type[NormSurgeryError], location: str, match: str, **entries: Any
) -> None:
    with pytest.raises(error, match=match) as caught:
        load(folder, location, **entries)
    codes = {
        UnsafeModelError: ("NS-E500", 5),
        MissingDataError: ("NS-E401", 4),
        GraphError: ("NS-E302", 3),
    }
    assert (caught.value.code, caught.value.exit_status) == codes[error]
    assert "'w'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "", "/etc/hostname", "//host/share/data", "\\\\host\\share\\data", "C:\\data", "C:data",
        "c:/data", "\\data", "data\0", "\0",
    ],
)  # fmt: skip
def test_not_a_relative_path(folder: Path, location: str) -> None:
    refused(folder, UnsafeModelError, location, "is not a relative path")


def test_absolute_path_into_the_folder(folder: Path) -> None:
    refused(folder, UnsafeModelError, str(folder / "data"), "is not a relative path")


@pytest.mark.parametrize("location", ["../outside", "sub/../data", "..", "sub\\..\\data"])
def test_parent_folders(folder: Path, location: str) -> None:
    refused(folder, UnsafeModelError, location, "leaves the model's folder")


def test_no_location(folder: Path) -> None:
    tensor = tensor_at("data")
    del tensor.external_data[:]
    path = folder / "model.onnx"
    path.write_bytes(model_with(tensor).SerializeToString())
    with pytest.raises(UnsafeModelError, match="is not a relative path"):
        io.load(path)


def test_location_that_is_not_utf8(folder: Path) -> None:
    data = model_with(tensor_at("data")).SerializeToString()
    path = folder / "model.onnx"
    path.write_bytes(data.replace(b"\x12\x04data", b"\x12\x04dat\xff"))
    with pytest.raises(UnsafeModelError, match="UTF-8"):
        io.load(path)


def test_link_that_leaves_the_folder(folder: Path) -> None:
    (folder / "link").symlink_to("../outside")
    refused(folder, UnsafeModelError, "link", "a link that leaves")


def test_folder_link_that_leaves_the_folder(folder: Path) -> None:
    (folder / "link").symlink_to("..", target_is_directory=True)
    refused(folder, UnsafeModelError, "link/outside", "a link that leaves")


def test_link_inside_the_folder(folder: Path) -> None:
    (folder / "link").symlink_to("sub/data")
    assert np.array_equal(load(folder, "link"), VALUES)


def test_link_to_nothing(folder: Path) -> None:
    (folder / "link").symlink_to("nothing")
    refused(folder, MissingDataError, "link", "cannot be read")


def test_links_in_a_circle(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    refused(folder, MissingDataError, "a", "cannot be read")


def test_hard_link(folder: Path) -> None:
    os.link(folder.parent / "outside", folder / "link")
    refused(folder, UnsafeModelError, "link", "hard link")


def test_fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    refused(folder, UnsafeModelError, "pipe", "not a regular file")


@pytest.mark.parametrize("location", ["sub", ".", "./"])
def test_folder_as_data(folder: Path, location: str) -> None:
    refused(folder, UnsafeModelError, location, "not a regular file")


def test_device(folder: Path) -> None:
    try:
        os.mknod(folder / "null", 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    refused(folder, UnsafeModelError, "null", "not a regular file")


def test_missing_file(folder: Path) -> None:
    refused(folder, MissingDataError, "nothing", "is not there; put the file beside")
    refused(folder, MissingDataError, "data/below", "cannot be read")
    refused(folder, MissingDataError, "x" * 5000, "cannot be read")


def test_no_folder() -> None:
    with pytest.raises(MissingDataError, match="without a folder"):
        io.from_proto(model_with(tensor_at("data")))


def test_type_without_bytes(folder: Path) -> None:
    tensor = tensor_at("data")
    tensor.data_type = TensorProto.STRING
    path = folder / "model.onnx"
    path.write_bytes(model_with(tensor).SerializeToString())
    with pytest.raises(GraphError, match="cannot be external"):
        io.load(path)


def test_file_too_short(folder: Path) -> None:
    refused(folder, MissingDataError, "data", "ends at byte 17", offset=1)
    (folder / "empty").touch()
    refused(folder, MissingDataError, "empty", "the file at 0")


@pytest.mark.parametrize("entries", [{"offset": -1}, {"length": 15}, {"length": 17}, {"length": 0}])
def test_wrong_extent(folder: Path, entries: dict[str, int]) -> None:
    refused(folder, GraphError, "data", "needs 16 bytes", **entries)


@pytest.mark.parametrize("entries", [{"offset": "x"}, {"length": ""}, {"offset": "9" * 5000}])
def test_extent_that_is_no_number(folder: Path, entries: dict[str, str]) -> None:
    refused(folder, GraphError, "data", "no number", **entries)


def test_huge_offset(folder: Path) -> None:
    refused(folder, MissingDataError, "data", "ends at byte", offset=2**70)


def test_download_cache(tmp_path: Path) -> None:
    """Model and data are links out of their folder, into one folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "ab12").write_bytes(model_with(tensor_at("model.onnx.data")).SerializeToString())
    (blobs / "cd34").write_bytes(VALUES.tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/ab12")
    (snapshot / "model.onnx.data").symlink_to("../../blobs/cd34")
    model = io.load(snapshot / "model.onnx")
    assert np.array_equal(model.store.array(model.proto.graph.initializer[0]), VALUES)
    saved = io.save(model, tmp_path / "out.onnx")
    assert saved is None, "16 bytes are not worth a file"
    assert np.array_equal(
        onnx.numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]), VALUES
    )


def test_linked_model_with_data_beside_its_target(tmp_path: Path, folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(model_with(tensor_at("data")).SerializeToString())
    (tmp_path / "link.onnx").symlink_to(path)
    model = io.load(tmp_path / "link.onnx")
    assert np.array_equal(model.store.array(model.proto.graph.initializer[0]), VALUES)


@pytest.mark.parametrize("how", ["other size", "other file", "gone"])
def test_data_that_changes_while_it_is_in_use(folder: Path, how: str) -> None:
    source = external.open_data("data", folder / "model.onnx", "w")
    if how == "other size":
        (folder / "data").write_bytes(b"x")
    elif how == "other file":
        (folder / "new").write_bytes(VALUES.tobytes())
        (folder / "new").replace(folder / "data")
    else:
        (folder / "data").unlink()
    error = MissingDataError if how == "gone" else UnsafeModelError
    with pytest.raises(error, match="'w'"):
        _ = source.view


def test_thousands_of_files(tmp_path: Path) -> None:
    """As some exporters write them, one for each tensor; a process may have 1024 open."""
    model = model_with(tensor_at("0"))
    del model.graph.initializer[:]
    for i in range(1500):
        (tmp_path / str(i)).write_bytes(VALUES.tobytes())
        model.graph.initializer.add().CopyFrom(tensor_at(str(i)))
        model.graph.initializer[i].name = f"w{i}"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    loaded = io.load(tmp_path / "model.onnx")
    io.save(loaded, tmp_path / "out.onnx")
    back = onnx.load(tmp_path / "out.onnx")
    assert all(t.raw_data == VALUES.tobytes() for t in back.graph.initializer)

from __future__ import annotations

import errno
import os
import shutil
import sys
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from anymodel import models, same
from google.protobuf.message import EncodeError
from hypothesis import given, settings
from onnx import ModelProto, TensorProto, helper, numpy_helper

from normsurgery import io, tensors, wire
from normsurgery.errors import (
    InvalidModelError,
    ModelIOError,
    OutputExistsError,
    UsageError,
)
from normsurgery.payloads import Computed

SAMPLES = sorted((Path(__file__).parents[1] / "sample_models").glob("*.onnx"))
ONNX_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
ONNX_MODELS = sorted(ONNX_DATA.glob("*/**/*.onnx"))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def skeleton(path: Path) -> ModelProto:
    return onnx.load(path, load_external_data=False)


def values(size: int = 5000, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)


def small_proto() -> ModelProto:
    """y = x + w, with a weight that is large enough to stay on disk."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [5000]) for n in "xy")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], name="add")]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(values(), "w")])
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "source.onnx"
    path.parent.mkdir()
    path.write_bytes(small_proto().SerializeToString())
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "m.onnx"
    path.parent.mkdir()
    return path


# -- round trips ---------------------------------------------------------------------------------


@given(models())
@settings(max_examples=60)
def test_nothing_is_lost(model: ModelProto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "LARGE", 8)
        before = model.SerializeToString()
        loaded = io.from_proto(model)
        assert same(io.to_proto(loaded), model)
        buffer = BytesIO()
        io.write(loaded, buffer)
        assert same(ModelProto.FromString(buffer.getvalue()), model)
        assert model.SerializeToString() == before


@pytest.mark.parametrize("path", ONNX_MODELS + SAMPLES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_real_models_come_back(path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "LARGE", 256)
    before = path.read_bytes()
    assert io.save(io.load(path), out) is None
    assert same(onnx.load(out), onnx.load(path))
    assert path.read_bytes() == before
    assert names(out.parent) == ["m.onnx"]


def outputs(path: Path, feeds: dict[str, Any]) -> list[Any]:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(None, feeds)
    return results


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_compute_the_same_bits(
    path: Path, out: Path, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "LARGE", 256)
    data = io.save(io.load(path), out, external=external)
    assert (data is not None) == external
    image = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    expected, found = outputs(path, {"image": image}), outputs(out, {"image": image})
    assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


def test_onnx_models_compute_the_same_bits(out: Path) -> None:
    compared = 0
    for path in sorted(ONNX_DATA.glob("pytorch-*/*/model.onnx"))[::4]:
        inputs = sorted(path.parent.glob("test_data_set_0/input_*.pb"))
        arrays = [numpy_helper.to_array(TensorProto.FromString(p.read_bytes())) for p in inputs]
        feeds = dict(zip((i.name for i in onnx.load(path).graph.input), arrays, strict=False))
        try:
            expected = outputs(path, feeds)
        except pytest.skip.Exception:
            raise
        except Exception:  # noqa: BLE001, S112  not every model of onnx runs in onnxruntime
            continue
        io.save(io.load(path), out, force=True, external=True)
        assert [a.tobytes() for a in outputs(out, feeds)] == [a.tobytes() for a in expected]
        compared += 1
    assert compared > 15


def test_external_stays_external(source: Path, out: Path) -> None:
    io.save(io.load(source), source, force=True, external=True)
    data = io.save(io.load(source), out)
    assert data is not None
    assert names(out.parent) == sorted(["m.onnx", data.name])
    assert same(onnx.load(out), onnx.load(source))
    assert skeleton(out).graph.initializer[0].data_location == TensorProto.EXTERNAL


def test_external_becomes_inline_and_back(source: Path, out: Path) -> None:
    before = source.read_bytes()
    data = io.save(io.load(source), out, external=True)
    assert data is not None
    assert io.save(io.load(out), out, external=False, force=True) is None
    assert out.read_bytes() == before
    assert data.is_file(), "the data of the older output may have other readers"


def test_float_data_moves_out_as_raw(out: Path) -> None:
    proto = small_proto()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values().tolist())
    io.save(io.from_proto(proto), out, external=True)
    back = onnx.load(out)
    assert back.graph.initializer[0].raw_data == values().tobytes()
    io.save(io.from_proto(proto), out, external=False, force=True)
    assert same(onnx.load(out), proto)


def test_edited_tensors_are_computed_on_the_way(source: Path, out: Path) -> None:
    model = io.load(source)
    tensor = model.proto.graph.initializer[0]
    model.store.put(tensor, Computed(model.store.array(tensor), (np.array([3.0]),), 1))
    for external in (False, True):
        io.save(model, out, external=external, force=True)
        back = numpy_helper.to_array(onnx.load(out).graph.initializer[0])
        assert np.array_equal(back, (values().astype(np.float64) * 3).astype(np.float32))
    assert same(onnx.load(source), small_proto())


def test_over_the_input_itself(source: Path) -> None:
    before = source.read_bytes()
    model = io.load(source)
    io.save(model, source, force=True)
    io.save(model, source, force=True)
    assert source.read_bytes() == before
    assert names(source.parent) == ["source.onnx"]


def test_over_an_input_with_external_data(source: Path) -> None:
    io.save(io.load(source), source, force=True, external=True)
    model = io.load(source)
    io.save(model, source, force=True)
    io.save(model, source, force=True)
    assert same(_inline(source), small_proto())


def _inline(path: Path) -> ModelProto:
    return io.to_proto(io.load(path))


def test_weights_are_not_read_into_memory(tmp_path: Path) -> None:
    proto = small_proto()
    (weight,) = proto.graph.initializer
    weight.raw_data = bytes(64 << 20)
    weight.dims[:] = [16 << 20]
    path = tmp_path / "big.onnx"
    path.write_bytes(proto.SerializeToString())
    tracemalloc.start()
    for external in (False, True):
        io.save(io.load(path), tmp_path / "out.onnx", external=external, force=True)
    io.save(io.load(tmp_path / "out.onnx"), tmp_path / "again.onnx", external=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20
    assert (tmp_path / "again.onnx").stat().st_size == path.stat().st_size


# -- loading what is no model --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"\0" * 100, "not an ONNX model"),
        (b"<html>not found</html>", "."),
        (b"PK\x03\x04" + bytes(50), "."),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "."),
        (ModelProto(ir_version=10).SerializeToString(), "it has no graph"),
        (ModelProto(graph=onnx.GraphProto(name="g")).SerializeToString(), "no ir_version"),
        (TensorProto(name="w", dims=[1]).SerializeToString(), "."),
    ],
)
def test_not_a_model(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModelError, match=match) as caught:
        io.load(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("name", ["nothing", ".", "nothing/below", "a\0b", "x" * 5000])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelIOError) as caught:
        io.load(tmp_path / name)
    assert (caught.value.code, caught.value.exit_status) == ("NS-E400", 4)


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelIOError, match="not a regular file"):
        io.load(tmp_path / "pipe")


def test_proto_over_2_gib() -> None:
    class Large:
        def SerializeToString(self) -> bytes:  # noqa: N802
            raise EncodeError("Failed to serialize proto")

    with pytest.raises(UsageError, match="save it and pass its path"):
        io.from_proto(Large())


# -- over 2 GiB ----------------------------------------------------------------------------------


def test_too_large_goes_to_a_data_file(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = io.load(source)
    size = source.stat().st_size
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", size)
    assert io.save(model, out) is None, "just fits"
    io.to_proto(model)
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", size - 1)
    assert io.save(model, out, force=True) is not None
    assert same(onnx.load(out), _with_external(source, out))
    with pytest.raises(UsageError, match="over 2 GiB"):
        io.to_proto(model)
    with pytest.raises(UsageError, match="save it to a file"):
        io.write(model, BytesIO())
    with pytest.raises(UsageError, match="without a data file"):
        io.save(model, out, external=False, force=True)
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 50)
    before = names(out.parent)
    with pytest.raises(UsageError, match="even with its initializers outside"):
        io.save(model, out, force=True)
    assert names(out.parent) == before


def _with_external(source: Path, out: Path) -> ModelProto:
    """Return the source's model with the location entries that ``out`` has."""
    proto = onnx.load(source)
    found = onnx.load(out).graph.initializer[0]
    tensor = proto.graph.initializer[0]
    tensor.data_location = found.data_location
    tensor.external_data.extend(found.external_data)
    return proto


# -- nothing by halves ---------------------------------------------------------------------------


def failing(error: BaseException) -> Any:
    def write(*_: object) -> None:
        raise error

    return write


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("where", ["payload", "skeleton", "commit", "check"])
def test_a_failure_leaves_the_old_output(
    source: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    external: bool,
    error: BaseException,
    where: str,
) -> None:
    old = io.save(_other(), out, external=True)
    assert old is not None
    before = {n: (out.parent / n).read_bytes() for n in names(out.parent)}
    check = None
    if where == "payload":
        monkeypatch.setattr("normsurgery.payloads.Slice.write", failing(error))
    elif where == "skeleton":
        monkeypatch.setattr("normsurgery.content.Content.write", failing(error))
    elif where == "commit":
        monkeypatch.setattr(os, "fsync", failing(error))
    else:
        check = failing(error)
    expected = ModelIOError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        io.save(io.load(source), out, force=True, external=external, check=check)
    if isinstance(caught.value, ModelIOError):
        assert "No space left" in str(caught.value)
        assert caught.value.exit_status == 4
    assert {n: (out.parent / n).read_bytes() for n in names(out.parent)} == before


def _other() -> io.Model:
    proto = small_proto()
    proto.graph.initializer[0].raw_data = values(seed=5).tobytes()
    return io.from_proto(proto)


def test_a_failed_check_leaves_the_data_of_an_equal_output(source: Path, out: Path) -> None:
    io.save(io.load(source), out, external=True)
    with pytest.raises(RuntimeError):
        io.save(io.load(source), out, external=True, force=True, check=failing(RuntimeError()))
    assert onnx.load(out).graph.initializer[0].raw_data == values().tobytes()


def test_an_interrupt_after_the_rename_leaves_a_whole_model(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> None:
        real(self, target)
        if target == out:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        io.save(io.load(source), out, external=True)
    assert onnx.load(out).graph.initializer[0].raw_data == values().tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_disk_that_is_really_full(source: Path, out: Path) -> None:
    """A limit on the size of files, which the kernel's copy meets half way."""
    import resource
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, old[1]))
    try:
        with pytest.raises(ModelIOError, match="cannot write"):
            io.save(io.load(source), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(out.parent) == []


def test_check_sees_the_finished_model(source: Path, out: Path) -> None:
    seen = []

    def check(path: Path) -> None:
        seen.append(onnx.load(path))
        assert not out.exists()
        assert path.parent == out.parent

    io.save(io.load(source), out, external=True, check=check)
    assert same(seen[0], onnx.load(out))


def test_permissions_follow_the_umask(source: Path, out: Path) -> None:
    before = os.umask(0o027)
    try:
        data = io.save(io.load(source), out, external=True)
    finally:
        os.umask(before)
    assert data is not None
    assert [p.stat().st_mode & 0o777 for p in (out, data)] == [0o640, 0o640]


# -- where the output may go ---------------------------------------------------------------------


def refused(source: Path, out: Path, match: str, **how: Any) -> ModelIOError:
    with pytest.raises(ModelIOError, match=match) as caught:
        io.save(io.load(source), out, **how)
    return caught.value


def test_output_exists(source: Path, out: Path) -> None:
    out.write_bytes(b"precious")
    error = refused(source, out, "pass --force")
    assert isinstance(error, OutputExistsError)
    assert (error.code, error.exit_status) == ("NS-E402", 4)
    assert out.read_bytes() == b"precious"
    io.save(io.load(source), out, force=True)
    assert same(onnx.load(out), small_proto())


def test_output_is_a_folder(source: Path, out: Path) -> None:
    out.mkdir()
    refused(source, out, "not a regular file", force=True)
    refused(source, Path("/"), "not a regular file", force=True)
    refused(source, Path(), "not a regular file", force=True)


def test_output_is_a_pipe(source: Path, out: Path) -> None:
    os.mkfifo(out)
    refused(source, out, "not a regular file", force=True)


def test_no_such_folder(source: Path, out: Path) -> None:
    refused(source, out.parent / "nothing" / "m.onnx", "there is no folder")
    refused(source, source / "m.onnx", "there is no folder")


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 256, "a\0b"])
def test_impossible_names(source: Path, out: Path, name: str) -> None:
    refused(source, out.parent / name, "cannot write")


def test_read_only_folder(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.parent.chmod(0o555)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    try:
        refused(source, out, "read-only")
    finally:
        out.parent.chmod(0o755)


def test_folder_that_may_not_be_looked_into(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_dir", failing(PermissionError(errno.EACCES, "Permission denied")))
    refused(source, out, "Permission denied")


def test_link_is_replaced_and_its_target_stays(source: Path, out: Path) -> None:
    target = out.parent / "target"
    target.write_bytes(b"precious")
    out.symlink_to(target)
    assert isinstance(refused(source, out, "exists"), OutputExistsError)
    io.save(io.load(source), out, force=True)
    assert target.read_bytes() == b"precious"
    assert not out.is_symlink()


def test_dangling_link_is_an_output_too(source: Path, out: Path) -> None:
    out.symlink_to("nothing")
    assert isinstance(refused(source, out, "exists"), OutputExistsError)


def test_data_name_taken_by_a_folder(source: Path, out: Path) -> None:
    data = io.save(io.load(source), out, external=True)
    assert data is not None
    data.unlink()
    data.mkdir()
    refused(source, out, "cannot write", external=True, force=True)
    assert names(out.parent) == sorted(["m.onnx", data.name])


def test_source_copied_elsewhere_is_not_needed(source: Path, out: Path) -> None:
    """A loaded model lives on when its file is replaced or gone."""
    model = io.load(source)
    shutil.rmtree(source.parent)
    io.save(model, out)
    assert same(onnx.load(out), small_proto())


def test_tokens_never_reach_a_file(source: Path, out: Path) -> None:
    model = io.load(source)
    io.save(model, out)
    assert model.store.nonce not in out.read_bytes()
    (tensor,) = model.proto.graph.initializer
    assert len(tensor.raw_data) == wire.TOKEN_LENGTH


def test_external_data_stays_external_when_all_of_it_is_folded(tmp_path: Path) -> None:
    """What the source was is remembered from loading: folding leaves no external tensor."""
    import normsurgery

    sample = Path(__file__).parents[1] / "sample_models" / "digits_resnet.onnx"
    source = tmp_path / "source.onnx"
    io.save(io.load(sample), source, external=True)
    assert normsurgery.fold(source).save(tmp_path / "folded.onnx") is not None

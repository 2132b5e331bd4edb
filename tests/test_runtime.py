from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from normsurgery import runtime
from normsurgery.errors import (
    InvalidModelError,
    MissingDataError,
    MissingPackageError,
    UsageError,
)

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def saved(tmp_path, text):
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(f"{HEAD} {text}"), str(path))
    return path


def test_importing_the_module_does_not_import_onnxruntime():
    code = (
        "import sys, normsurgery.runtime as r; r.available(); print('onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_onnxruntime_is_found():
    assert runtime.available()
    assert runtime.version()[0].isdigit()


def test_a_model_runs_and_prints_nothing(tmp_path, capfd):
    path = saved(tmp_path, "g (float[2] x) => (float[2] y, int64[1] s) {y = Relu(x) s = Shape(x)}")
    outputs = runtime.run(runtime.session(path), {"x": np.array([-1, 2], np.float32)})
    assert outputs["y"].tolist() == [0, 2]
    assert outputs["s"].tolist() == [2]
    assert capfd.readouterr() == ("", "")


def test_optimizations_are_off_unless_asked_for(tmp_path):
    path = saved(tmp_path, "g (float[2] x) => (float[2] y) {y = Relu(x)}")
    levels = [runtime.session(path, optimize=o).get_session_options() for o in (False, True)]
    names = [str(options.graph_optimization_level) for options in levels]
    assert "DISABLE_ALL" in names[0]
    assert "ENABLE_ALL" in names[1]


def test_external_data_is_read(tmp_path):
    model = parser.parse_model(f"{HEAD} g (float[64] x) => (float[64] y) {{y = Add(x, w)}}")
    model.graph.initializer.append(numpy_helper.from_array(np.arange(64, dtype=np.float32), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0)
    outputs = runtime.run(runtime.session(path), {"x": np.zeros(64, np.float32)})
    assert outputs["y"].tolist() == list(range(64))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16), ("double", np.float64)],
)
def test_float_types_go_in_and_come_out(tmp_path, kind, dtype):
    path = saved(tmp_path, f"g ({kind}[2,2] x) => ({kind}[2,2] y, float[2,2] z) "
                           "{y = Identity(x) z = Cast<to = 1>(x)}")  # fmt: skip
    x = np.array([[1, 2], [3, 4.5]]).astype(dtype)
    outputs = runtime.run(runtime.session(path), {"x": x})
    assert outputs["y"].dtype == dtype
    assert outputs["y"].tolist() == x.tolist()
    assert outputs["z"].tolist() == x.tolist()


def test_a_scalar_bfloat16_keeps_its_shape(tmp_path):
    path = saved(tmp_path, "g (bfloat16 x) => (bfloat16 y) {y = Identity(x)}")
    outputs = runtime.run(runtime.session(path), {"x": np.array(2, ml_dtypes.bfloat16)})
    assert outputs["y"].shape == ()


@pytest.mark.parametrize(
    "feeds",
    [{}, {"z": np.zeros(2, np.float32)}, {"x": np.zeros(3, np.float32)}, {"x": np.zeros(2)}],
    ids=["absent", "unknown", "shape", "type"],
)
def test_wrong_feeds_are_usage_errors(tmp_path, feeds):
    path = saved(tmp_path, "g (float[2] x) => (float[2] y) {y = Relu(x)}")
    with pytest.raises(UsageError) as caught:
        runtime.run(runtime.session(path), feeds)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_an_invalid_model(tmp_path, capfd):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InvalidModelError, match="onnxruntime refuses"):
        runtime.session(path)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_operator_is_an_invalid_model(tmp_path):
    path = saved(tmp_path, "g (float[2] x) => (float[2] y) {y = NoSuchOperator(x)}")
    with pytest.raises(InvalidModelError, match="NoSuchOperator"):
        runtime.session(path)


def test_a_failure_while_running_is_an_invalid_model(tmp_path, capfd):
    path = saved(tmp_path, "g (float[N] x, int64[M] s) => (float[K] y) {y = Reshape(x, s)}")
    feeds = {"x": np.zeros(3, np.float32), "s": np.array([2])}
    with pytest.raises(InvalidModelError, match="could not run"):
        runtime.run(runtime.session(path), feeds)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(MissingDataError, match="no such model"):
        runtime.session(tmp_path / "none.onnx")


def test_a_missing_provider_names_the_command(tmp_path):
    path = saved(tmp_path, "g (float[2] x) => (float[2] y) {y = Relu(x)}")
    import onnxruntime

    if runtime.CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(MissingPackageError, match="pip install"):
        runtime.session(path, providers=(runtime.CUDA,))


def test_an_absent_onnxruntime_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install.*normsurgery\[cpu\]"):
        runtime.session(tmp_path / "none.onnx")

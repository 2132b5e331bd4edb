from __future__ import annotations

from importlib import metadata

import pytest

from normsurgery import providers, runtime
from normsurgery.errors import MissingPackageError, UsageError
from normsurgery.providers import CPU, CUDA


@pytest.mark.parametrize(
    ("name", "full"),
    [("cpu", CPU), ("CPU", CPU), ("cuda", CUDA), (CUDA, CUDA), ("cudaexecutionprovider", CUDA)],
)
def test_names(name, full):
    assert providers.full_name(name) == full
    assert providers.short_name(full) == full[: -len("ExecutionProvider")]


def test_an_unknown_name_is_a_usage_error():
    with pytest.raises(UsageError, match="choose from cpu and cuda"):
        providers.full_name("tensorrt")


def test_cuda_is_started_without_tf32_and_with_one_algorithm():
    assert providers.options(CPU) == {}
    assert providers.options(CUDA) == {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
    assert providers.options(CUDA, tf32=True)["use_tf32"] == "1"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Metadata of wheels in a folder that is looked into first, each with onnxruntime in it."""

    def pretend(*names):
        for name in names:
            folder = tmp_path / f"{name.replace('-', '_')}-1.32.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.32.0\n"
            )
            (folder / "RECORD").write_text("onnxruntime/__init__.py,,\nonnxruntime/capi/x.so,,\n")
        search = metadata.distributions
        monkeypatch.setattr(metadata, "distributions", lambda: search(path=[str(tmp_path)]))

    return pretend


def test_wheels_over_each_other_are_seen(installed):
    installed("onnxruntime", "onnxruntime-gpu")
    assert providers.wheels() == ["onnxruntime", "onnxruntime-gpu"]
    assert providers.why_absent("1.32.0") == (
        "onnxruntime and onnxruntime-gpu are installed over each other"
    )


def test_one_wheel_is_named(installed):
    installed("onnxruntime")
    assert providers.why_absent("1.32.0") == "onnxruntime 1.32.0 was built without it"


def test_cuda_is_refused_while_two_wheels_are_installed(installed, monkeypatch):
    installed("onnxruntime", "onnxruntime-gpu")
    monkeypatch.setattr(runtime, "built_with", lambda: (CUDA, CPU))
    with pytest.raises(MissingPackageError, match=r"over each other.*pip uninstall -y"):
        runtime.require([CUDA])
    runtime.require([CPU])


def test_no_session_is_made_without_its_provider(tmp_path, monkeypatch):
    """onnxruntime starts on the CPU when CUDA does not: a session that lost it is refused."""
    import onnx
    import onnxruntime
    from onnx import parser

    path = tmp_path / "m.onnx"
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {y = Relu(x)}'
    onnx.save(parser.parse_model(text), str(path))
    start = onnxruntime.InferenceSession
    chosen = []

    def fall_back(file, config, providers, **options):
        chosen.append((providers, options))
        return start(file, config, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    monkeypatch.setattr(runtime, "built_with", lambda: (CUDA, CPU))
    with pytest.raises(MissingPackageError, match=r"installed but did not start.*doctor"):
        runtime.session(path, providers=(CUDA,))
    assert chosen == [([(CUDA, providers.options(CUDA))], {"enable_fallback": 0})]

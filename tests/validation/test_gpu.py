"""What only a CUDA device can show. Skipped with the reason where there is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from validation.nets import BUGS, conv_bn_net, fold, graph

import normsurgery
from normsurgery import runtime
from normsurgery.providers import CUDA
from normsurgery.validation.comparison import Status

pytestmark = pytest.mark.gpu


def test_doctor_sees_it():
    found = normsurgery.doctor(["cuda"])
    assert found.ok
    assert found.nvidia.driver
    assert CUDA in found.providers


def test_a_fold_passes_on_cuda_and_it_is_proved():
    net = conv_bn_net()
    found = normsurgery.validate(net, fold(net), providers=("cpu", "cuda"))
    assert found.ok, found.lines()
    assert [run.provider for run in found.runs] == ["CPU", "CUDA"]
    cuda = found.runs[1]
    assert cuda.verdict.placement.ok
    assert cuda.verdict.placement.nodes["CUDA"] >= 8
    assert cuda.verdict.oracle == "float64"
    assert [("TF32" in one.runtime) for one in cuda.beside] == [False, True]
    assert found.runs[0].verdict.sets == cuda.verdict.sets


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_fails_on_cuda(bug):
    net = conv_bn_net()
    found = normsurgery.validate(net, fold(BUGS[bug](net)), providers=("cuda",), optimized=False)
    assert found.status is Status.FAILED


def test_tf32_is_off_for_the_verdict(tmp_path):
    """256 products with factors of 24 bits: TF32's 11 would be a thousand times off."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(256, 256)).astype(np.float32)
    path = tmp_path / "m.onnx"
    onnx.save(graph("g (float[64,256] x) => (float[64,256] y) {y = MatMul(x, w)}", w=w), str(path))
    x = rng.normal(size=(64, 256)).astype(np.float32)
    true = x.astype(np.float64) @ w.astype(np.float64)
    (exact,) = runtime.run(runtime.session(path, providers=(CUDA,)), {"x": x}).values()
    assert np.sqrt(np.mean((exact - true) ** 2) / np.mean(true**2)) < 1e-6


def test_a_node_without_a_kernel_is_named_and_may_be_allowed():
    """Det has a kernel on the CPU alone."""
    model = graph("g (float[4,3,3] x) => (float[4] y) {r = Relu(x) y = Det(r)}")
    model.graph.node[1].name = "det"
    options = {"providers": ("cuda",), "optimized": False, "sets": 2}
    found = normsurgery.validate(model, model, **options)
    assert found.status is Status.FAILED
    assert found.runs[0].verdict.placement.fell_back == ("Det det",)
    allowed = normsurgery.validate(model, model, allow_fallback=("det",), **options)
    assert allowed.runs[0].verdict.placement.allowed == ("Det det",)
    assert allowed.ok


def test_shape_arithmetic_is_no_fall_back():
    model = graph("g (float[N,3,4] x) => (float[?,?] y) {s = Shape(x) f = Gather(s, zero) "
                  "u = Unsqueeze(f, axes) t = Concat<axis = 0>(u, rest) "
                  "r = Relu(x) y = Reshape(r, t)}",
                  zero=np.array(0), axes=np.array([0]), rest=np.array([-1]))  # fmt: skip
    found = normsurgery.validate(model, model, providers=("cuda",), optimized=False)
    assert found.ok, found.lines()
    assert found.runs[0].verdict.placement.fell_back == ()


def test_half_precision_on_cuda():
    net = conv_bn_net(np.float16)
    assert normsurgery.validate(net, fold(net), providers=("cuda",), optimized=False).ok
    wrong = fold(BUGS["channel zeroed"](net))
    assert not normsurgery.validate(net, wrong, providers=("cuda",), optimized=False).ok

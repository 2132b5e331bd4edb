"""``validate`` on CUDA: what it says where there is none, and all around it, played by the CPU."""

from __future__ import annotations

import json

import pytest
from validation.nets import fold

import normsurgery
from normsurgery import diagnosis, isolation
from normsurgery.diagnosis import Finding
from normsurgery.errors import (
    CrashError,
    MissingPackageError,
)
from normsurgery.providers import CPU, CUDA
from normsurgery.validation.comparison import Status
from normsurgery.validation.setups import Setup, setups


def test_cuda_is_never_run_on_the_cpu(net):
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for wanted in (("cuda",), ("cpu", "cuda"), "cpu,CUDA"):
        with pytest.raises(MissingPackageError, match=r"built without CUDA.*pip install") as caught:
            normsurgery.validate(net, net, providers=wanted)
        assert caught.value.exit_status == 6


def test_what_cuda_lacks_is_what_doctor_finds(net, monkeypatch):
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    lacks = Finding("cuda", False, "libraries are missing: libcudnn.so.9", "pip install this")
    monkeypatch.setattr(diagnosis, "cuda", lambda: lacks)
    told = r"CUDAExecutionProvider cannot be used: libraries are missing: libcudnn.so.9; .* this$"
    with pytest.raises(MissingPackageError, match=told):
        normsurgery.validate(net, net, providers=("cuda",))


def test_setups_of_a_provider():
    cpu = setups("CPUExecutionProvider")
    assert [(s.optimize, s.tf32) for s in cpu] == [(False, False), (True, False)]
    cuda = setups(CUDA)
    assert [(s.optimize, s.tf32) for s in cuda] == [(False, False), (True, False), (True, True)]
    assert setups(CUDA, optimized=False) == (Setup(CUDA),)


@pytest.fixture
def pretended_cuda(monkeypatch):
    """CUDA played by the CPU, for all that is around it: sessions, and who ran which node."""
    from normsurgery import runtime

    started, lost = [], set()
    session, assigned = runtime.session, runtime.assigned

    def start(path, *, providers=(CPU,), optimize=False, tf32=False, **options):
        started.append((tuple(providers), optimize, tf32))
        return session(path, optimize=optimize, **options)

    def record(made):
        return [(CPU if op in lost else CUDA, op, name) for _, op, name in assigned(made) or []]

    monkeypatch.setattr(runtime, "require", lambda _: None)
    monkeypatch.setattr(runtime, "session", start)
    monkeypatch.setattr(runtime, "assigned", record)
    return started, lost


def test_cuda_beside_the_cpu(net, pretended_cuda):
    started, _ = pretended_cuda
    found = normsurgery.validate(net, fold(net), providers=("cpu", "cuda"), sets=2, isolate=False)
    assert found.ok, found.lines()
    cpu, cuda = found.runs
    assert (cpu.provider, cuda.provider) == ("CPU", "CUDA")
    assert cpu.verdict.placement is None
    assert cuda.verdict.placement.ok
    assert cuda.verdict.outputs == cpu.verdict.outputs  # the CPU played it, with the same truths
    on_cuda = [tuple(rest) for providers, *rest in started if providers == (CUDA,)]
    # Both models: for the verdict, with optimizations, and as onnxruntime starts by default.
    assert on_cuda == [(False, False)] * 2 + [(True, False)] * 2 + [(True, True)] * 2
    assert "TF32" in cuda.beside[1].runtime
    assert any(line.startswith("nodes: ") for line in found.lines())


def test_a_node_that_fell_back_fails_the_validation(net, pretended_cuda):
    _, lost = pretended_cuda
    lost.add("GlobalAveragePool")
    options = {"providers": ("cuda",), "sets": 2, "optimized": False, "isolate": False}
    found = normsurgery.validate(net, fold(net), **options)
    assert not found.ok
    assert found.status is Status.FAILED
    assert found.runs[0].verdict.status is Status.PASSED  # the numbers are right
    assert any("FELL BACK: GlobalAveragePool" in line for line in found.lines())
    assert json.loads(json.dumps(found.to_dict()))["status"] == "failed"
    allowed = normsurgery.validate(net, fold(net), allow_fallback=["GlobalAveragePool"], **options)
    assert allowed.ok


def test_no_record_is_no_proof(net, pretended_cuda, monkeypatch):
    from normsurgery import runtime

    monkeypatch.setattr(runtime, "assigned", lambda _: None)
    works = Finding("cuda", True, "onnxruntime runs on CUDA, driver 570.1")
    monkeypatch.setattr(diagnosis, "cuda", lambda: works)
    with pytest.raises(MissingPackageError, match=r"does not record where nodes run.*pip install"):
        normsurgery.validate(net, net, providers=("cuda",), sets=2, isolate=False)


@pytest.mark.parametrize(
    ("names", "memory", "cap"),
    [
        (("cpu",), None, None),
        (("cpu", "cuda"), None, isolation.NO_CAP),
        (("cuda",), 1 << 33, 1 << 33),
    ],
)
def test_cuda_is_capped_only_if_asked_for(net, monkeypatch, names, memory, cap):
    seen = []

    def call(*_, limits, **__):
        seen.append(limits.memory)
        raise CrashError("enough")

    monkeypatch.setattr(isolation, "call", call)
    with pytest.raises(CrashError):
        normsurgery.validate(net, net, providers=names, memory=memory)
    assert seen == [cap]

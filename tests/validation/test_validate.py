from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper
from validation.nets import BUGS, conv_bn_net, fold, graph

import normsurgery
from normsurgery import isolation
from normsurgery.data import Data, Pixels, inputs_of, read
from normsurgery.errors import (
    CrashError,
    InvalidModelError,
    MissingDataError,
    UsageError,
)
from normsurgery.isolation import Step
from normsurgery.validation import api
from normsurgery.validation.comparison import Status


def made_by(verb, model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, {"normsurgery.verb": verb})
    return copy


def test_a_fold_passes_in_a_child_process(net, monkeypatch):
    calls = []
    call = isolation.call

    def counted(function, *args, **kwargs):
        calls.append(function.__name__)
        return call(function, *args, **kwargs)

    monkeypatch.setattr(isolation, "call", counted)
    steps = []
    found = normsurgery.validate(net, fold(net), progress=steps.append)
    assert calls == ["judge", "collect"]
    assert found.ok
    assert found.status is Status.PASSED
    assert (found.reference, found.candidate, found.drift) == ("ModelProto", "ModelProto", None)
    assert [step.done for step in steps if step.text.startswith("running the cand")] == [*range(24)]
    judging = [step for step in steps if step.text.startswith("judging")]
    assert judging[-1].total == 24  # 12 sets, optimizations off and on


def test_the_process_makes_no_difference(net):
    options = {"sets": 3, "optimized": False}
    apart = normsurgery.validate(net, fold(net), **options)
    assert normsurgery.validate(net, fold(net), isolate=False, **options) == apart


def test_the_report(net):
    found = normsurgery.validate(net, fold(net), sets=3, isolate=False)
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["ok"], told["kind"], told["status"]) == (True, "parity", "passed")
    (run,) = told["runs"]
    assert run["provider"] == "CPU"
    assert run["verdict"]["outputs"][0]["name"] == "scores"
    assert run["verdict"]["oracle"] == "float64"
    assert "optimized" in run["beside"][0]["runtime"]
    lines = found.lines()
    assert lines[0].startswith("parity: ok, onnxruntime CPU ")
    assert lines[1].startswith("beside: onnxruntime CPU ")
    assert "optimized: largest ratio" in lines[1]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_fails(net, bug):
    found = normsurgery.validate(net, fold(BUGS[bug](net)), sets=6, optimized=False, isolate=False)
    assert not found.ok
    assert found.status is Status.FAILED


def test_models_come_as_paths_protos_and_ir_and_are_not_changed(net, tmp_path):
    path = tmp_path / "a model with spaces.onnx"
    onnx.save(net, str(path))
    before = net.SerializeToString()
    ir = onnx_ir.from_proto(fold(net))
    for reference in (path, str(path), net):
        options = {"sets": 2, "optimized": False, "isolate": False}
        assert normsurgery.validate(reference, ir, **options).ok
    assert net.SerializeToString() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_download_cache(net, tmp_path):
    """Links to blobs, of the model and of its data, as huggingface_hub lays them out."""
    folded = fold(net)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save(net, str(blobs / "m"), save_as_external_data=True, location="model.onnx_data",
              size_threshold=0)  # fmt: skip
    (blobs / "model.onnx_data").rename(blobs / "d")
    (snapshot / "model.onnx").symlink_to(blobs / "m")
    (snapshot / "model.onnx_data").symlink_to(blobs / "d")
    found = normsurgery.validate(snapshot / "model.onnx", folded, sets=2, isolate=False)
    assert found.ok
    assert found.runs[0].verdict.oracle == "float64"


def test_a_link_and_a_read_only_folder(net, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    folded = fold(net)
    onnx.save(net, str(store / "blob"), save_as_external_data=True, location="data",
              size_threshold=0)  # fmt: skip
    link = tmp_path / "model.onnx"
    link.symlink_to(store / "blob")
    for path in (store, tmp_path):
        path.chmod(0o555)
    try:
        assert normsurgery.validate(store / "blob", folded, sets=2, isolate=False).ok
        assert normsurgery.validate(link, folded, sets=2, isolate=False).ok
    finally:
        for path in (store, tmp_path):
            path.chmod(0o755)


def test_each_kind_of_input_comes_with_both_batches(net):
    found = normsurgery.validate(net, net, optimized=False, isolate=False)
    sets = found.runs[0].verdict.sets
    assert len(sets) == 12
    kinds = {(label.split(",")[0], "(1, " in label) for label in sets}
    assert len(kinds) == 12
    assert any("x (4, 3, 16, 16)" in label for label in sets)


def test_a_fixed_batch_stays(tmp_path):
    net = conv_bn_net(batch=3)
    found = normsurgery.validate(net, fold(net), sets=2, optimized=False, isolate=False)
    assert found.ok
    assert all("x (3, 3, 16, 16)" in label for label in found.runs[0].verdict.sets)


def test_data_as_arrays_paths_and_feeds(net, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    path = tmp_path / "data.npz"
    np.savez(path, images=images, labels=np.arange(10) % 5)
    pixels = Pixels((0.5,), (0.25,))
    options = {"optimized": False, "isolate": False}
    found = normsurgery.validate(net, fold(net), data=path, pixels=pixels, **options)
    assert found.ok
    assert found.runs[0].verdict.sets == tuple(f"given {i}, x (4, 3, 16, 16)" for i in range(2))
    data = read(path, inputs_of(net), pixels=pixels)
    assert isinstance(data, Data)
    same = normsurgery.validate(net, fold(net), data=data, **options)
    assert same.runs == found.runs
    feeds = list(data.batches(4, last=8))
    assert normsurgery.validate(net, fold(net), data=feeds, **options).runs == found.runs
    one = normsurgery.validate(net, fold(net), data=path, samples=3, **options)
    assert one.runs[0].verdict.sets == ("given 0, x (3, 3, 16, 16)",)
    with pytest.raises(MissingDataError):
        normsurgery.validate(net, net, data=tmp_path / "none.npz")
    fixed = conv_bn_net(batch=20)
    with pytest.raises(UsageError, match="10 samples do not make one batch of 20"):
        normsurgery.validate(fixed, fixed, data=path)


@pytest.mark.parametrize(
    "options",
    [
        {"providers": ("tpu",)},
        {"providers": ()},
        {"kind": "equality"},
        {"shapes": {"q": (1, 3, 16, 16)}},
        {"shapes": {"x": (1, 4, 16, 16)}},
        {"sets": 0},
    ],
    ids=str,
)
def test_misuse_is_an_error(net, options):
    with pytest.raises(UsageError):
        normsurgery.validate(net, net, isolate=False, **options)


def test_what_is_no_model_is_an_error(net, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\xff")
    for pair in ((bad, net), (net, bad)):
        with pytest.raises(InvalidModelError, match="fetch the file again"):
            normsurgery.validate(*pair)
    refused = graph("g (float[4] x) => (float[4] y) {y = Nonsense(x)}")
    with pytest.raises(InvalidModelError, match="Nonsense"):
        normsurgery.validate(refused, refused)


def test_what_runs_nowhere_is_told_in_the_words_of_onnxruntime():
    for body in ("a = Add(x, y) y = Relu(a)", "y = Relu(q)"):
        broken = graph(f"g (float[4] x) => (float[4] y) {{{body}}}")
        with pytest.raises(InvalidModelError, match="onnxruntime refuses it"):
            normsurgery.validate(broken, broken, isolate=False)


def test_a_reference_without_outputs_is_an_error(net):
    net.graph.output.pop()
    with pytest.raises(InvalidModelError, match="no outputs to compare"):
        normsurgery.validate(net, net, isolate=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the cap is RLIMIT_DATA of Linux")
def test_inputs_that_are_too_large_are_nobodys_failure():
    large = graph("g (float[1099511627776] x) => (float[?] y) {y = Relu(x)}")
    with pytest.raises(CrashError, match="memory were not enough for making set 1"):
        normsurgery.validate(large, large, memory=1 << 30)


def test_a_candidate_that_does_not_load_has_failed():
    good = graph("g (float[4] x) => (float[4] y) {y = Relu(x)}")
    found = normsurgery.validate(good, graph("g (float[4] x) => (float[4] y) {y = Nonsense(x)}"))
    assert found.status is Status.FAILED
    assert "does not load" in found.lines()[0]


def crash(step):
    def call(*_args, **_kwargs):
        raise CrashError("the process ended with SIGSEGV in running the candidate", step)

    return call


def test_a_candidate_that_crashes_has_failed(net, monkeypatch):
    monkeypatch.setattr(isolation, "call", crash(Step("running the candidate", "candidate")))
    found = normsurgery.validate(net, net)
    assert found.status is Status.FAILED
    assert "SIGSEGV" in found.lines()[0]


@pytest.mark.parametrize("step", [None, Step("running the reference", "reference")])
def test_a_reference_that_crashes_is_an_error(net, monkeypatch, step):
    monkeypatch.setattr(isolation, "call", crash(step))
    with pytest.raises(CrashError):
        normsurgery.validate(net, net)


@pytest.mark.skipif(sys.platform != "linux", reason="the cap is RLIMIT_DATA of Linux")
def test_memory_and_time_are_capped():
    huge = graph("g (float[4] x) => (float[?] y) {s = Constant<value_ints = [1073741824]>() "
                 "z = ConstantOfShape<value = float[1] {1.0}>(s) m = ReduceMax<keepdims = 0>(z) "
                 "y = Add(x, m)}")  # fmt: skip
    with pytest.raises(InvalidModelError):  # onnxruntime says so itself, or the child ends
        normsurgery.validate(huge, huge, memory=1 << 30)
    endless = graph("""g (float[4] x) => (float[4] y) {
        n = Constant<value_int = 9223372036854775807>()
        t = Constant<value = bool {1}>()
        y = Loop<body = b (int64 i, bool c, float[4] a) => (bool d, float[4] e)
            {d = Identity(c) e = Neg(a)}>(n, t, x)
    }""")
    with pytest.raises(CrashError, match="1 s were not enough"):
        normsurgery.validate(endless, endless, timeout=1)


@pytest.mark.parametrize("verb", sorted(api.CHANGING))
def test_a_conversion_is_drift_and_never_parity(net, verb):
    found = normsurgery.validate(net, made_by(verb, net), sets=2, isolate=False)
    assert not found.ok
    assert found.status is None
    assert found.runs == ()
    assert found.drift.outputs[0].error == 0
    assert found.to_dict()["kind"] == "drift"
    assert found.lines()[0].startswith("drift: ")


def test_a_fold_of_a_conversion_is_held_against_what_it_was_made_from(net):
    converted = normsurgery.convert(net, to="affine").model
    folded = normsurgery.fold(converted).model
    options = {"sets": 2, "optimized": False, "isolate": False}
    assert normsurgery.validate(net, folded, **options).drift is not None
    assert normsurgery.validate(converted, folded, **options).ok
    assert normsurgery.validate(converted, converted, **options).ok


def test_the_kind_can_be_chosen(net):
    options = {"sets": 2, "optimized": False, "isolate": False}
    assert normsurgery.validate(net, made_by("convert", net), kind="parity", **options).ok
    assert normsurgery.validate(net, made_by("fold", net), **options).ok
    assert normsurgery.validate(net, net, kind="drift", **options).drift is not None

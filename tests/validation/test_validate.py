from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper
from validation.nets import BUGS, conv_bn_net, edit, fold, graph

import normsurgery
from normsurgery import diagnosis, isolation
from normsurgery.data import Data, Pixels, inputs_of, read
from normsurgery.diagnosis import Finding
from normsurgery.errors import (
    CrashError,
    InvalidModelError,
    MissingDataError,
    MissingPackageError,
    UsageError,
)
from normsurgery.isolation import Step
from normsurgery.providers import CPU, CUDA
from normsurgery.validation import api, isolated, truth
from normsurgery.validation.comparison import Status
from normsurgery.validation.plan import Plan
from normsurgery.validation.setups import Setup, setups


def made_by(verb, model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, {"normsurgery.verb": verb})
    return copy


@pytest.fixture
def net():
    return conv_bn_net()


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


def test_a_truth_is_computed_once_for_all_providers(net, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(net, str(path))
    common = {"reference": path, "candidate": path, "plan": Plan(sets=2), "needed": (CPU, CPU)}
    first, known = isolated.judge(**common, setups=(Setup(),), known={})
    assert set(known) == set(first[0].sets)
    wrong = {label: {"scores": 1.001 * o["scores"]} for label, o in known.items()}
    again, _ = isolated.judge(**common, setups=(Setup(),), known=wrong)
    assert again[0].outputs != first[0].outputs  # it took what it was given


def test_large_truths_are_not_kept(net, tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    onnx.save(net, str(path))
    feeds = {"x": np.ones((1, 3, 16, 16), np.float32)}
    monkeypatch.setattr(truth, "MOST_BYTES", 5 * 8 + 8)  # five scores, and not ten
    found = truth.Truth(path, 1e9)
    first, second = found("a", feeds), found("b", feeds)
    assert list(found.known) == ["a"]
    assert np.array_equal(first["scores"], second["scores"])


def test_one_output_without_an_oracle_leaves_the_others_theirs():
    model = graph("g (float[8] x) => (float[8] y, float[8] z) {y = Exp(x) "
                  "r = RandomUniformLike<seed = 1.0>(x) o = Constant<value = float {0.0}>() "
                  "d = Mul(r, o) z = Add(x, d)}")  # fmt: skip
    found = normsurgery.validate(model, model, sets=2, optimized=False, isolate=False)
    assert "random" in found.runs[0].verdict.reason
    assert found.ok


def test_a_costly_set_has_no_oracle_and_a_cheap_one_has(net):
    cost = 16 * 16 * (3 * 8 * 9 + 8 * 9 + 64)
    found = normsurgery.validate(net, fold(net), sets=2, multiply_adds=2 * cost, isolate=False)
    verdict = found.runs[0].verdict
    used = [c.yardstick for c in verdict.outputs[0].comparisons]
    assert used == ["float64", "noise floor"]
    assert verdict.oracle == "float64 and noise floor"
    assert "GFLOP" in verdict.reason
    assert "float64 and noise floor (no float64 oracle: " in verdict.line()


def test_an_output_that_is_only_noise_is_inconclusive():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(64, 64)).astype(np.float32)
    zero = graph("g (float[4,64] x) => (float[4,64] y) "
                 "{a = MatMul(x, w) m = Neg(w) b = MatMul(x, m) d = Neg(b) y = Sub(a, d)}",
                 w=w)  # fmt: skip
    found = normsurgery.validate(zero, zero, sets=2, isolate=False)
    assert found.status is Status.INCONCLUSIVE
    assert not found.ok


def test_near_ties_flip_as_often_as_rounding_flips_them():
    """An ArgMax over nearly equal scores: rounding decides, in the reference as in the fold."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(64, 1)) * np.ones((64, 4)) + 1e-8 * rng.normal(size=(64, 4))
    reference = graph("g (float[256,64] x) => (int64[256] y) "
                      "{s = MatMul(x, w) y = ArgMax<axis = 1, keepdims = 0>(s)}",
                      w=w.astype(np.float32))  # fmt: skip
    moved = edit(reference, "w", lambda v: np.nextafter(v.astype(np.float32), np.float32(9)))
    found = normsurgery.validate(reference, moved, sets=2, optimized=False, isolate=False)
    assert found.ok, found.lines()
    assert "by rounding alone" in found.runs[0].verdict.outputs[0].note


def test_one_flipped_integer_fails():
    rng = np.random.default_rng(1)
    w = rng.normal(size=(64, 4)).astype(np.float32)
    text = "g (float[256,64] x) => (int64[256] y) "
    text += "{s = MatMul(x, w) a = ArgMax<axis = 1, keepdims = 0>(s) %s}"
    reference = graph(text % "y = Identity(a)", w=w)
    one = np.zeros(256, np.int64)
    one[17] = 1
    flipped = graph(text % "y = Add(a, one)", w=w, one=one)
    found = normsurgery.validate(reference, flipped, sets=2, optimized=False, isolate=False)
    assert found.status is Status.FAILED
    assert "1 of 256 elements differ" in found.runs[0].verdict.outputs[0].note


def test_no_elements_are_inconclusive():
    empty = graph("g (float[0,4] x) => (float[0,4] y) {y = Relu(x)}")
    feeds = [{"x": np.zeros((0, 4), np.float32)}]
    found = normsurgery.validate(empty, empty, data=feeds, isolate=False)
    assert found.status is Status.INCONCLUSIVE
    assert "no elements" in found.lines()[0]


def classifier(keys, coefficients):
    """Scaler, LinearClassifier and ZipMap, as skl2onnx writes them: labels, and a map a sample."""
    rng = np.random.default_rng(0)
    kind = onnx.TensorProto.STRING if isinstance(keys[0], str) else onnx.TensorProto.INT64
    labels = {("strings" if isinstance(keys[0], str) else "ints"): keys}
    zipped = {("strings" if isinstance(keys[0], str) else "int64s"): keys}
    scale = {"offset": rng.normal(size=8).tolist(), "scale": rng.uniform(0.5, 2, 8).tolist()}
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", **scale),
        helper.make_node("LinearClassifier", ["s"], ["label", "p"], domain="ai.onnx.ml",
                         coefficients=coefficients, intercepts=[0.1, 0.2, 0.3], multi_class=1,
                         post_transform="SOFTMAX",
                         **{f"classlabels_{k}": v for k, v in labels.items()}),
        helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml",
                         **{f"classlabels_{k}": v for k, v in zipped.items()}),
    ]  # fmt: skip
    maps = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(1, None))
    outputs = [
        helper.make_tensor_value_info("label", kind, ["N"]),
        helper.make_value_info("z", helper.make_sequence_type_proto(maps)),
    ]
    made = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 8])], outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("keys", [[0, 1, 2], ["cat", "dog", "owl"]], ids=["ints", "strings"])
def test_maps_of_a_classifier(keys):
    coefficients = np.random.default_rng(1).normal(size=24).tolist()
    good = classifier(keys, coefficients)
    options = {"sets": 4, "optimized": False, "isolate": False}
    found = normsurgery.validate(good, good, **options)
    assert found.ok, found.lines()
    verdict = found.runs[0].verdict
    assert verdict.oracle == "float64"
    assert [o.name for o in verdict.outputs] == ["label", *(f"z[{key!r}]" for key in keys)]
    coefficients[3] *= 1.001
    wrong = normsurgery.validate(good, classifier(keys, coefficients), **options)
    assert [o.status for o in wrong.runs[0].verdict.outputs[1:]] == [Status.FAILED] * 3
    other = normsurgery.validate(
        good, classifier([*keys[:2], keys[2] * 2], coefficients), **options
    )
    assert "the reference has no such output" in [o.note for o in other.runs[0].verdict.outputs]


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

"""Outputs of every kind in ``validate``: without an oracle, noise, flips, a classifier's tables."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from validation.nets import edit, fold, graph

import normsurgery
from normsurgery.providers import CPU
from normsurgery.validation import isolated, truth
from normsurgery.validation.comparison import Status
from normsurgery.validation.plan import Plan
from normsurgery.validation.setups import Setup


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

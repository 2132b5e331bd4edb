from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from validation.nets import conv_bn_net, edit, graph

from normsurgery.errors import InvalidModelError, UsageError
from normsurgery.validation import drift as drift_of
from normsurgery.validation.plan import Plan

LINEAR = "g (float[N,4] x) => (float[?,3] y) {y = MatMul(x, w)}"


def drift(folder, reference, candidate, labels=None, **plan):
    paths = [folder / "reference.onnx", folder / "candidate.onnx"]
    for path, model in zip(paths, (reference, candidate), strict=True):
        onnx.save(model, str(path))
    return drift_of(*paths, Plan(**plan), labels=labels)


def test_a_model_does_not_drift_from_itself(tmp_path):
    net = conv_bn_net()
    found = drift(tmp_path, net, net)
    (output,) = found.outputs
    assert (output.error, output.worst, output.top1) == (0, 0, 1)
    assert output.samples == 1 + 2 + 1
    assert len(found.sets) == 3


def test_the_error_is_relative_over_all_sets(tmp_path):
    """y = w·x and 1.5·w·x: half of the rms on every set, and the same class each time."""
    w = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = drift(tmp_path, graph(LINEAR, w=w), graph(LINEAR, w=w * np.float32(1.5)), sets=6)
    (output,) = found.outputs
    assert output.error == pytest.approx(0.5, rel=1e-6)
    assert output.worst == pytest.approx(0.5, rel=1e-6)
    assert output.top1 == 1
    assert "error 0.5 of rms (y), top-1 agreement 100.0% of 9 (y)" in found.line()


def test_sets_are_pooled_by_their_squares(tmp_path):
    """y = x and x + 1 on x = 1 and x = 3 (twice each): √((2 + 2)/(2·1 + 2·9)), and 1 alone."""
    same, more = (graph(f"g (float[2] x) => (float[2] y) {{y = Add(x, {c})}}",
                        zero=np.zeros(1, np.float32), one=np.ones(1, np.float32))
                  for c in ("zero", "one"))  # fmt: skip
    feeds = [{"x": np.full(2, v, np.float32)} for v in (1, 3)]
    (output,) = drift(tmp_path, same, more, feeds=feeds).outputs
    assert output.error == pytest.approx(np.sqrt(4 / 20))
    assert output.worst == 1
    assert output.top1 is None  # (2,) is no row of scores


def test_agreement_and_accuracy_are_counted(tmp_path):
    """The second model swaps two classes: it agrees on the samples of the third one alone."""
    w, swapped = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 0, 2]]
    text = LINEAR.replace("[N,4]", "[N,3]")
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    found = drift(tmp_path, graph(text, w=w), graph(text, w=swapped),
                  labels=np.array([0, 1, 2, 0]), feeds=[{"x": x[:2]}, {"x": x[2:]}])  # fmt: skip
    assert found.outputs[0].top1 == 0.5
    assert found.accuracy == (0.75, 0.25)
    assert "accuracy 75.0%, then 25.0%" in found.line()
    assert json.loads(json.dumps(found.to_dict()))["accuracy"] == [0.75, 0.25]


def test_integers_differ_by_share(tmp_path):
    text = "g (float[8] x) => (int64[8] y) {c = Cast<to = 7>(x) y = Add(c, k)}"
    k = np.zeros(8, np.int64)
    moved = k.copy()
    moved[:2] = 1
    (output,) = drift(tmp_path, graph(text, k=k), graph(text, k=moved)).outputs
    assert output.error == output.worst == 0.25


def test_what_cannot_be_compared_is_said(tmp_path):
    one = graph("g (float[4] x) => (float[4] y, float[4] z) {y = Relu(x) z = Neg(x)}")
    other = graph("g (float[4] x) => (float[1,4] y) {r = Relu(x) a = Constant<value_ints = [0]>() "
                  "y = Unsqueeze(r, a)}")  # fmt: skip
    found = drift(tmp_path, one, other)
    notes = {output.name: output.note for output in found.outputs}
    assert notes["y"].startswith("float32 (1, 4), was float32 (4,)")
    assert notes["z"].startswith("missing")
    assert all(output.error is None for output in found.outputs)


def test_a_zero_reference_and_infinities(tmp_path):
    zero = graph("g (float[4] x) => (float[4] y) {y = Sub(x, x)}")
    same = graph("g (float[4] x) => (float[4] y) {y = Identity(x)}")
    assert drift(tmp_path, zero, same).outputs[0].error == np.inf
    assert drift(tmp_path, zero, zero).outputs[0].error == 0
    root = graph("g (float[4] x) => (float[4] y) {y = Sqrt(x)}")
    feeds = [{"x": np.array([1, 4, 9, -1], np.float32)}]
    (output,) = drift(tmp_path, root, root, feeds=feeds).outputs
    assert (output.error, output.note) == (0, "1 elements are NaN or Inf")


def test_misuse_and_broken_models_are_errors(tmp_path):
    net = conv_bn_net()
    with pytest.raises(UsageError):
        drift(tmp_path, net, net, sets=0)
    with pytest.raises(InvalidModelError):
        drift(tmp_path, net, graph("g (float[4] x) => (float[4] y) {y = Nonsense(x)}"))
    assert drift(tmp_path, net, edit(net, "fc.b", lambda b: b + 1)).outputs[0].error > 0.01

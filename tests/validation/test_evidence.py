"""Certificate, coverage and the course of errors stand beside the verdict of ``validate``."""

from __future__ import annotations

import functools
import json

import numpy as np
import onnx
import pytest
from validation.nets import BUGS, conv_bn_net, fold, graph
from validation.specimens import MODELS, change, folded, weights

import normsurgery
from normsurgery import isolation
from normsurgery.errors import CrashError, InvalidModelError
from normsurgery.isolation import Step
from normsurgery.validation import check, evidence
from normsurgery.validation.comparison import Status

quick = functools.partial(normsurgery.validate, isolate=False, optimized=False, sets=2)


def test_a_fold_has_a_certificate_and_no_course():
    net = conv_bn_net()
    found = quick(net, normsurgery.fold(net).model)
    assert found.ok
    assert found.certificate.status is Status.PASSED
    assert found.certificate.how == "fold"
    assert found.coverage.channels == 8
    assert found.runs[0].course is None
    assert not found.reasons
    told = "\n".join(found.lines())
    assert "certificate: " in told
    assert "coverage: " in told
    assert "diverging" not in told
    json.dumps(found.to_dict())


def test_depth_is_followed_where_it_is_asked_for():
    net = conv_bn_net()
    found = quick(net, fold(net), depth=True)
    course = found.runs[0].course
    assert course.first is None
    assert course.label == found.runs[0].verdict.sets[0]
    assert [one.name for one in course.values][-1] == "scores"
    assert found.ok
    json.dumps(found.to_dict())


@pytest.mark.parametrize("isolate", [False, True])
def test_a_failed_verdict_says_where_it_begins(isolate):
    net = conv_bn_net()
    found = quick(net, fold(BUGS["channel zeroed"](net)), isolate=isolate)
    assert not found.ok
    course = found.runs[0].course
    assert course.first.name == "b.y"
    assert any(line.startswith("first diverging value: `b.y`") for line in found.lines())
    assert found.to_dict()["runs"][0]["course"]["first"]["name"] == "b.y"


def test_the_worst_input_set_is_followed():
    net = conv_bn_net()
    found = quick(net, fold(BUGS["channel zeroed"](net)), sets=6)
    ratios = [c.ratio for c in found.runs[0].verdict.outputs[0].comparisons]
    worst = ratios.index(max(ratios))
    assert found.runs[0].course.label == found.runs[0].verdict.sets[worst]


def test_a_broken_fold_is_held_against_the_fold_made_again(tmp_path):
    """The MLP's first norm goes forwards into the MatMul: values between are others on purpose."""
    onnx.save(MODELS["mlp"](), tmp_path / "a.onnx")
    normsurgery.fold(tmp_path / "a.onnx").save(tmp_path / "b.onnx")
    right = onnx.load(tmp_path / "b.onnx")
    last = weights(right)[-1]
    layer = next(n for n in right.graph.node if last in n.input)
    onnx.save(change(right, last, lambda w: 1.01 * w), tmp_path / "b.onnx")
    found = quick(tmp_path / "a.onnx", tmp_path / "b.onnx")
    course = found.runs[0].course
    assert course.first.name == layer.output[0]
    assert "against the fold made again" in course.runtime
    assert max(one.ratio for one in course.values if one is not course.first) < 5


def test_a_wrong_coefficient_fails_though_the_verdict_passed():
    net = MODELS["dead"]()
    wrong = folded(net)
    wrong = change(wrong, weights(wrong)[0], double_dead_channel)
    found = quick(net, wrong)
    assert found.runs[0].verdict.ok
    assert not found.ok
    assert found.status is Status.FAILED
    assert "certificate: FAILED" in "\n".join(found.lines())
    assert found.coverage.activations[0].silent == (3,)


def double_dead_channel(array):
    array[3] *= 2
    return array


def test_a_saturated_output_is_judged_in_front_of_its_softmax():
    model = MODELS["saturated"]()
    right = folded(model)
    assert quick(model, right).ok
    wrong = change(right, weights(right)[-1], lambda w: w * [1.01, 1, 1, 1, 1])
    found = quick(model, wrong)
    assert found.runs[0].verdict.worst().name == "scores before Softmax"


def test_the_check_of_a_verbs_own_output_looks_there_too(tmp_path):
    model = MODELS["saturated"]()
    right = folded(model)
    wrong = change(right, weights(right)[-1], lambda w: w * [1.01, 1, 1, 1, 1])
    for name, one in (("a", model), ("b", right), ("c", wrong)):
        onnx.save(one, tmp_path / f"{name}.onnx")
    assert check(tmp_path / "a.onnx", tmp_path / "b.onnx").ok
    assert not check(tmp_path / "a.onnx", tmp_path / "c.onnx").ok


def test_drift_has_neither():
    net = conv_bn_net()
    found = quick(net, fold(net), kind="drift")
    assert found.certificate is found.coverage is None
    assert found.to_dict()["certificate"] is None


def test_evidence_that_crashes_leaves_the_verdict(monkeypatch):
    call = isolation.call

    def crash(function, *args, **kwargs):
        if function is evidence.collect:
            raise CrashError("it crashed", Step("comparing coefficients"))
        return call(function, *args, **kwargs)

    monkeypatch.setattr(isolation, "call", crash)
    net = conv_bn_net()
    found = quick(net, fold(net), isolate=True)
    assert found.ok
    assert "no certificate: no further evidence: it crashed" in found.lines()


def test_what_cannot_be_collected_is_told(monkeypatch):
    def broken(*_args, **_kwargs):
        raise InvalidModelError("no such kernel")

    net = conv_bn_net()
    monkeypatch.setattr(evidence, "coverage", broken)
    found = quick(net, fold(net), depth=True)
    assert found.reasons == ("coverage was not taken: no such kernel",)
    assert found.runs[0].course is not None
    assert found.ok
    monkeypatch.undo()
    monkeypatch.setattr(evidence.sweep, "course", broken)
    found = quick(net, fold(net), depth=True)
    assert found.reasons == ("errors were not followed through depth: no such kernel",)
    assert found.coverage is not None


def test_a_size_that_somebody_took_for_fixed_is_found():
    """The candidate was simplified for 64 × 64; it fails on the sets of another size."""
    model = graph("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    wrong = graph(
        """g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) {
            r = Relu(x)
            y = Reshape(r, to)
        }""",
        to=np.array([0, 3, 64, 64]),
    )
    assert quick(model, wrong, sets=6).ok
    found = quick(model, wrong, sets=12)
    assert found.status is Status.FAILED
    assert "does not run" in found.runs[0].verdict.line()

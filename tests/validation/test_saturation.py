"""Outputs behind Softmax, Sigmoid and Tanh are judged in front of them too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from validation.nets import fold, graph
from validation.specimens import MODELS, change, clone, nodes, sample

from normsurgery.errors import InvalidModelError
from normsurgery.validation import saturation
from normsurgery.validation.saturation import settled, unsaturated
from normsurgery.validation.sweep import course
from normsurgery.validation.verdict import parity


def judged(tmp_path, reference, candidate, **options):
    paths = tmp_path / "reference.onnx", tmp_path / "candidate.onnx"
    for path, model in zip(paths, (reference, candidate), strict=True):
        onnx.save(model, path)
    with unsaturated(*paths) as (ours, theirs):
        return settled(parity(ours, theirs, threads=1, **options)), (ours, theirs) == paths


def layer(end, opset=17):
    rng = np.random.default_rng(0)
    return graph(
        f"""g (float[N, 6] x) => (float[N, 4] y) {{
            l = Gemm(x, W, b)
            y = {end}
        }}""",
        opset=opset,
        W=(1000 * rng.normal(size=(6, 4))).astype(np.float32),
        b=rng.normal(size=4).astype(np.float32),
    )


@pytest.mark.parametrize("end", ["Softmax(l)", "Softmax<axis=1>(l)", "Sigmoid(l)", "Tanh(l)"])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_what_a_certain_output_hides_is_seen(tmp_path, end, opset):
    model = layer(end, opset)
    wrong = change(model, "W", lambda w: w * [1, 1, 1.001, 1])
    alone = parity(*saved(tmp_path, model, wrong), threads=1, sets=1)
    found, _ = judged(tmp_path, model, wrong, sets=1)
    assert not found.ok
    assert any(" before " in one.name for one in found.outputs)
    assert found.worst().ratio > 4
    assert alone.outputs[0].ratio is None or alone.outputs[0].ratio < found.worst().ratio
    right, _ = judged(tmp_path, model, clone(model), sets=1)
    assert right.ok


def saved(tmp_path, *models):
    for index, model in enumerate(models):
        onnx.save(model, tmp_path / f"{index}.onnx")
    return [tmp_path / f"{index}.onnx" for index in range(len(models))]


def test_a_constant_in_front_of_a_softmax_is_no_error(tmp_path):
    model = layer("Softmax(l)")
    found, _ = judged(tmp_path, model, change(model, "b", lambda b: b + 7))
    assert found.ok, found.line()


def test_a_constant_in_front_of_a_sigmoid_is_one(tmp_path):
    model = layer("Sigmoid(l)")
    found, _ = judged(tmp_path, model, change(model, "b", lambda b: b + 7))
    assert not found.ok


def test_a_correct_fold_passes(tmp_path):
    model = MODELS["saturated"]()
    found, same = judged(tmp_path, model, fold(model), sets=6)
    assert found.ok, found.line()
    assert not same


def test_a_mask_of_infinities_says_nothing(tmp_path):
    model = graph(
        "g (float[N, 3] x) => (float[N, 3] y) { m = Add(x, mask) \n y = Softmax(m) }",
        mask=np.array([0, 0, -np.inf], np.float32),
    )
    found, same = judged(tmp_path, model, clone(model))
    assert not same
    assert [one.name for one in found.outputs] == ["y"]
    assert found.ok, found.line()


@pytest.mark.parametrize(
    "how",
    [
        lambda m: nodes(m, "Softmax")[0].__setattr__("op_type", "LogSoftmax"),
        lambda m: nodes(m, "Softmax")[0].__setattr__("op_type", "Sigmoid"),
    ],
)
def test_nothing_is_added_where_the_ends_differ(tmp_path, how):
    model = layer("Softmax(l)")
    other = clone(model)
    how(other)
    found, same = judged(tmp_path, model, other)
    assert same
    assert not found.ok


def test_nothing_is_added_where_nothing_saturates(tmp_path):
    model = MODELS["net"]()
    assert judged(tmp_path, model, clone(model), sets=1)[1]


def test_nothing_is_copied_that_is_too_big(tmp_path, monkeypatch):
    model = sample("resnet")
    nodes(model, "Gemm")[0].output[0] = "logits"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["scores"]))
    assert not judged(tmp_path, model, clone(model), sets=1)[1]
    monkeypatch.setattr(saturation, "MOST", 1 << 18)
    assert judged(tmp_path, model, clone(model), sets=1)[1]


UNKNOWN = """g (float[N, 6] x) => (float[N, 4] y) {
    f = Gemm(x, W, b)
    l = Nonsense(f)
    y = Softmax(l)
}"""


def unknown():
    known = layer("Softmax(l)")
    made = graph(UNKNOWN)
    made.graph.initializer.extend(known.graph.initializer)
    return known, made


def test_a_reference_that_does_not_load_is_named_as_it_was_given(tmp_path):
    """Not the copy, which is gone when anybody reads it."""
    known, made = unknown()
    with pytest.raises(InvalidModelError) as failure:
        judged(tmp_path, made, known)
    assert str(failure.value).startswith(f"{tmp_path / 'reference.onnx'}: onnxruntime refuses it")


def test_a_candidate_that_does_not_load_has_no_other_name(tmp_path):
    known, made = unknown()
    found, _ = judged(tmp_path, known, made)
    told = "y: the candidate does not load: onnxruntime refuses it"
    assert told in found.line().replace("y before Softmax", "y")
    given = {"x": np.zeros((1, 6), np.float32)}
    far = course(tmp_path / "reference.onnx", tmp_path / "candidate.onnx", given)
    assert "as far as this: onnxruntime refuses it" in "".join(one.note for one in far.values)

"""Models run in pieces: the values of one run, few at a time, and where two models part."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from validation.nets import conv_bn_net, fold, graph
from validation.rewrites import renamed, reordered
from validation.specimens import MODELS, change, folded, nodes, weights

from normsurgery import io, runtime
from normsurgery.graph import Graph
from normsurgery.validation.matching import matching
from normsurgery.validation.steps import CannotStepError, Stepper
from normsurgery.validation.sweep import course


def feeds(model, seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for value in model.graph.input:
        shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == 7:
            made[value.name] = rng.integers(0, 5, shape)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            made[value.name] = rng.normal(size=shape).astype(dtype)
    return made


def run(path, given):
    return runtime.run(runtime.session(path, threads=1), given)


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet", "conv1d", "labels", "table"])
@pytest.mark.parametrize("at_once", [1, 5])
def test_pieces_give_what_the_whole_gives(tmp_path, name, at_once):
    """Bit by bit, for every value, where onnxruntime runs node by node."""
    model = MODELS[name]()
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    stepper = Stepper(io.from_proto(model), feeds(model), run)
    names = [n for node in stepper.order for n in node.output if n]
    known = {value.name for value in whole.graph.output}
    for value in names:
        if value not in known:
            whole.graph.output.add(name=value)
    onnx.save(whole, tmp_path / "whole.onnx")
    expected = run(tmp_path / "whole.onnx", feeds(model))
    for i in range(0, len(names), at_once):
        for value, array in stepper.advance(names[i : i + at_once]).items():
            np.testing.assert_array_equal(array, expected[value])
    assert not stepper.values


def test_only_what_is_still_read_is_kept():
    model = MODELS["resnet"]()
    stepper = Stepper(io.from_proto(model), feeds(model), run)
    names = [n for node in stepper.order for n in node.output if n]
    most = 0
    for name in names:
        stepper.advance([name])
        most = max(most, len(stepper.values))
    assert most <= 3  # a shortcut, the branch beside it, and the input


def test_a_value_that_is_gone_is_no_wrong_value():
    model = MODELS["net"]()
    stepper = Stepper(io.from_proto(model), feeds(model), run)
    stepper.advance(["scores"])
    with pytest.raises(CannotStepError, match="'r' is gone"):
        stepper.advance(["r"])


def test_a_sequence_of_parts_that_differ_in_shape_is_no_crash(tmp_path):
    """It is no tensor, and not compared; what is behind it is."""
    text = """g (float[2,3] x) => (float[2,1] y) {
        r = Add(x, b)
        s = SplitToSequence<axis = 1>(r, sizes)
        p = SequenceAt(s, zero)
        y = Mul(p, c)
    }"""
    rest = {"sizes": np.array([1, 2]), "zero": np.int64(0), "c": np.float32(3)}
    for name, b in (("one", 0), ("two", 1)):
        made = graph(text, b=np.full(3, b, np.float32), **rest)
        onnx.save(made, tmp_path / f"{name}.onnx")
    fed = {"x": np.ones((2, 3), np.float32)}
    found = course(tmp_path / "one.onnx", tmp_path / "two.onnx", fed)
    assert [one.name for one in found.values] == ["r", "s", "p", "y"]


def test_a_watched_value_waits():
    model = MODELS["net"]()
    stepper = Stepper(io.from_proto(model), feeds(model), run)
    stepper.watched = {"r"}
    stepper.advance(["scores"])
    assert set(stepper.advance(["r"])) == {"r"}
    assert not stepper.values


def saved(tmp_path, *models):
    paths = [tmp_path / f"{index}.onnx" for index in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        onnx.save(model, path)
    return paths


@pytest.mark.parametrize("name", ["resnet", "unet", "repvgg", "net", "half", "table"])
def test_a_correct_fold_diverges_nowhere(tmp_path, name):
    model = MODELS[name]()
    found = course(*saved(tmp_path, model, folded(model)), feeds(model))
    assert found.first is None
    assert found.lines() == []
    assert not found.reason
    assert not found.stopped
    assert len(found.values) > 5 or name == "table"


@pytest.mark.parametrize("index", range(4))
def test_the_layer_with_the_bug_is_named(tmp_path, index):
    """The value that the layer makes is the first, whichever layer it is."""
    model = MODELS["resnet"]()
    right = folded(model)
    name = weights(right)[3 * index]
    layer = next(n for n in right.graph.node if name in n.input)
    wrong = change(right, name, lambda w: w * 1.01)
    found = course(*saved(tmp_path, model, wrong), feeds(model))
    assert found.first.name == layer.output[0]
    assert layer.name in found.first.twin
    assert found.first.ratio > 100
    before = [one for one in found.values if one.name in found.first.inputs]
    assert all(one.ratio < 2 for one in before)
    ours, theirs = found.growth(found.first)
    if before and before[0].candidate:
        assert theirs > 100 > ours
    text = "\n".join(found.lines())
    assert "first diverging value" in text
    assert "worst values:" in text


def test_a_value_that_is_right_again_behind_it_is_not_among_the_worst(tmp_path):
    """Other tools fold a norm and leave its layer's output the name that it had in front of it."""
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal((3, 3, 1, 1)).astype(np.float32) for _ in range(2))
    one, nil = np.ones(3, np.float32), np.zeros(3, np.float32)
    scale = np.array([50, 60, 70], np.float32)
    text = """g (float[2,3,4,4] x) => (float[2,3,4,4] y) {
        c = Conv(x, w) n = BatchNormalization<epsilon = 0.0>(c, scale, nil, nil, one)
        r = Relu(n) y = Conv(r, v) }"""
    folded_text = """g (float[2,3,4,4] x) => (float[2,3,4,4] y) {
        c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"""
    model = graph(text, w=w, v=v, scale=scale, nil=nil, one=one)
    wrong = graph(folded_text, w=w * scale[:, None, None, None], v=v * np.float32(1.01))
    found = course(*saved(tmp_path, model, wrong), feeds(model))
    ratios = {one.name: one.ratio for one in found.values}
    assert ratios["c"] > ratios["y"] > 100
    assert found.first.name == "y"
    assert [one.name for one in found.worst()] == ["y"]


def test_renamed_values_are_matched(tmp_path):
    model = MODELS["resnet"]()
    right = folded(model)
    wrong = reordered(renamed(change(right, weights(right)[4], lambda w: w * 1.01)))
    layer = next(n for n in right.graph.node if weights(right)[4] in n.input)
    found = course(*saved(tmp_path, model, wrong), feeds(model))
    assert found.first.name == layer.output[0]
    assert len(found.values) > 15


def test_a_matching_by_what_values_are_computed_from():
    model = conv_bn_net()
    one, other = (Graph(io.from_proto(m)) for m in (model, renamed(fold(model))))
    names = matching(one, other)
    assert names["a.y"] == "renamed/a.y"
    assert names["r"] == "renamed/r"
    assert names["s"] == "renamed/s"
    assert "a.c" not in names  # in front of the norm that was folded


def test_a_value_scaled_on_purpose_is_not_where_it_begins(tmp_path):
    """A map was moved forwards over a Relu: the value between is another one, and no error."""
    text = """g (float[N, 4, 5, 5] x) => (float[N, 3, 5, 5] y) {
        c = Conv(x, W)
        r = Relu(c)
        d = Conv(r, V)
        y = Relu(d)
    }"""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(4, 4, 1, 1)).astype(np.float32)
    V = rng.normal(size=(3, 4, 1, 1)).astype(np.float32)
    model, moved = graph(text, W=W, V=V), graph(text, W=2 * W, V=V / 2)
    found = course(*saved(tmp_path, model, moved), feeds(model))
    assert found.first is None
    assert max(one.ratio for one in found.values) > 1e6
    nodes(moved, "Relu")[1].op_type = "Identity"
    found = course(*saved(tmp_path, model, moved), feeds(model))
    assert found.first.name == "y"


def test_a_candidate_that_stops_says_where(tmp_path):
    model = MODELS["net"]()
    wrong = change(model, "c.w", lambda w: w)
    tensor = next(t for t in wrong.graph.initializer if t.name == "c.w")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros((8, 7, 1, 1), np.float32), "c.w"))
    found = course(*saved(tmp_path, model, wrong), feeds(model))
    assert "`c.c`: the candidate does not run" in found.stopped
    assert found.first.name == "c.c"


def test_integers_and_shapes_are_compared_too(tmp_path):
    model = graph(
        "g (float[N, 4] x) => (int64[N] y) { s = Neg(x) \n y = ArgMax<axis=1, keepdims=0>(s) }"
    )
    wrong = graph(
        "g (float[N, 4] x) => (int64[N] y) { s = Abs(x) \n y = ArgMax<axis=1, keepdims=0>(s) }"
    )
    found = course(*saved(tmp_path, model, wrong), {"x": np.eye(4, dtype=np.float32)})
    assert [one.name for one in found.values] == ["s", "y"]
    assert "elements differ" in found.values[1].note
    assert found.first.name == "s"


def test_without_a_float64_run(tmp_path):
    model = MODELS["net"]()
    right = folded(model)
    wrong = change(right, weights(right)[1], lambda w: w * 1.01)
    found = course(*saved(tmp_path, model, wrong), feeds(model), float64=False)
    assert found.reason == "not asked for"
    assert found.first.name == "b.y"
    assert course(*saved(tmp_path, model, right), feeds(model), float64=False).first is None


def test_an_operator_without_float64_ends_the_float64_run_alone(tmp_path):
    model = graph(
        """g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) {
            r = Relu(x)
            s = GridSample(r, where)
            y = Neg(s)
        }""",
        where=np.zeros((1, 4, 4, 2), np.float32),
    )
    found = course(*saved(tmp_path, model, model), {"x": np.ones((1, 1, 4, 4), np.float32)})
    assert "GridSample" in found.reason
    assert len(found.values) == 3
    assert found.first is None


def test_bodies_are_run_whole(tmp_path):
    model = graph(
        """g (bool c, float[2] x) => (float[2] y) {
            k = Neg(x)
            z = If (c) <
                then_branch = yes () => (float[2] a) { a = Add(x, k) },
                else_branch = no () => (float[2] b) { b = Mul(k, k) }
            >
            y = Abs(z)
        }"""
    )
    given = {"c": np.array(False), "x": np.array([1, 2], np.float32)}
    found = course(*saved(tmp_path, model, model), given)
    assert [one.name for one in found.values] == ["k", "z", "y"]
    assert found.first is None


def test_the_report_is_json(tmp_path):
    model = MODELS["net"]()
    right = folded(model)
    wrong = change(right, weights(right)[0], lambda w: w * 1.01)
    found = course(*saved(tmp_path, model, wrong), feeds(model), label="a set")
    told = json.loads(json.dumps(found.to_dict()))
    assert told["first"]["name"] == found.first.name
    assert told["label"] == "a set"


def test_outputs_of_one_node_may_be_asked_for_apart(tmp_path):
    """LSTM makes Y, Y_h and Y_c; nobody reads the last two, and steps are of one value at first."""
    rng = np.random.default_rng(0)
    model = graph(
        """g (float[3, 1, 4] x) => (float[3, 1, 1, 5] z) {
            y, h, c = LSTM<hidden_size=5>(x, W, R)
            z = Neg(y)
        }""",
        W=rng.normal(size=(1, 20, 4)).astype(np.float32),
        R=rng.normal(size=(1, 20, 5)).astype(np.float32),
    )
    found = course(*saved(tmp_path, model, model), feeds(model))
    assert [one.name for one in found.values] == ["y", "h", "c", "z"]
    assert not found.stopped

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from validation.nets import BUGS, conv_bn_net, edit, fold, graph

from normsurgery.errors import InvalidModelError, UsageError
from normsurgery.validation import noise
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import against_noise, against_oracle
from normsurgery.validation.comparison import Status
from normsurgery.validation.double import coarsest
from normsurgery.validation.ulps import half_ulp
from normsurgery.validation.verdict import parity


def judge(tmp_path, reference, candidate, **options):
    paths = [tmp_path / "reference.onnx", tmp_path / "candidate.onnx"]
    for path, model in zip(paths, (reference, candidate), strict=True):
        onnx.save(model, str(path))
    return parity(*paths, **options)


@pytest.mark.parametrize("float64", [True, False])
def test_a_model_equals_itself(tmp_path, float64):
    net = conv_bn_net()
    found = judge(tmp_path, net, net, float64=float64)
    assert found.ok
    assert found.oracle == ("float64" if float64 else "noise floor")
    assert found.outputs[0].ratio <= 1


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_correct_fold_passes(tmp_path, seed, float64):
    net = conv_bn_net(seed=seed)
    found = judge(tmp_path, net, fold(net), sets=6, float64=float64)
    assert found.ok, found.line()
    assert found.outputs[0].ratio < 1.7


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_fails(tmp_path, bug, float64):
    net = conv_bn_net()
    found = judge(tmp_path, net, fold(BUGS[bug](net)), float64=float64)
    assert not found.ok
    assert found.outputs[0].status is Status.FAILED
    assert found.outputs[0].ratio > 4
    assert "FAILED" in found.line()


@pytest.mark.parametrize("float64", [True, False])
def test_float16(tmp_path, float64):
    net = conv_bn_net(np.float16)
    assert judge(tmp_path, net, fold(net), float64=float64).ok
    for bug in ("channel zeroed", "mean and variance swapped"):
        assert not judge(tmp_path, net, fold(BUGS[bug](net)), float64=float64).ok


def test_the_report_is_json_and_one_line(tmp_path):
    net = conv_bn_net()
    found = judge(tmp_path, net, fold(net))
    told = json.loads(json.dumps(found.to_dict()))
    assert told["ok"] is True
    assert told["outputs"][0]["status"] == "passed"
    assert len(told["outputs"][0]["comparisons"]) == len(told["sets"]) == 3
    line = found.line()
    assert line.startswith("parity: ok, onnxruntime CPU ")
    assert line.endswith("(scores), float64 oracle")
    assert "3 input sets, worst ratio" in line


def test_the_fallback_says_why(tmp_path):
    net = conv_bn_net()
    found = judge(tmp_path, net, fold(net), multiply_adds=1000)
    assert found.ok
    assert found.oracle == "noise floor"
    assert "GFLOP" in found.reason
    assert "noise floor (no float64 oracle" in found.line()
    assert "\n" not in found.line()


def test_a_random_operator_falls_back_and_names_it(tmp_path):
    model = graph("g (float[4] x) => (float[4] y) {r = RandomUniformLike<seed = 1.0>(x) "
                  "z = Constant<value = float {0.0}>() d = Mul(r, z) y = Add(x, d)}")  # fmt: skip
    found = judge(tmp_path, model, model)
    assert found.oracle == "noise floor"
    assert "RandomUniformLike 'r' is random" in found.reason


def test_a_zero_output_is_inconclusive(tmp_path):
    model = graph("g (float[4] x) => (float[4] y, float[4] z) {y = Relu(x) n = Sub(x, x) "
                  "z = Relu(n)}")  # fmt: skip
    found = judge(tmp_path, model, model)
    assert [o.status for o in found.outputs] == [Status.PASSED, Status.INCONCLUSIVE]
    assert not found.ok
    assert "inconclusive" in found.line()
    assert "zero on every input set" in found.line()


def test_an_output_that_was_zero_must_stay_zero(tmp_path):
    zero = graph("g (float[4] x) => (float[4] z) {z = Sub(x, x)}")
    found = judge(tmp_path, zero, graph("g (float[4] x) => (float[4] z) {z = Identity(x)}"))
    assert found.outputs[0].status is Status.FAILED


def test_flips_of_integers_are_counted(tmp_path):
    text = "g (float[1,64] x) => (int64[1,64] y, bool[1,64] b) "
    text += "{y = Cast<to = 7>(x) b = Less(x, o)}"
    one, two = np.ones(1, np.float32), np.full(1, 1.5, np.float32)
    same = graph(text, o=one)
    other = graph(text, o=two)
    assert judge(tmp_path, same, same).ok
    found = judge(tmp_path, same, other)
    assert found.outputs[0].status is Status.PASSED
    flipped = found.outputs[1]
    assert flipped.status is Status.FAILED
    assert sum(c.flips for c in flipped.comparisons) > 0
    assert "of 64 elements differ" in flipped.note


def test_flips_count_against_the_truth():
    truth = np.arange(10)
    reference, candidate = truth.copy(), truth.copy()
    reference[0], candidate[1] = 5, 5
    fair = against_oracle(reference, candidate, truth, bound=2)
    assert (fair.status, fair.flips) == (Status.PASSED, 2)
    candidate[2:5] = 0
    assert against_oracle(reference, candidate, truth, bound=2).status is Status.FAILED
    assert against_oracle(truth, candidate, truth, bound=2).status is Status.FAILED


def test_nan_masks_must_match(tmp_path):
    net = graph("g (float[8] x) => (float[8] y) {y = Sqrt(x)}")
    hidden = graph("g (float[8] x) => (float[8] y) {p = Abs(x) y = Sqrt(p)}")
    assert judge(tmp_path, net, net).ok
    found = judge(tmp_path, net, hidden)
    assert found.outputs[0].status is Status.FAILED
    assert "NaN or Inf" in found.outputs[0].note
    assert found.outputs[0].ratio is None or found.outputs[0].ratio < 2


def test_infinities_must_have_the_same_sign():
    plus, minus = np.array([1, np.inf], np.float32), np.array([1, -np.inf], np.float32)
    assert against_noise(plus, minus, bound=2).status is Status.FAILED
    assert against_noise(plus, plus, bound=2).status is Status.PASSED


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("g (float[4] x) => (float[4] w) {w = Relu(x)}", "missing"),
        ("g (float[4] x) => (float[1,4] y) {r = Relu(x) a = Constant<value_ints = [0]>() "
         "y = Unsqueeze(r, a)}", "shape"),
        ("g (float[4] x) => (double[4] y) {r = Relu(x) y = Cast<to = 11>(r)}", "type"),
        ("g (float[4] z) => (float[4] y) {y = Relu(z)}",
         "the candidate wants input 'z', which the reference does not"),
        ("g (float[4] x, float[4] a, float[4] b) => (float[4] y) {y = Sum(x, a, b)}",
         "the candidate wants input 'a' and 1 more input, which the reference does not"),
        ("g () => (float[4] y) {y = Constant<value = float[4] {1, 2, 3, 4}>()}",
         "the candidate has no input 'x'"),
        ("g (float[4] x) => (float[4] y) {s = Constant<value_ints = [3]>() r = Reshape(x, s) "
         "y = Relu(r)}", "does not run"),
        ("g (float[4] x) => (float[4] y) {y = Nonsense(x)}", "does not load"),
    ],
)  # fmt: skip
def test_another_interface_fails(tmp_path, text, note):
    found = judge(tmp_path, graph("g (float[4] x) => (float[4] y) {y = Relu(x)}"), graph(text))
    assert not found.ok
    bad = next(output for output in found.outputs if output.name == "y")
    assert bad.status is Status.FAILED
    assert note in bad.note
    json.dumps(found.to_dict())


def test_a_reference_that_is_exact_by_luck_does_not_cry_wolf(tmp_path):
    """Weights of powers of two, small integers as input: no rounding at all, until folded."""
    rng = np.random.default_rng(0)
    net = graph(
        "g (float[1,2,4,4] x) => (float[1,8,4,4] y) "
        "{c = Conv(x, w) y = BatchNormalization<epsilon = 0.0>(c, s, b, m, v)}",
        w=np.exp2(rng.integers(-2, 3, (8, 2, 1, 1))).astype(np.float32),
        s=np.ones(8, np.float32), b=np.zeros(8, np.float32), m=np.zeros(8, np.float32),
        v=np.full(8, 0.25, np.float32),
    )  # fmt: skip
    nearly = edit(net, "w", lambda w: np.nextafter(w.astype(np.float32), np.float32(9)))
    x = rng.integers(-8, 8, (1, 2, 4, 4)).astype(np.float32)
    found = judge(tmp_path, net, nearly, feeds=[{"x": x}])
    assert found.ok, found.line()
    assert "moved by an ulp" in found.outputs[0].comparisons[0].note
    wrong = edit(net, "w", lambda w: w * (1 + 1e-5))
    assert not judge(tmp_path, net, wrong, feeds=[{"x": x}]).ok


def test_an_oracle_that_disagrees_with_the_reference_is_not_trusted():
    reference = np.linspace(1, 2, 100, dtype=np.float32)
    wrong = reference.astype(np.float64) * 1.01
    for truth in (wrong, wrong[:50], np.full(100, np.nan)):
        with pytest.raises(NoOracleError):
            against_oracle(reference, reference, truth, bound=2.0)


def test_several_inputs_outputs_and_a_dynamic_size(tmp_path):
    text = "g (float[N,3,H,W] x, float[N,1,H,W] m) => (float[?,?,?,?] y, float[?,?,?,?] z) {%s}"
    body = "p = Mul(x, m) y = Relu(p) z = AveragePool<kernel_shape = [5, 5]>(y)"
    net = graph(text % body)
    found = judge(tmp_path, net, net)
    assert found.ok
    assert [o.name for o in found.outputs] == ["y", "z"]
    assert judge(tmp_path, net, net, shapes={"x": (1, 3, 9, 7)}).sets[0].endswith("m (1, 1, 9, 7)")


def test_misuse_is_an_error(tmp_path):
    net = graph("g (float[4] x) => (float[4] y) {y = Relu(x)}")
    with pytest.raises(UsageError):
        judge(tmp_path, net, net, sets=0)
    with pytest.raises(UsageError):
        judge(tmp_path, net, net, feeds=[{"q": np.zeros(4, np.float32)}])
    (tmp_path / "bad.onnx").write_bytes(b"\xff")
    with pytest.raises(InvalidModelError):
        parity(tmp_path / "bad.onnx", tmp_path / "bad.onnx")


def test_external_data(tmp_path):
    net = conv_bn_net()
    for name, model in (("r", net), ("c", fold(net))):
        (tmp_path / name).mkdir()
        onnx.save(model, str(tmp_path / name / "m.onnx"), save_as_external_data=True,
                  size_threshold=0)  # fmt: skip
    for float64 in (True, False):
        assert parity(tmp_path / "r" / "m.onnx", tmp_path / "c" / "m.onnx", float64=float64).ok


def test_sequences_are_compared_element_by_element(tmp_path):
    net = graph("g (float[4] x) => (seq(float[4]) y) {n = Neg(x) y = SequenceConstruct(x, n)}")
    net.graph.output[0].CopyFrom(
        helper.make_tensor_sequence_value_info("y", onnx.TensorProto.FLOAT, [4])
    )
    found = judge(tmp_path, net, net)
    assert [o.name for o in found.outputs] == ["y[0]", "y[1]"]
    assert found.ok


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float64], ids=["bfloat16", "float64"])
@pytest.mark.parametrize("seed", range(2))
def test_what_onnxruntime_has_no_kernels_for_is_evaluated_in_float64(tmp_path, dtype, seed):
    net = conv_bn_net(dtype, seed=seed)
    found = judge(tmp_path, net, fold(net))
    assert found.ok, found.line()
    assert found.runtime == "float64 evaluation"
    assert found.reason.startswith("onnxruntime refuses it: ")
    assert 0 < found.ratio < 1
    for bug in ("channel zeroed", "bias dropped", "mean and variance swapped"):
        wrong = judge(tmp_path, net, fold(BUGS[bug](net)))
        assert wrong.status is Status.FAILED
    broken = graph("g (float[4] x) => (float[4] y) {y = Nonsense(x)}")
    assert judge(tmp_path, net, broken).status is Status.FAILED


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16], ids=str)
def test_half_a_unit_in_the_last_place(dtype):
    rng = np.random.default_rng(0)
    array = np.array([1, 1.5, -3, 1000, 0.001, 0] * 500).astype(dtype)
    distance = np.abs(half_ulp(array, rng) - array.astype(np.float64))
    up = np.nextafter(np.abs(array), np.array(np.inf, dtype)).astype(np.float64)
    ulp = up - np.abs(array).astype(np.float64)
    assert np.all(distance <= ulp / 2)
    assert np.all(distance.reshape(500, 6).max(0)[:5] > 0.45 * ulp[:5])
    assert np.all(distance[array == 0] == 0)


def test_float64_has_no_finer_type_to_be_moved_in():
    array = np.linspace(1, 1.9, 1000)
    moved = half_ulp(array, np.random.default_rng(0))
    assert set(np.unique(np.round((moved - array) / 2.0**-52))) == {-1, 0, 1}


def test_mixed_precision_is_as_coarse_as_its_coarsest(tmp_path):
    """float16 inside, float32 outside: the oracle is as far away as float16 rounds."""
    net = conv_bn_net(np.float16)
    for value in (net.graph.input[0], net.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in net.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = {"x": "x16", "scores": "scores16"}.get(name, name)
    # At the end, both, as onnxruntime's converter leaves them: not an order to run in.
    net.graph.node.append(helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16))
    net.graph.node.append(helper.make_node("Cast", ["scores16"], ["scores"], to=TensorProto.FLOAT))
    assert coarsest(net) == 2.0**-11
    assert coarsest(conv_bn_net()) == 0
    found = judge(tmp_path, net, net, sets=6)
    assert found.ok
    assert found.oracle == "float64", found.reason


def test_a_failed_output_gets_no_more_second_opinions(tmp_path, monkeypatch):
    asked = []
    runs = noise.runs

    def counted(*args, **kwargs):
        asked.append(args)
        return runs(*args, **kwargs)

    monkeypatch.setattr(noise, "runs", counted)
    net = conv_bn_net()
    found = judge(tmp_path, net, fold(BUGS["bias dropped"](net)), sets=6)
    assert [c.status for c in found.outputs[0].comparisons] == [Status.FAILED] * 6
    assert len(asked) == 1

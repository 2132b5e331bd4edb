"""Coefficients against float64, without an input: exact for fold's own, by layers for others'."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from validation import nets
from validation.rewrites import BASIC, renamed, reordered
from validation.specimens import MODELS, SAMPLES, change, clone, folded, initializer, weights

import normsurgery
from normsurgery.validation.certificate import certify
from normsurgery.validation.comparison import Status


@pytest.fixture
def files(tmp_path):
    """Return a function that saves two models and certifies them."""

    def run(reference, candidate):
        for name, model in (("reference", reference), ("candidate", candidate)):
            onnx.save(model, tmp_path / f"{name}.onnx")
        return certify(tmp_path / "reference.onnx", tmp_path / "candidate.onnx")

    return run


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.glob("*.onnx")))
def test_folds_of_the_samples_are_exact(tmp_path, name):
    source, target = SAMPLES / f"{name}.onnx", tmp_path / "folded.onnx"
    result = normsurgery.fold(source)
    result.save(target)
    found = certify(source, target)
    assert found.status is Status.PASSED
    assert found.how == "fold"
    theirs = {c.tensor: c for c in result.certificates()}
    for one in found.tensors:
        assert one.max_ulp == theirs[one.tensor].max_ulp <= 0.5
        assert one.mean_ulp == pytest.approx(theirs[one.tensor].mean_ulp)
        assert one.count == theirs[one.tensor].count


def claimed(tmp_path, change_it):
    """A tampered file that says that fold made it of the reference."""
    source, target = tmp_path / "source.onnx", tmp_path / "folded.onnx"
    onnx.save(nets.conv_bn_net(), source)
    normsurgery.fold(source).save(target, force=True)
    model = onnx.load(target)
    assert {p.key: p.value for p in model.metadata_props}["normsurgery.verb"] == "fold"
    onnx.save(change_it(model), target)
    return certify(source, target)


def one_ulp(array):
    array.flat[5] = np.nextafter(np.float32(array.flat[5]), np.float32(np.inf))
    return array


def test_who_claims_to_be_a_fold_is_held_to_half_an_ulp(tmp_path):
    assert claimed(tmp_path, clone).status is Status.PASSED
    found = claimed(tmp_path, lambda m: change(m, "a.w_folded", one_ulp))
    assert found.status is Status.FAILED
    assert "a.w_folded[0, 0, 1, 2]" in found.line()


def test_who_claims_to_be_a_fold_leaves_other_tensors_alone(tmp_path):
    found = claimed(tmp_path, lambda m: change(m, "fc.w", one_ulp))
    assert found.status is Status.FAILED
    assert "`fc.w[1, 0]`" in found.line()
    assert "fold leaves it alone" in found.line()


def test_the_claim_is_void_for_another_source(tmp_path, files):
    """Metadata of a fold of something else claim nothing; the layers are compared."""
    other = normsurgery.fold(nets.conv_bn_net(seed=1)).model
    found = files(nets.conv_bn_net(), other)
    assert found.how == "none"
    assert found.status is Status.INCONCLUSIVE


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "grouped", "half", "table"])
def test_a_fold_is_known_without_its_metadata(files, name):
    model = MODELS[name]()
    found = files(model, reordered(renamed(folded(model))))
    assert found.how == "fold"
    assert found.status is Status.PASSED
    assert found.worst.max_ulp <= 0.5


def test_a_model_itself(files):
    model = MODELS["resnet"]()
    found = files(model, clone(model))
    assert found.how == "unchanged"
    assert found.status is Status.PASSED
    assert found.line() == "certificate: all 55 tensors are those of the reference"


@pytest.mark.parametrize("name", ["resnet", "repvgg", "densenet", "grouped", "net"])
def test_another_tools_fold_is_certified_by_layers(files, name):
    """onnxruntime folds in float32: a few ulp of a weight, and of the terms of a bias."""
    model = MODELS[name]()
    found = files(model, BASIC(model))
    assert found.how in {"layers", "unchanged"}
    assert found.status is Status.PASSED
    assert not found.tensors or 0 < found.worst.max_ulp < 4


def plain(change_it, name="net"):
    """A fold that nobody signed, in the tensors' old names, with something changed."""
    return MODELS[name](), change_it(nets.fold(MODELS[name]()))


def test_one_wrong_channel_among_right_ones_fails(files):
    found = files(*plain(lambda m: change(m, "b.w", lambda w: double_one(w, 6))))
    assert found.status is Status.FAILED
    assert "Conv `b`: weights of channel 6" in found.line()
    assert "wrong channels: 6, of 8" in found.line()


def double_one(array, channel):
    array[channel] *= 2
    return array


def test_one_wrong_bias_fails(files):
    found = files(*plain(lambda m: change(m, "c.b", lambda b: b + 1e-3 * (np.arange(8) == 2))))
    assert found.status is Status.FAILED
    assert "Conv `c`: bias of channel 2" in found.line()


def test_a_layer_of_which_all_channels_differ_has_no_certificate(files):
    found = files(*plain(lambda m: change(m, "b.w", lambda w: 2 * w)))
    assert found.status is Status.INCONCLUSIVE
    assert "1 of 4 layers are not those of a fold (Conv `b`)" in found.line()
    assert found.ok


def test_a_constant_between_layers_that_differs_in_one_element_fails(files):
    model = nets.graph(
        """g (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y) {
            c = Conv(x, W)
            y = PRelu(c, slope)
        }""",
        W=np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32),
        slope=np.full((4, 1, 1), 0.25, np.float32),
    )
    found = files(model, change(model, "slope", lambda s: double_one(s, 1)))
    assert found.status is Status.FAILED
    assert "slope[1, 0, 0]" in found.line()


def quantized():
    """A convolution whose weights are 8-bit integers, so that no layer has a certificate."""
    rng = np.random.default_rng(0)
    return nets.graph(
        """g (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y) {
            w = DequantizeLinear<axis = 0>(W, scale, zero)
            y = Conv(x, w)
        }""",
        W=rng.integers(-90, 90, (4, 4, 1, 1)).astype(np.int8),
        scale=rng.uniform(0.01, 0.02, 4).astype(np.float32),
        zero=np.zeros(4, np.int8),
    )


def test_a_quantized_weight_that_differs_in_one_element_fails(files):
    """A step of the integer may be less than the rounding of what comes after, and is wrong."""
    model = quantized()

    def step(w):
        w[2, 1, 0, 0] += 1
        return w

    found = files(model, change(model, "W", step))
    assert found.status is Status.FAILED
    assert "`W` differs from the reference in 1 of 16 elements" in found.line()
    found = files(model, change(model, "scale", lambda s: double_one(s, 1)))
    assert found.status is Status.FAILED
    assert "scale[1]" in found.line()


def test_integers_that_all_move_with_their_zero_point_are_no_failure(files):
    model = quantized()
    moved = change(change(model, "W", lambda w: w + 1), "zero", lambda z: z + 1)
    assert files(model, moved).status is Status.INCONCLUSIVE


def test_another_type_has_no_certificate(files):
    found = files(nets.conv_bn_net(), nets.conv_bn_net(np.float16))
    assert found.how == "none"
    assert found.ok


def test_not_a_number_is_infinitely_far(files):
    model = folded(MODELS["resnet"]())

    def spoil(w):
        w.flat[7] = np.nan
        return w

    found = files(MODELS["resnet"](), change(model, weights(model)[1], spoil))
    assert found.status is Status.FAILED
    assert "inf ulp" in found.line()


def test_a_candidate_that_cannot_be_read_has_none(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xff")
    found = certify(SAMPLES / "digits_resnet.onnx", tmp_path / "broken.onnx")
    assert found.line().startswith("no certificate: ")


def test_the_report_is_json(files):
    model = MODELS["net"]()
    found = files(model, BASIC(model))
    told = json.loads(json.dumps(found.to_dict()))
    assert told["ok"] is True
    assert told["how"] == "layers"
    assert told["tensors"][0]["count"] == 8 * 27 + 8
    assert 0 < told["mean_ulp"] < 0.5


def test_external_data(tmp_path):
    model = MODELS["resnet"]()
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="a.data")
    normsurgery.fold(tmp_path / "a.onnx").save(tmp_path / "b.onnx")
    found = certify(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found.status is Status.PASSED
    assert found.how == "fold"


def test_layers_are_computed_apart_from_fold(files):
    """y = ((W·x + b)·m − s − mean)/√(var + ε)·scale + B by hand, and as one layer."""
    rng = np.random.default_rng(4)
    f = {n: rng.uniform(0.5, 2, 3) for n in ("b", "m", "s", "scale", "B", "mean", "var")}
    W = rng.normal(size=(2, 3))
    f = {name: array.astype(np.float32) for name, array in f.items()}
    W = W.astype(np.float32)
    reference = nets.graph(
        """g (float[N, 2] x) => (float[N, 3] y) {
            g = Gemm<alpha=0.5, beta=2.0>(x, W, b)
            p = Mul(m, g)
            q = Sub(s, p)
            y = BatchNormalization<epsilon=0.01>(q, scale, B, mean, var)
        }""",
        W=W,
        **f,
    )
    w = {name: array.astype(float) for name, array in f.items()}
    a = w["scale"] / np.sqrt(w["var"] + float(np.float32(0.01)))
    new_W = -0.5 * W.astype(float) * w["m"] * a
    new_b = a * (w["s"] - 2 * w["b"] * w["m"] - w["mean"]) + w["B"]
    candidate = nets.graph(
        "g (float[N, 2] x) => (float[N, 3] y) { y = Gemm(x, W, b) }",
        W=new_W.astype(np.float32),
        b=new_b.astype(np.float32),
    )
    found = files(reference, candidate)
    assert found.how in {"layers", "fold"}
    assert found.status is Status.PASSED
    assert found.worst.max_ulp <= 0.5
    tensor = initializer(candidate, "b")
    tensor.CopyFrom(numpy_helper.from_array((new_b * [1, 1.001, 1]).astype(np.float32), "b"))
    assert files(reference, candidate).status is Status.FAILED


@pytest.mark.parametrize("name", ["repvgg", "densenet", "resnet"])
def test_a_bug_in_an_unsigned_fold_of_merged_branches_fails(files, name):
    """The reference's own layers are gone there; those of the fold made again are compared."""
    model = MODELS[name]()
    wrong = folded(model)
    changed = next(n for n in weights(wrong) if n.endswith("_folded"))
    found = files(model, change(wrong, changed, lambda w: double_one(w, 2)))
    assert found.status is Status.FAILED
    assert "channel 2" in found.line()

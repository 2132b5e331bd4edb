"""Second opinions: whom they save, whom they must not, and how many copies are asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from validation.nets import BUGS, conv_bn_net, edit, fold, graph

import normsurgery
from normsurgery.errors import NormSurgeryError
from normsurgery.validation import noise, opinions
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import against_noise, against_oracle
from normsurgery.validation.comparison import Status
from normsurgery.validation.distances import distance, masks_differ
from normsurgery.validation.opinions import NEAR, explain, larger, typical
from normsurgery.validation.verdict import parity


def judge(tmp_path, reference, candidate, **options):
    onnx.save(reference, tmp_path / "reference.onnx")
    onnx.save(candidate, tmp_path / "candidate.onnx")
    return parity(tmp_path / "reference.onnx", tmp_path / "candidate.onnx", **options)


def saying(scale, asked, name):
    """An opinion that notes what it was asked."""

    def ask(kind, enough):
        asked.append((name, kind, enough))
        return scale

    return ask


@pytest.mark.parametrize(
    ("error", "scale", "names"),
    [
        (1.9, 1.0, ""),  # within the bound: nobody is asked
        (2.1, 1.5, "a"),  # the first is enough
        (2.0 * 1.5 * NEAR, 1.7, "ab"),  # near
        (2.1 * 1.5 * NEAR, 1.5, "a"),  # too far for more copies to matter
    ],
)
def test_opinions_are_asked_as_long_as_they_may_matter(error, scale, names):
    asked = []
    opinions = [saying(1.5, asked, "a"), saying(1.7, asked, "b")]
    found = explain(error, 1.0, 2.0, opinions)
    assert "".join(name for name, *_ in asked) == names
    assert all(one[1:] == ("error", error / 2) for one in asked)
    assert found == (scale if asked else 1.0)


def test_what_is_counted_is_near_to_one():
    asked = []
    nobody, one = saying(0.0, asked, "a"), saying(1.0, asked, "b")
    assert explain(1, 0.0, 2.0, [nobody, one], kind="mask", floor=1) == 1
    assert [kind for _, kind, _ in asked] == ["mask", "mask"]
    assert explain(17, 0.0, 2.0, [nobody, one], floor=1) == 0


def test_the_larger_of_two_opinions_counts():
    asked = []
    both = larger(saying(1.0, asked, "a"), saying(3.0, asked, "b"))
    assert both("error", 2.0) == 3
    assert len(asked) == 2


def test_an_opinion_does_not_lower_the_scale():
    assert explain(9.0, 3.0, 2.0, [lambda *_: 1.0]) == 3


def test_luck_is_told_from_a_bug_by_rolling_the_dice_again():
    assert typical(1.9, 1.0, 2.0, lambda: 1 / 0) == 1.9
    assert typical(2.1, 1.0, 2.0, lambda: 0.5) == 0.5
    assert typical(2.1, 1.0, 2.0, None) == 2.1
    assert typical(2.1 * NEAR, 1.0, 2.0, lambda: 1 / 0) == 2.1 * NEAR
    reference, truth = np.ones(1, np.float32), np.ones(1)
    unlucky = np.float32(1) + np.float32([2**-21])
    against = {"bound": 2.0, "opinions": [lambda *_: 2**-23]}
    assert against_oracle(reference, unlucky, truth, **against).status is Status.FAILED
    found = against_oracle(reference, unlucky, truth, again=lambda: 2**-24, **against)
    assert (found.status, found.ratio) == (Status.PASSED, 0.5)
    assert "4 here, 0.5 over 8 inputs that are an ulp away" in found.note
    found = against_oracle(reference, unlucky, truth, again=lambda: 2**-21, **against)
    assert (found.status, found.ratio) == (Status.FAILED, 4)


SEEDS = (1233, 3361, 3711)
"""Of 5,000, those of fifteen that the first copies alone would flag on one of 12 input sets."""


def small_mean(seed):
    """Conv, BN, Tanh and the mean of all of it: one number, whose error is a matter of luck."""
    rng = np.random.default_rng(seed)

    def drawn(kind, *args):
        return kind(*args).astype(np.float32)

    text = "{c = Conv<pads = [1, 1, 1, 1]>(x, w) b = BatchNormalization(c, s, o, m, v) "
    text += "t = Tanh(b) y = ReduceMean<keepdims = 0>(t)}"
    return graph(
        f"g (float[N,3,4,4] x) => (float y) {text}",
        w=drawn(rng.normal, 0, 0.2, (8, 3, 3, 3)),
        s=drawn(rng.uniform, 0.5, 1.5, 8),
        o=drawn(rng.normal, 0, 0.5, 8),
        m=drawn(rng.normal, 0, 0.5, 8),
        v=drawn(rng.uniform, 0.1, 2, 8),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_right_fold_of_a_single_number_passes(tmp_path, monkeypatch, seed):
    net = small_mean(seed)
    right = normsurgery.fold(net).model
    assert judge(tmp_path, net, right, sets=12).ok
    monkeypatch.setattr(opinions, "NEAR", 0)
    assert not judge(tmp_path, net, right, sets=12).ok


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["w", "m", "o"])
def test_a_wrong_fold_of_a_single_number_fails(tmp_path, seed, name):
    net = small_mean(seed)

    def slightly(values):
        values[0] *= 1 + 1e-3
        return values

    wrong = normsurgery.fold(edit(net, name, slightly)).model
    assert judge(tmp_path, net, wrong, sets=12).status is Status.FAILED


def test_a_gross_bug_does_not_pay_for_more_copies(tmp_path, monkeypatch):
    asked = []
    further = noise.further
    monkeypatch.setattr(noise, "further", lambda *a, **k: asked.append(1) or further(*a, **k))
    net = conv_bn_net()
    told = []
    wrong = fold(BUGS["bias dropped"](net))
    assert not judge(tmp_path, net, wrong, progress=lambda step: told.append(step.text)).ok
    assert not any("copy" in text for text in told)


def test_more_copies_are_made_one_by_one(tmp_path):
    net = conv_bn_net()
    path = tmp_path / "net.onnx"
    onnx.save(net, path)
    told = []
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    runs = noise.further(path, feeds, tell=told.append)
    one, two = next(runs), next(runs)
    assert told == [0, 1]
    assert not np.array_equal(one["scores"], two["scores"])
    assert len(list(runs)) == noise.FURTHER - 2
    again = noise.further(path, feeds)
    assert np.array_equal(next(again)["scores"], one["scores"])


def overflowing(factor):
    """Products whose last values are about the largest of float16, one ulp from infinity."""
    return graph(
        "g (float16[1,4096] x) => (float16[1,4096] y) {a = Mul(x, s) y = Mul(a, t)}",
        s=np.asarray([9.7], np.float16),
        t=np.asarray([factor], np.float16),
    )


def test_what_overflows_by_rounding_alone_is_no_failure(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.95, 1.05, (1, 4096)) * 65504 / (9.7 * 11.9)
    feeds = [{"x": x.astype(np.float16)}]
    net = overflowing(11.9)
    moved = overflowing(np.nextafter(np.float16(11.9), np.float16(12)))
    found = judge(tmp_path, net, moved, feeds=feeds)
    assert found.ok, found.line()
    assert "NaN or Inf in one model alone, as up to" in found.outputs[0].note
    lower = judge(tmp_path, net, overflowing(11.9 * 0.99), feeds=feeds)
    assert lower.status is Status.FAILED
    assert "NaN or Inf in one model alone" in lower.outputs[0].note


def test_masks_count_against_what_opinions_show():
    reference = np.array([1, 2, 3, np.inf, np.nan], np.float32)
    candidate = np.array([1, 2, np.inf, np.inf, 4], np.float32)
    assert masks_differ(reference, candidate) == 2
    truth = np.array([1, 2, 3, 1e39, 1e39])
    for against in (
        lambda **k: against_oracle(reference, candidate, truth, bound=2.0, **k),
        lambda **k: against_noise(reference, candidate, bound=2.0, **k),
    ):
        assert against().status is Status.FAILED
        explained = [lambda kind, _: float(kind == "mask")]
        assert against(opinions=explained).status is Status.PASSED


def test_a_candidate_that_agrees_with_the_oracle_settles_who_is_right():
    """The reference may be what is wrong: a norm over one element multiplies rounding by 316."""
    truth = np.linspace(1, 2, 100)
    reference = (truth * (1 + 1e-3)).astype(np.float32)
    found = against_oracle(reference, truth.astype(np.float32), truth, bound=2.0)
    assert found.status is Status.PASSED
    assert found.ratio < 1e-3
    for candidate in (reference, (truth * (1 - 1e-3)).astype(np.float32)):
        with pytest.raises(NoOracleError):
            against_oracle(reference, candidate, truth, bound=2.0)


def test_distances_of_other_shapes_and_of_flips():
    assert distance(np.zeros(3, np.float32), np.ones(4, np.float32)) == 0
    assert distance(np.array([1, 2, 3]), np.array([1, 5, 6])) == 2
    assert distance(np.array([1, np.nan], np.float32), np.array([4, 4], np.float32)) == 3


def test_a_copy_that_does_not_run_is_left_out(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    onnx.save(conv_bn_net(), path)
    moved = noise._moved

    def failing(source, target, rng, *rest):
        if not failed:
            failed.append(1)
            raise NormSurgeryError("refused")
        return moved(source, target, rng, *rest)

    failed = []
    monkeypatch.setattr(noise, "_moved", failing)
    feeds = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    assert len(list(noise.further(path, feeds))) == noise.FURTHER - 1

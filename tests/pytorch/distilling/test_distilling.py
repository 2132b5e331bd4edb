"""Distillation: what is trained, that it helps on samples that it has not seen, and what stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import normsurgery
from normsurgery import io, runtime
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.pytorch import distill
from normsurgery.pytorch.distilling.api import norm_parameters
from normsurgery.pytorch.distilling.lessons import spread

SAMPLES = Path(__file__).parents[3] / "sample_models"
RESNET = SAMPLES / "digits_resnet.onnx"


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    return {"image": np.load(SAMPLES / "digits.npz")["train_images"][:192]}


@pytest.fixture(scope="module")
def rough() -> normsurgery.ConvertResult:
    """A conversion that leaves something to learn."""
    return normsurgery.convert(RESNET, "group", channels_per_group=8, gauge="whiten")


def scores(model: onnx.ModelProto, tmp_path: Path) -> np.ndarray:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    feeds = {"image": np.load(SAMPLES / "digits.npz")["test_images"]}
    return next(iter(runtime.run(runtime.session(path), feeds).values()))


def test_the_outputs_come_nearer_on_other_samples(rough, images, tmp_path: Path) -> None:
    result = distill(RESNET, rough.model, images, steps=60)
    report = result.report
    assert 0 < report.best <= 60
    assert report.after < 0.8 * report.before
    assert (report.samples, report.held) == (144, 48)
    expected = scores(onnx.load(RESNET), tmp_path)
    before, after = (
        np.square(scores(m, tmp_path) - expected).mean() for m in (rough.model, result.model)
    )
    assert after < 0.8 * before
    assert report.drift is not None
    assert "distilled: " in report.line()


def test_scale_and_bias_of_the_norms_change_and_nothing_else(rough, images) -> None:
    result = distill(RESNET, rough.model, images, steps=12)
    names = set(norm_parameters(Graph(io.from_proto(rough.model))))
    assert len(names) == 22
    assert set(result.report.trained) == names
    before, after = rough.model, result.model
    for model in (before, after):
        for tensor in model.graph.initializer:
            if tensor.name in names:
                tensor.raw_data = b""
    assert before == after


@pytest.mark.parametrize("encoding", ["instance", "layer", "native"])
def test_every_encoding_of_group_normalization(images, encoding: str) -> None:
    made = normsurgery.convert(
        RESNET, "group", channels_per_group=8, gauge="whiten", encoding=encoding
    )
    result = distill(RESNET, made.content, images, steps=12, samples=64)
    assert len(result.report.trained) == 22
    shapes = {
        int(np.prod(t.dims))
        for t in result.model.graph.initializer
        if t.name in set(result.report.trained)
    }
    source = onnx.load(RESNET).graph
    scales = {n.input[1] for n in source.node if n.op_type == "BatchNormalization"}
    assert shapes == {t.dims[0] for t in source.initializer if t.name in scales}


def test_each_step_is_told(rough, images) -> None:
    told: list[tuple[int, int]] = []
    distill(RESNET, rough.model, images, steps=3, step=lambda *one: told.append(one))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_same_seed_gives_the_same_bytes(rough, images) -> None:
    one, other = (distill(RESNET, rough.model, images, steps=8, seed=3) for _ in range(2))
    assert one.model.SerializeToString(deterministic=True) == other.model.SerializeToString(
        deterministic=True
    )
    third = distill(RESNET, rough.model, images, steps=8, seed=4)
    assert third.model != one.model


def test_what_does_not_help_is_not_kept(rough, images) -> None:
    result = distill(RESNET, rough.model, images, steps=2, lr=1e3)
    assert result.report.best == 0
    assert result.report.after == result.report.before
    assert result.model == rough.model
    assert "did not fall" in result.report.line()


def test_nothing_to_learn(images) -> None:
    frozen = normsurgery.convert(RESNET, "affine")
    with pytest.raises(UsageError, match="nothing to distill"):
        distill(RESNET, frozen.model, images)
    with pytest.raises(UsageError, match="1 or more"):
        distill(RESNET, RESNET, images, steps=0)


def test_norms_with_a_scale_of_their_own() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4, 5] x) => (float[N, 4, 5] y) {
            a = InstanceNormalization(x, s, b) y = LayerNormalization<axis = 2>(a, t)
        }"""
    )
    for name, size in (("s", 4), ("b", 4), ("t", 5)):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(size, np.float32), name))
    assert list(norm_parameters(Graph(io.from_proto(model)))) == ["s", "b", "t"]


@pytest.mark.parametrize(
    ("count", "samples"), [(3, 64), (8, 64), (64, 64), (4000, 256), (300, 256)]
)
def test_samples_are_spread_and_apart(count: int, samples: int) -> None:
    first, second = spread(count, samples)
    assert len(first) <= samples
    assert len(second) <= samples
    assert first.max() >= 0.9 * (count - 1) or second.max() == count - 1
    if count < 8:
        assert list(first) == list(second) == list(range(count))
    else:
        assert not set(first.tolist()) & set(second.tolist())
        assert len(second) == min(samples, count // 4)


def test_settings_and_data_that_make_no_sense(rough, images) -> None:
    for settings in ({"lr": 0.0}, {"lr": float("nan")}, {"lr": float("inf")}, {"seed": -1}):
        with pytest.raises(UsageError, match="above 0, and its seed is 0 or more"):
            distill(RESNET, rough.model, images, **settings)
    bad = {"image": np.full_like(images["image"][:8], np.nan)}
    with pytest.raises(UsageError, match="not finite"):
        distill(RESNET, rough.model, bad, steps=1)


def test_it_learns_where_the_caller_has_gradients_off(rough, images) -> None:
    few = {"image": images["image"][:16]}
    usual = distill(RESNET, rough.model, few, steps=2)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            result = distill(RESNET, rough.model, few, steps=2)
        assert result.model.SerializeToString() == usual.model.SerializeToString()

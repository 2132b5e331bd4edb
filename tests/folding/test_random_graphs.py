"""Random graphs: whatever folds computes the same, and nothing crashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import run
from hypothesis import HealthCheck, given, settings
from random_graphs import models

import normsurgery
from normsurgery.validation.double import to_double

QUIET = tuple(HealthCheck)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    to_double(copy)
    return copy


def difference(before: list[Any], after: list[Any]) -> float:
    """Return the largest difference relative to the largest number of each output."""
    worst = 0.0
    for x, y in zip(before, after, strict=True):
        assert x.shape == y.shape
        size = max(1.0, float(np.abs(x).max(initial=0)))
        worst = max(worst, float(np.abs(x - y).max(initial=0)) / size)
    return worst


def check(model: onnx.ModelProto, inputs: dict[str, Any], tolerance: float) -> int:
    """Fold ``model`` and check everything about it; return how many maps folded."""
    if not model.graph.output:
        return 0
    onnx.checker.check_model(model)
    bytes_before = model.SerializeToString(deterministic=True)
    result = normsurgery.fold(model)
    assert model.SerializeToString(deterministic=True) == bytes_before
    after = result.model
    onnx.checker.check_model(after, full_check=True)
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]
    double = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in inputs.items()}
    expected = run(widened(model), double)
    assert difference(expected, run(widened(after), double)) <= tolerance
    assert all(c.max_ulp <= 0.5 for c in result.certificates())
    again = normsurgery.fold(after)
    if again.report.folded:
        assert difference(expected, run(widened(again.model), double)) <= tolerance
    return len(result.report.folded)


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(models())
def test_random_graphs(drawn: tuple[onnx.ModelProto, dict[str, Any]]) -> None:
    check(*drawn, 1e-9)


@pytest.mark.nightly
@settings(max_examples=5000, deadline=None, suppress_health_check=QUIET)
@given(models())
def test_many_random_graphs(drawn: tuple[onnx.ModelProto, dict[str, Any]]) -> None:
    check(*drawn, 1e-9)


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(models((np.float32, np.float16), norms=False))
def test_random_graphs_in_narrow_types(drawn: tuple[onnx.ModelProto, dict[str, Any]]) -> None:
    kinds = {o.type.tensor_type.elem_type for o in drawn[0].graph.output}
    check(*drawn, 0.3 if onnx.TensorProto.FLOAT16 in kinds else 1e-4)

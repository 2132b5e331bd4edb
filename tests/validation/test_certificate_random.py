"""Random graphs: every fold is certified, whatever its names; one moved coefficient is not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from onnx import numpy_helper
from random_graphs import models
from validation.rewrites import renamed, reordered, with_identities

import normsurgery
from normsurgery.validation.certificate import certify
from normsurgery.validation.comparison import Status


def move(model: onnx.ModelProto, name: str) -> bool:
    """Move one element of a tensor by two units in the last place; whether it has any."""
    tensor = next((t for t in model.graph.initializer if t.name == name), None)
    if tensor is None:
        return False
    array = numpy_helper.to_array(tensor).copy()
    index = array.size // 2
    for _ in range(2):
        array.flat[index] = np.nextafter(array.flat[index], array.dtype.type(np.inf))
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=tuple(HealthCheck))
@given(models())
def test_a_fold_and_a_moved_coefficient(drawn: tuple[onnx.ModelProto, dict[str, Any]]) -> None:
    model, _ = drawn
    if not model.graph.output:
        return
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "folded.onnx")
        onnx.save(model, source)
        normsurgery.fold(source).save(target)
        found = certify(source, target)
        assert found.status is Status.PASSED, found.line()
        assert found.how == "fold"
        assert all(one.max_ulp <= 0.5 for one in found.tensors)
        folded = onnx.load(target)
        other = with_identities(reordered(renamed(folded)))
        del other.metadata_props[:]
        onnx.save(other, Path(folder, "other.onnx"))
        assert certify(source, Path(folder, "other.onnx")).status is Status.PASSED
        if found.tensors and move(folded, found.tensors[0].tensor):
            onnx.save(folded, Path(folder, "moved.onnx"))
            assert certify(source, Path(folder, "moved.onnx")).status is Status.FAILED

"""Small models out of ONNX text, and the two assertions that fold tests are made of.

Models are in double precision and run in float64, so that a fold that is algebraically right
agrees with its source to about 1e-13, far below any mistake.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

import normsurgery
from normsurgery.validation.budget import Budget
from normsurgery.validation.evaluator import evaluator

DTYPE = {"double": np.float64, "float": np.float32, "float16": np.float16, "int64": np.int64}


def parse(text: str, *, opset: int = 21, ir: int = 10, **tensors: Any) -> ModelProto:
    """Return a model; ``text`` is a graph as onnx.parser reads it, ``tensors`` its initializers."""
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "custom" : 1]>\n'
    model = onnx.parser.parse_model(header + text)
    for name, values in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def bn(
    channels: int, seed: int = 1, *, shift: bool = True, sign: bool = True, dtype: Any = np.float64
) -> dict[str, Any]:
    """Return the four parameters of a BatchNormalization, signs and sizes mixed.

    shift: without, the map is a scale alone. sign: without, no channel's scale is negative.
    """
    rng = np.random.default_rng(seed)
    values = {
        "scale": rng.normal(1, 0.8, channels),
        "B": rng.normal(0, 1, channels),
        "mean": rng.normal(0, 2, channels),
        "var": rng.uniform(0.05, 4, channels),
    }
    if not shift:
        values["B"], values["mean"] = np.zeros(channels), np.zeros(channels)
    if not sign:
        values["scale"] = np.abs(values["scale"])
    return {name: v.astype(dtype) for name, v in values.items()}


def weights(*shape: int, seed: int = 7, dtype: Any = np.float64) -> Any:
    """Return normal weights."""
    return np.random.default_rng(seed).normal(0, 1, shape).astype(dtype)


def feeds(model: ModelProto, seed: int = 3, **sizes: int) -> dict[str, Any]:
    """Return random inputs; a dimension without a value is 2, unless ``sizes`` names it."""
    rng = np.random.default_rng(seed)
    known = {t.name for t in model.graph.initializer}
    result = {}
    for value in model.graph.input:
        if value.name not in known:
            dims = value.type.tensor_type.shape.dim
            shape = [d.dim_value or sizes.get(d.dim_param, 2) for d in dims]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            numbers = rng.normal(0, 2, shape)
            result[value.name] = (numbers > 0) if dtype is np.dtype(bool) else numbers.astype(dtype)
    return result


def run(model: ModelProto, inputs: dict[str, Any]) -> list[Any]:
    """Return the outputs in float64, whatever the operator set."""
    results: list[Any] = evaluator(model, Budget()).run(None, inputs)
    return results


def assert_same(
    before: ModelProto, after: ModelProto, tolerance: float = 1e-12, **sizes: int
) -> None:
    """Assert that two double models compute the same on random inputs."""
    for seed in range(3):
        inputs = feeds(before, seed, **sizes)
        for x, y in zip(run(before, inputs), run(after, inputs), strict=True):
            assert x.shape == y.shape
            scale = max(1.0, float(np.abs(x).max(initial=0)))
            assert float(np.abs(x - y).max(initial=0)) <= tolerance * scale


def ops(model: ModelProto) -> list[str]:
    """Return the operators of the main graph, in order."""
    return [node.op_type for node in model.graph.node]


def assert_folds(
    model: ModelProto, expected: list[str], *, options: dict[str, Any] | None = None, **sizes: int
) -> normsurgery.FoldResult:
    """Assert that ``model`` folds to the operators ``expected``, valid and with equal outputs."""
    before = model.SerializeToString(deterministic=True)
    result = normsurgery.fold(model, **(options or {}))
    assert model.SerializeToString(deterministic=True) == before, "the caller's model changed"
    after = result.model
    assert ops(after) == expected, [k.reason for k in result.report.kept]
    onnx.checker.check_model(after)
    assert_same(model, after, **sizes)
    for certificate in result.certificates():
        assert certificate.max_ulp <= 0.5
    return result


def assert_kept(model: ModelProto, *slugs: str, **options: Any) -> normsurgery.FoldResult:
    """Assert that nothing of ``model`` folds, why, and that it comes back as it was."""
    result = normsurgery.fold(model, **options)
    assert [k.slug for k in result.report.kept] == list(slugs), result.report.kept
    assert not result.report.folded
    after = result.model
    del after.metadata_props[:]
    assert after == model
    return result

"""Models of one node, run by the module, by onnxruntime and by the float64 oracle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from normsurgery import runtime
from normsurgery.pytorch import GraphModule, to_module
from normsurgery.pytorch.interpreter.elements import from_numpy
from normsurgery.validation.budget import Budget
from normsurgery.validation.evaluator import evaluator

Arrays = list[Any]


def node_model(
    op_type: str,
    arrays: Arrays,
    *,
    opset: int = 17,
    outputs: int = 1,
    constants: tuple[int, ...] = (),
    dtype: Any = np.float32,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node; None is an input left out, ``constants`` are initializers."""
    names = ["" if a is None else f"i{n}" for n, a in enumerate(arrays)]
    results = [f"o{n}" for n in range(outputs)]
    node = helper.make_node(op_type, names, results, name="node", domain=domain, **attributes)
    typed = [None if a is None else as_type(a, dtype) for a in arrays]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for slot, (n, a) in enumerate(zip(names, typed, strict=True))
        if a is not None and slot not in constants
    ]
    tensors = [numpy_helper.from_array(typed[slot], names[slot]) for slot in constants]
    outs = [onnx.ValueInfoProto(name=n) for n in results]
    graph = helper.make_graph([node], "g", infos, outs, tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def as_type(array: Any, dtype: Any) -> np.ndarray:
    """Return floats in ``dtype`` and other numbers as they are."""
    array = np.asarray(array)
    return array.astype(dtype) if array.dtype.kind == "f" else array


def feeds_of(model: onnx.ModelProto, arrays: Arrays, dtype: Any = np.float32) -> dict[str, Any]:
    wanted = {info.name for info in model.graph.input}
    given = {f"i{n}": as_type(a, dtype) for n, a in enumerate(arrays) if a is not None}
    return {name: array for name, array in given.items() if name in wanted}


def by_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        return list(runtime.run(runtime.session(path, threads=1), feeds).values())


def by_module(module: GraphModule, feeds: dict[str, Any]) -> list[Any]:
    with torch.no_grad():
        made = module.run({name: from_numpy(array) for name, array in feeds.items()})
    return [
        [one.numpy() for one in value] if isinstance(value, list) else value.numpy()
        for value in made.values()
    ]


def by_oracle(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Run a model of doubles with the float64 operators of ``validation``."""
    return list(evaluator(model, Budget()).run(None, feeds))


def assert_close(found: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Same shape and type; floats agree to ``tolerance`` of the largest, others exactly."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    if expected.dtype.kind != "f":
        assert np.array_equal(found, expected), what
        return
    finite = np.isfinite(expected)
    assert np.array_equal(finite, np.isfinite(found)), what
    assert np.array_equal(expected[~finite], found[~finite], equal_nan=True), what
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0)))
    assert np.abs(found[finite] - expected[finite]).max(initial=0) <= tolerance * scale, what


def check(
    op_type: str,
    arrays: Arrays,
    *,
    settings: tuple[int, ...] = (),
    onnxruntime: bool = True,
    oracle: bool = True,
    tolerance: float = 1e-5,
    **attributes: Any,
) -> None:
    """Assert that the module of one node computes what the others compute.

    settings: input slots that are initializers in one run and inputs in another. With onnxruntime
    in float32; with the float64 oracle in double precision to 1e-12.
    """
    for constants in {(), settings}:
        if onnxruntime:
            model = node_model(op_type, arrays, constants=constants, **attributes)
            feeds = feeds_of(model, arrays)
            expected = by_onnxruntime(model, feeds)
            found = by_module(to_module(model, check=False), feeds)
            for one, other in zip(found, expected, strict=True):
                assert_close(one, other, tolerance, f"{op_type} {attributes}")
        if oracle:
            wide = node_model(op_type, arrays, constants=constants, dtype=np.float64, **attributes)
            feeds = feeds_of(wide, arrays, np.float64)
            found = by_module(to_module(wide, check=False), feeds)
            for one, other in zip(found, by_oracle(wide, feeds), strict=True):
                assert_close(one, other, 1e-12, f"{op_type} {attributes} in float64")


def randoms(seed: int, *shapes: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def elem_type(array: np.ndarray) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype)) or TensorProto.FLOAT

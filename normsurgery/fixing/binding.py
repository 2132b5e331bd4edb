"""Inputs of a graph made constants: values that fit them, and nothing computed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from normsurgery import dtypes, models
from normsurgery.errors import ModelIOError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from normsurgery import io


def bound(model: str | os.PathLike[str] | ModelProto | Any, fixed: Mapping[str, Any]) -> io.Model:
    """Return a copy of the model in which inputs are constants and nothing else is changed.

    It is what a model folded with ``fixed`` is compared with. Errors are those of ``fold``.
    """
    content, _ = models.take(model)
    bind(content, fixed)
    return content


def read(name: str, path: str | os.PathLike[str]) -> Any:
    """Read the value for input ``name``: a ``.npy`` file, or an ``.npz`` file with that entry.

    Raises ``UsageError`` for a file without such an array, ``ModelIOError`` if it cannot be read.
    """
    import zipfile

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            if name in loaded.files:
                return loaded[name]
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelIOError(f"cannot read {os.fspath(path)!r}: {reason}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{os.fspath(path)!r} is no .npy or .npz file of numbers") from error
    raise UsageError(f"{os.fspath(path)!r} has no array {name!r}")


def bind(content: io.Model, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Make constants of inputs, in place, and compute nothing; return their values by name.

    Raises ``UsageError`` for a name that is no input, and for a value of another type or shape, or
    with NaN.
    """
    graph = content.proto.graph
    inputs = {value.name: value for value in graph.input}
    values = {}
    for name, array in fixed.items():
        if name not in inputs:
            known = ", ".join(repr(n) for n in inputs) or "none"
            raise UsageError(f"the model has no input {name!r} to fix; its inputs: {known}")
        values[name] = _fitting(name, array, inputs[name].type)
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in values:
            del graph.initializer[i]
    for i in reversed(range(len(graph.input))):
        if graph.input[i].name in values and content.proto.ir_version >= 4:
            del graph.input[i]
    for name, array in values.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
    return values


def _fitting(name: str, value: Any, type_: Any) -> Any:
    """Return ``value`` as an array of the input's own type and shape."""
    array = np.asarray(value)
    elem_type = type_.tensor_type.elem_type
    dtype = dtypes.numpy_dtype(elem_type)
    if dtype is None:
        raise UsageError(f"input {name!r} is no tensor of numbers and cannot be fixed")
    if array.dtype != dtype:
        if elem_type in dtypes.FLOATS and array.dtype.kind in "fiu":
            made = dtypes.round_to(array.astype(np.float64), elem_type)
        else:
            made = array.astype(dtype) if array.dtype.kind in "iub" else array
            if array.dtype.kind not in "iub" or not np.array_equal(made, array):
                wanted = dtypes.name_of(elem_type)
                raise UsageError(f"input {name!r} is {wanted}, the value to fix is {array.dtype}")
        if elem_type in dtypes.FLOATS and np.any(np.isinf(made.astype(float)) & np.isfinite(array)):
            raise UsageError(f"the value to fix {name!r} to overflows {dtypes.name_of(elem_type)}")
        array = made
    if elem_type in dtypes.FLOATS and np.isnan(array.astype(np.float64)).any():
        raise UsageError(f"the value to fix {name!r} to holds NaN; nothing could be compared")
    if type_.tensor_type.HasField("shape"):
        dims = type_.tensor_type.shape.dim
        pairs = zip(dims, array.shape, strict=False)
        wrong = any(d.HasField("dim_value") and d.dim_value != size for d, size in pairs)
        if len(dims) != array.ndim or wrong:
            told = ", ".join(str(d.dim_value or d.dim_param or "?") for d in dims)
            raise UsageError(f"input {name!r} is [{told}], the value to fix is {list(array.shape)}")
    return array

"""onnxruntime, behind two functions: :func:`session` and :func:`run`.

This is the only module that imports onnxruntime, and it does so when a session is asked for:
folding a model needs no runtime at all. Graph optimizations are off unless asked for, since they
fold BatchNormalization too and would hide what is being compared.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from normsurgery.errors import (
    InvalidModelError,
    MissingDataError,
    MissingPackageError,
    NormSurgeryError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# Element types that NumPy itself lacks, by their onnx.TensorProto number.
_EXTENSION_TYPES = {
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    18: np.dtype(ml_dtypes.float8_e4m3fnuz),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e5m2fnuz),
}
_NUMBER_OF = {dtype: number for number, dtype in _EXTENSION_TYPES.items()}

_INSTALL = {
    CPU: 'pip install "normsurgery[cpu]"',
    CUDA: 'pip uninstall -y onnxruntime; pip install "normsurgery[gpu]"',
}


# TensorFloat-32 keeps 10 bits of a product's factors and is on by default.
_EXACT = {CUDA: {"use_tf32": "0"}}


def available() -> bool:
    """Whether onnxruntime is installed. It is looked for, not imported."""
    return importlib.util.find_spec("onnxruntime") is not None


def version() -> str:
    """The version of onnxruntime, such as ``1.32.0``.

    Raises:
        MissingPackageError: onnxruntime is not there, or does not load.

    """
    return str(_onnxruntime().__version__)


def session(
    path: str | os.PathLike[str],
    *,
    providers: Sequence[str] = (CPU,),
    optimize: bool = False,
    threads: int | None = None,
    in_order: bool = False,
) -> Any:
    """An ``onnxruntime.InferenceSession`` of the model at `path`, external data included.

    Args:
        path: the model file. Its external data are looked for beside it.
        providers: execution providers, first choice first. Each must be there: onnxruntime's
            own answer to a missing one is a silent fall back to the CPU.
        optimize: let onnxruntime rewrite the graph (``ORT_ENABLE_ALL``) instead of running it
            as it stands (``ORT_DISABLE_ALL``).
        threads: threads inside one operator; every core that this process may use by default.
        in_order: run nodes as they stand in the file. By default onnxruntime may leave side
            branches to the end, and hold whatever they read until then.

    Raises:
        MissingPackageError: onnxruntime or a provider is absent.
        MissingDataError: there is no such file.
        InvalidModelError: onnxruntime does not take the model.

    """
    ort = _onnxruntime()
    absent = [name for name in providers if name not in ort.get_available_providers()]
    if absent:
        raise _missing(absent[0], "this onnxruntime was built without it")
    if not Path(path).is_file():
        raise MissingDataError(f"{path}: no such model file")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal: everything below arrives as an exception anyway
    options.intra_op_num_threads = _cores() if threads is None else threads
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if in_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    try:
        made = ort.InferenceSession(
            os.fspath(path), options, providers=[(name, _EXACT.get(name, {})) for name in providers]
        )
    except _failures(ort) as failure:
        raise InvalidModelError(f"{path}: onnxruntime refuses it: {_first_line(failure)}") from None
    lost = [name for name in providers if name not in made.get_providers()]
    if lost:
        raise _missing(lost[0], "it is there but did not start")
    return made


def run(session: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Every output of the model, by name: arrays, or lists and dicts where it has such outputs.

    bfloat16 and float8 arrays (of ``ml_dtypes``) go in and come out as such.

    Raises:
        UsageError: an input is absent, unknown, or of a wrong type or shape.
        InvalidModelError: the model fails while it runs.

    """
    ort = _onnxruntime()
    names = [output.name for output in session.get_outputs()]
    arrays = {name: np.asarray(array) for name, array in feeds.items()}
    types = " ".join(output.type for output in session.get_outputs())
    extended = "float8" in types or "bfloat16" in types
    try:
        if not extended and not any(array.dtype in _NUMBER_OF for array in arrays.values()):
            return dict(zip(names, session.run(names, arrays), strict=True))
        values = {name: _to_ort(ort, array) for name, array in arrays.items()}
        outputs = session.run_with_ort_values(names, values)
        return {name: _from_ort(value) for name, value in zip(names, outputs, strict=True)}
    except _failures(ort) as failure:
        kind: type[NormSurgeryError] = InvalidModelError
        # Kernels, too, call their own inputs an invalid argument; then it is the model's fault.
        of_the_caller = type(failure).__name__ in {"InvalidArgument", "ValueError", "TypeError"}
        if of_the_caller and "while running" not in str(failure):
            kind = UsageError
        raise kind(f"onnxruntime could not run the model: {_first_line(failure)}") from None


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as failure:
        raise _missing(CPU, f"onnxruntime does not import ({_first_line(failure)})") from None


def _missing(provider: str, why: str) -> MissingPackageError:
    command = _INSTALL.get(provider, "use an onnxruntime build that has it")
    return MissingPackageError(f"{provider} cannot be used: {why}; mend it with: {command}")


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """Every exception that onnxruntime raises; its own ones share no base class."""
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)


def _first_line(failure: BaseException) -> str:
    return next(iter(str(failure).strip().splitlines()), type(failure).__name__)


def _cores() -> int:
    """Cores that this process may run on, which inside a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _to_ort(ort: Any, array: np.ndarray) -> Any:
    number = _NUMBER_OF.get(array.dtype)
    if number is None:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    bits = np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.dtype.itemsize}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def _from_ort(value: Any) -> Any:
    number = value.element_type() if value.is_tensor() else 0
    if number not in _EXTENSION_TYPES:
        return value.numpy()
    import ctypes

    # onnxruntime has no NumPy type for these and hands out the address alone.
    dtype = _EXTENSION_TYPES[number]
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, dtype).reshape(value.shape())

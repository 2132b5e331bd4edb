"""onnxruntime, behind two functions: :func:`session` and :func:`run`.

This is the only module that imports onnxruntime, and it does so when a session is asked for:
folding a model needs no runtime at all. Graph optimizations are off unless asked for, since they
fold BatchNormalization too and would hide what is being compared.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from normsurgery.errors import (
    InvalidModelError,
    MissingDataError,
    NormSurgeryError,
    UsageError,
)
from normsurgery.providers import CPU, CUDA, missing, options, short_name, wheels, why_absent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Element types that NumPy itself lacks, by their onnx.TensorProto number.
_EXTENSION_TYPES = {
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    18: np.dtype(ml_dtypes.float8_e4m3fnuz),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e5m2fnuz),
}
_NUMBER_OF = {dtype: number for number, dtype in _EXTENSION_TYPES.items()}

_RECORD = "session.record_ep_graph_assignment_info"


def available() -> bool:
    """Whether onnxruntime is installed. It is looked for, not imported."""
    return importlib.util.find_spec("onnxruntime") is not None


def version() -> str:
    """The version of onnxruntime, such as ``1.32.0``.

    Raises:
        MissingPackageError: onnxruntime is not there, or does not load.

    """
    return str(_onnxruntime().__version__)


def built_with() -> tuple[str, ...]:
    """The execution providers that this onnxruntime has. Raises ``MissingPackageError``."""
    return tuple(_onnxruntime().get_available_providers())


def provider_library(provider: str) -> Path | None:
    """The shared library of a provider that is one, if onnxruntime has it."""
    name = f"libonnxruntime_providers_{short_name(provider).lower()}.so"
    path = Path(_onnxruntime().__file__).parent / "capi" / name
    if provider == CUDA and path.is_file():
        _preload(_onnxruntime())
    return path if path.is_file() else None


def require(providers: Sequence[str]) -> None:
    """Raise ``MissingPackageError`` unless this onnxruntime was built with all of `providers`.

    For CUDA with two wheels over each other too, even if it would start: whose kernels are they?
    """
    there = built_with()
    for name in providers:
        if name not in there or (name == CUDA and len(wheels()) > 1):
            raise missing(name, why_absent(version()))


def session(
    path: str | os.PathLike[str],
    *,
    providers: Sequence[str] = (CPU,),
    optimize: bool = False,
    threads: int | None = None,
    in_order: bool = False,
    tf32: bool = False,
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
        tf32: let CUDA round the factors of products to 10 bits, as it does by default.

    Raises:
        MissingPackageError: onnxruntime or a provider is absent, or does not start.
        MissingDataError: there is no such file.
        InvalidModelError: onnxruntime does not take the model.

    """
    ort = _onnxruntime()
    require(providers)
    if not Path(path).is_file():
        raise MissingDataError(f"{path}: no such model file")
    config = ort.SessionOptions()
    config.log_severity_level = 4  # fatal: everything below arrives as an exception anyway
    config.intra_op_num_threads = _cores() if threads is None else threads
    levels = ort.GraphOptimizationLevel
    config.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if in_order:
        config.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    config.add_session_config_entry(_RECORD, "1")
    chosen = [(name, options(name, tf32=tf32)) for name in providers]
    try:
        if CUDA in providers:
            _preload(ort)
        # Its own answer to a provider that fails is to start again on the CPU.
        made = ort.InferenceSession(os.fspath(path), config, providers=chosen, enable_fallback=0)
    except _failures(ort) as failure:
        why = _first_line(failure).replace(f"Load model from {path} failed:", "")
        raise InvalidModelError(f"{path}: onnxruntime refuses it: {why}") from None
    lost = [name for name in providers if name not in made.get_providers()]
    if lost:
        raise missing(lost[0], "it is installed but did not start; normsurgery doctor says more")
    return made


def assigned(session: Any) -> list[tuple[str, str, str]] | None:
    """Which provider runs each node: (provider, operator, name), the name empty for nameless ones.

    None if this onnxruntime does not record it; it does from 1.24 on.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


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
            outputs = session.run(names, arrays)
            kinds = [output.type for output in session.get_outputs()]
            return {
                name: _singles(value) if "map(" in kind and "tensor(float)" in kind else value
                for name, value, kind in zip(names, outputs, kinds, strict=True)
            }
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


def _singles(value: Any) -> Any:
    """The numbers of maps as the float32 that they are, not as Python's doubles."""
    if isinstance(value, list):
        return [_singles(inner) for inner in value]
    return {key: np.float32(number) for key, number in value.items()}


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as failure:
        raise missing(CPU, f"onnxruntime does not import ({_first_line(failure)})") from None


def _preload(ort: Any) -> None:
    """Load CUDA and cuDNN from pip's nvidia packages, where the linker would not look."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(*_failures(ort)):
            ort.preload_dlls()


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
    raw = ctypes.string_at(value.data_ptr(), math.prod(value.shape()) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(value.shape())

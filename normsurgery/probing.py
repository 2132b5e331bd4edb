"""What ``doctor`` tries out, each in a child process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import parser

from normsurgery import runtime
from normsurgery.isolation import Step
from normsurgery.providers import CUDA, short_name

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[Step], None]

# A convolution of ones with ones: 9 everywhere.
_MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,2,4,4] x, float[2,1,3,3] w) => (float[1,2,2,2] y) {
    c = Conv<group = 2>(x, w)
    y = Relu(c)
}"""


@dataclass(frozen=True)
class Nvidia:
    """What of NVIDIA is there.

    Attributes:
        driver: its version, ``unknown`` where it does not say; empty if there is none.
        devices: how many GPUs this process sees as files.
        lacks: the shared library that onnxruntime's CUDA provider does not find, if it lacks one.

    """

    driver: str = ""
    devices: int = 0
    lacks: str = ""


def built_with(progress: Progress | None = None) -> tuple[str, ...]:
    """The providers of this onnxruntime. Raises ``MissingPackageError``."""
    _tell(progress, "importing onnxruntime")
    return runtime.built_with()


def starts(provider: str, progress: Progress | None = None) -> str:
    """Run a small model on `provider`; say what is wrong, or nothing."""
    _tell(progress, f"starting a session on {short_name(provider)}")
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder, "probe.onnx")
        onnx.save(parser.parse_model(_MODEL), str(path))
        session = runtime.session(path, providers=(provider,), threads=1)
        feeds = {"x": np.ones((1, 2, 4, 4), np.float32), "w": np.ones((2, 1, 3, 3), np.float32)}
        (found,) = runtime.run(session, feeds).values()
        record = runtime.assigned(session) or []
        elsewhere = [op_type for where, op_type, _ in record if where != provider]
    if elsewhere:
        return f"{elsewhere[0]} did not run on {short_name(provider)}"
    if found.shape != (1, 2, 2, 2) or not np.all(found == 9):
        return f"a session on {short_name(provider)} gives wrong numbers"
    return ""


def torch(progress: Progress | None = None) -> bool:
    """Whether torch sees a CUDA device. Raises whatever its import raises."""
    _tell(progress, "importing torch")
    return bool(importlib.import_module("torch").cuda.is_available())


def nvidia(progress: Progress | None = None) -> Nvidia:
    """Driver, devices, and the first library that onnxruntime's CUDA provider misses."""
    _tell(progress, "looking for CUDA")
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    driver = ""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        driver = "unknown"
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        driver = next((word for word in text.split() if word[:1].isdigit() and "." in word), driver)
    return Nvidia(driver, devices, _lacks())


def _lacks() -> str:
    """The library that the dynamic linker does not find for the CUDA provider, by its own words."""
    with contextlib.suppress(Exception):
        library = runtime.provider_library(CUDA)
        if library is not None:
            ctypes.CDLL(
                str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL
            )
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                name, found, _ = str(error).partition(": cannot open shared object file")
                return name if found else ""
    return ""


def _tell(progress: Progress | None, text: str) -> None:
    if progress is not None:
        progress(Step(text))

"""Float64 implementations of operators, for :class:`onnx.reference.ReferenceEvaluator`.

They are here because ``onnx.reference`` is slow at them, or computes them in float32, or gets
them wrong; each module says which. A new one is one file with a class named after the operator:
:func:`implementations` finds it. What several share is a class whose name begins with ``_``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from collections.abc import Iterator


@functools.cache
def implementations() -> tuple[type[OpRun], ...]:
    """Every operator class of this package's modules, in the order of the modules' names."""
    return tuple(_classes())


def _classes() -> Iterator[type[OpRun]]:
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        yield from (
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, OpRun)
            and value.__module__ == module.__name__
            and not value.__name__.startswith("_")
        )

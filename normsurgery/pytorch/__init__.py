"""The PyTorch side: the only part of normsurgery that imports torch, and only when it is used.

Names are imported when they are first used (PEP 562); without torch that raises
``MissingPackageError`` with the command that mends it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from normsurgery.errors import MissingPackageError

if TYPE_CHECKING:
    from normsurgery.pytorch.distilling import DistillReport, DistillResult, distill
    from normsurgery.pytorch.distributed import Processes, processes
    from normsurgery.pytorch.exporting import ExportReport, ExportResult, export
    from normsurgery.pytorch.factory import build, dynamic, examples
    from normsurgery.pytorch.finetuning import FinetuneReport, FinetuneResult, Moment, finetune
    from normsurgery.pytorch.interpreter import (
        GraphModule,
        UpdateReport,
        UpdateResult,
        to_module,
        update_weights,
    )
    from normsurgery.pytorch.modules import ModuleResult, convert, fold
    from normsurgery.pytorch.weights import load_weights

_WHERE = {
    "DistillReport": "normsurgery.pytorch.distilling",
    "DistillResult": "normsurgery.pytorch.distilling",
    "ExportReport": "normsurgery.pytorch.exporting",
    "ExportResult": "normsurgery.pytorch.exporting",
    "GraphModule": "normsurgery.pytorch.interpreter",
    "UpdateReport": "normsurgery.pytorch.interpreter",
    "UpdateResult": "normsurgery.pytorch.interpreter",
    "Processes": "normsurgery.pytorch.distributed",
    "processes": "normsurgery.pytorch.distributed",
    "FinetuneReport": "normsurgery.pytorch.finetuning",
    "FinetuneResult": "normsurgery.pytorch.finetuning",
    "Moment": "normsurgery.pytorch.finetuning",
    "ModuleResult": "normsurgery.pytorch.modules",
    "build": "normsurgery.pytorch.factory",
    "convert": "normsurgery.pytorch.modules",
    "distill": "normsurgery.pytorch.distilling",
    "dynamic": "normsurgery.pytorch.factory",
    "examples": "normsurgery.pytorch.factory",
    "export": "normsurgery.pytorch.exporting",
    "finetune": "normsurgery.pytorch.finetuning",
    "fold": "normsurgery.pytorch.modules",
    "load_weights": "normsurgery.pytorch.weights",
    "to_module": "normsurgery.pytorch.interpreter",
    "update_weights": "normsurgery.pytorch.interpreter",
}
__all__ = [
    "DistillReport",
    "DistillResult",
    "ExportReport",
    "ExportResult",
    "FinetuneReport",
    "FinetuneResult",
    "GraphModule",
    "ModuleResult",
    "Moment",
    "Processes",
    "UpdateReport",
    "UpdateResult",
    "build",
    "convert",
    "distill",
    "dynamic",
    "examples",
    "export",
    "finetune",
    "fold",
    "load_weights",
    "processes",
    "to_module",
    "update_weights",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("torch") is None:
        raise MissingPackageError(
            f"normsurgery.pytorch.{name} needs PyTorch, which is not installed; "
            'mend it with: pip install "normsurgery[torch]"'
        )
    return getattr(import_module(_WHERE[name]), name)

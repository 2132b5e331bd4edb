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
    from normsurgery.pytorch.exporting import (
        ExportReport,
        ExportResult,
        build,
        dynamic,
        examples,
        export,
        load_weights,
    )
    from normsurgery.pytorch.finetuning import FinetuneReport, FinetuneResult, Moment, finetune
    from normsurgery.pytorch.interpreter import (
        GraphModule,
        UpdateReport,
        UpdateResult,
        to_module,
        update_weights,
    )
    from normsurgery.pytorch.surgery import ModuleResult, convert, fold

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
    "ModuleResult": "normsurgery.pytorch.surgery",
    "build": "normsurgery.pytorch.exporting",
    "convert": "normsurgery.pytorch.surgery",
    "distill": "normsurgery.pytorch.distilling",
    "dynamic": "normsurgery.pytorch.exporting",
    "examples": "normsurgery.pytorch.exporting",
    "export": "normsurgery.pytorch.exporting",
    "finetune": "normsurgery.pytorch.finetuning",
    "fold": "normsurgery.pytorch.surgery",
    "load_weights": "normsurgery.pytorch.exporting",
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

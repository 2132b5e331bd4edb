"""A PyTorch module as ONNX with its norms kept, and proved.

``api`` puts the parts together: ``tracing`` calls torch's exporters, ``cleaning`` takes their noise
out of the graph, ``checking`` holds it against the module. ``factory`` and ``weights`` make a
module out of a name and a file.
"""

from __future__ import annotations

from normsurgery.pytorch.exporting.api import export
from normsurgery.pytorch.exporting.factory import build, dynamic, examples
from normsurgery.pytorch.exporting.result import ExportReport, ExportResult
from normsurgery.pytorch.exporting.weights import load_weights

__all__ = [
    "ExportReport",
    "ExportResult",
    "build",
    "dynamic",
    "examples",
    "export",
    "load_weights",
]

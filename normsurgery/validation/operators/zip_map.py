"""ZipMap, with which classifiers of scikit-learn end; ``onnx.reference`` has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    import numpy as np


class ZipMap(OpRun):
    """https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html."""

    op_domain = "ai.onnx.ml"

    def _run(
        self,
        x: np.ndarray,
        classlabels_int64s: list[int] | None = None,
        classlabels_strings: list[str] | None = None,
    ) -> tuple[list[dict[Any, Any]]]:
        keys = classlabels_int64s or classlabels_strings or []
        rows = x.reshape(1, -1) if x.ndim == 1 else x
        return ([dict(zip(keys, row, strict=True)) for row in rows],)

"""Models written as text, and the sample models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

SAMPLES = Path(__file__).parents[3] / "sample_models"


def parse(text: str, opset: int = 17, ir: int = 8, **tensors) -> onnx.ModelProto:
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "local" : 1, "custom" : 1]>'
    model = onnx.parser.parse_model(f"{header} {text}")
    for name, values in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model

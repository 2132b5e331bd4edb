"""What is exported, and what is read out of the result."""

from __future__ import annotations

import numpy as np
import torch
from onnx import numpy_helper
from torch import nn

from normsurgery.pytorch import ExportResult

EXPORTERS = ("dynamo", "legacy")


def stored(result: ExportResult) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}


def operators(result: ExportResult) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(5, 6), nn.BatchNorm2d(3)

    def forward(self, image: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        row = self.table(index)
        return {"sum": self.norm(image) + row[:, None, None, :], "row": row}

"""Networks of known architectures with random weights, and images for them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch import architectures, nets
from torch import nn

SAMPLES = Path(__file__).parents[3] / "sample_models"
sys.path.insert(0, str(SAMPLES))  # networks.py imports blocks.py from beside it
try:
    networks = importlib.import_module("networks")
finally:
    sys.path.remove(str(SAMPLES))
SAMPLE_NETS = ("ResNet", "MobileNet", "DenseNet", "RepVGG", "UNet", "Conv1d", "Mlp")
NETS: dict[str, Any] = {name: getattr(networks, name) for name in SAMPLE_NETS}
NETS |= {
    "ResNet-18": architectures.ResNet18,
    "MobileNetV2": architectures.MobileNetV2,
    "torchvision DenseNet": architectures.DenseNet,
}


def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    return nets.stir(NETS[name]())


def images(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if name == "Mlp":
        return torch.randn(3, 64, generator=generator)
    size = (3, 32, 32) if name in {*NETS} - {*SAMPLE_NETS} else (1, 8, 8)
    return torch.randn(3, *size, generator=generator)


def kinds(module: nn.Module, *types: type) -> int:
    return sum(isinstance(m, types) for m in module.modules())

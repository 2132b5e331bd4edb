"""Models to measure on: hand-made ONNX files with seeded random weights, no torch needed.

``resnet50`` and ``resnet152`` have the nodes and attributes that PyTorch's exporter writes with
BatchNormalization kept (opset 17, every weight in ``raw_data``; He et al., "Deep residual
learning", 2015, table 1; stride on the 3×3 Conv, as in torchvision). ``wide`` is a plain chain of
3×3 Conv and BatchNormalization of any size.

Run as a script to write one: ``python benchmarks/models.py resnet50 FOLDER``.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from builder import Builder
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(tempfile.gettempdir()) / "normsurgery-benchmarks"
DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}


def resnet(name: str, path: Path) -> None:
    """Write a bottleneck ResNet of 1000 classes for N×3×224×224 images."""
    b = Builder(seed=50)
    x = b.node("Relu", "relu", [b.conv_bn("input", "stem", (64, 3, 7), 2)])
    x = b.node("MaxPool", "maxpool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    into = 64
    for stage, depth in enumerate(DEPTHS[name]):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            x = _bottleneck(b, x, f"layer{stage + 1}.{block}", (into, 64 << stage), stride)
            into = 256 << stage
    x = b.node("Flatten", "flatten", [b.node("GlobalAveragePool", "avgpool", [x])], axis=1)
    dense = b.random.standard_normal((1000, into), dtype=np.float32) / np.float32(into**0.5)
    names = [b.weight("fc.weight", dense), b.weight("fc.bias", np.zeros(1000, np.float32))]
    b.node("Gemm", "fc", [x, *names], transB=1)
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])
    scores = helper.make_tensor_value_info("fc_out", TensorProto.FLOAT, ["N", 1000])
    path.write_bytes(b.model(name, image, scores).SerializeToString())


def _bottleneck(b: Builder, x: str, name: str, widths: tuple[int, int], stride: int) -> str:
    into, width = widths
    y = b.node("Relu", f"{name}.relu1", [b.conv_bn(x, f"{name}.1", (width, into, 1))])
    y = b.node("Relu", f"{name}.relu2", [b.conv_bn(y, f"{name}.2", (width, width, 3), stride)])
    y = b.conv_bn(y, f"{name}.3", (4 * width, width, 1))
    if into != 4 * width:
        x = b.conv_bn(x, f"{name}.downsample", (4 * width, into, 1), stride)
    return b.node("Relu", f"{name}.relu3", [b.node("Add", f"{name}.add", [y, x])])


def wide(path: Path, megabytes: int, layers: int = 12, *, external: bool = False) -> None:
    """Write a chain of ``layers`` 3×3 Conv+BN+Relu whose weights take about ``megabytes`` MB."""
    channels = round(math.sqrt(megabytes * 1e6 / (36 * layers)))
    b = Builder(seed=megabytes, data_file=path.with_suffix(".data") if external else None)
    x = "input"
    for i in range(layers):
        x = b.node("Relu", f"relu{i}", [b.conv_bn(x, f"layer{i}", (channels, channels, 3))])
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", channels, "H", "W"])
        for n in ("input", x)
    ]
    path.write_bytes(b.model("wide", values[0], values[1]).SerializeToString())


def cached(folder: Path, name: str, build: Callable[[Path], None]) -> Path:
    """Return ``folder/name``, building it if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.exists():
        unfinished = path.with_suffix(".tmp.onnx")
        build(unfinished)
        unfinished.rename(path)
        os.sync()
    return path


def network(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of ``resnet50`` or ``resnet152``."""
    return cached(folder, f"{name}.onnx", lambda path: resnet(name, path))


if __name__ == "__main__":
    print(network(sys.argv[1], Path(sys.argv[2])))

"""The CIFAR-10 ResNet-20 that the fine-tuning benchmarks start from: images, network, ONNX file.

``--data FOLDER`` of the scripts holds two archives, which are not part of this project:

- ``cifar10_subset.npz``: ``train_images`` (4000, 32, 32, 3) uint8 RGB, ``train_labels`` (4000,)
  int64 0…9, ``test_images`` and ``test_labels`` (2,000 of them); Krizhevsky, "Learning multiple
  layers of features from tiny images", 2009.
- ``resnet20_cifar10.npz``: the trained parameters by their PyTorch names, of
  https://github.com/akamaster/pytorch_resnet_cifar10 (BSD 2-Clause).

Run as a script it prints the network's accuracy on the test images, in torch and in onnxruntime:
``python benchmarks/cifar.py --data FOLDER``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((16, 1), (32, 2), (64, 2))  # channels, stride of the first block
Images = dict[str, np.ndarray]


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters: subsampled, zeros for new channels.

    He et al., "Deep residual learning for image recognition", 2015, section 4.2, option A.
    """

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.missing = (outer - inner) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inner, H, W) → (N, outer, H/stride, W/stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing, self.missing))
        return torch.relu(y + x)


class ResNet20(nn.Module):
    """(N, 3, 32, 32) standardised images → (N, 10) scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inner = 16
        for i, (outer, stride) in enumerate(STAGES, 1):
            blocks = [Block(inner, outer, stride), Block(outer, outer, 1), Block(outer, outer, 1)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            inner = outer
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, before any softmax."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return self.linear(x.mean((2, 3)))


def network(folder: Path) -> ResNet20:
    """Return the trained network, in eval mode."""
    module = ResNet20()
    with np.load(folder / "resnet20_cifar10.npz") as archive:
        weights = {name: torch.from_numpy(archive[name].copy()) for name in archive.files}
    module.load_state_dict(weights, strict=False)
    missing = {n for n in module.state_dict() if not n.endswith("num_batches_tracked")} - set(
        weights
    )
    assert not missing, f"not in resnet20_cifar10.npz: {sorted(missing)}"
    return module.eval()


def images(folder: Path) -> Images:
    """Return the four arrays; images as the network takes them, float32 (N, 3, 32, 32)."""
    with np.load(folder / "cifar10_subset.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    for part in ("train_images", "test_images"):
        scaled = (arrays[part] / 255 - np.array(MEAN)) / np.array(STD)
        arrays[part] = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)
    return arrays


def export(module: nn.Module, path: Path) -> Path:
    """Write ``module`` with its norms kept: input ``image``, output ``scores``, any batch."""
    from normsurgery import pytorch

    names = {"input_names": ["image"], "output_names": ["scores"]}
    made = pytorch.export(module, torch.zeros(2, 3, 32, 32), dynamic="batch", **names)
    made.save(path, force=True)
    return path


def accuracy(scores: Callable[[np.ndarray], np.ndarray], arrays: Images) -> float:
    """Percentage of the test images whose highest score is the right class."""
    tests, labels = arrays["test_images"], arrays["test_labels"]
    right = [
        scores(tests[i : i + 250]).argmax(1) == labels[i : i + 250]
        for i in range(0, len(tests), 250)
    ]
    return float(np.concatenate(right).mean() * 100)


def in_onnxruntime(model: Path, *, optimize: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to the scores of an ONNX file.

    optimize: let onnxruntime rewrite the graph, as it does by default.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def in_torch(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to the scores of a module."""

    def scores(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return scores


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    folder = parser.parse_args().data
    module, arrays = network(folder), images(folder)
    print(f"torch       {accuracy(in_torch(module), arrays):.2f} %")
    with tempfile.TemporaryDirectory() as temporary:
        path = export(module, Path(temporary) / "resnet20.onnx")
        print(f"onnxruntime {accuracy(in_onnxruntime(path), arrays):.2f} %")


if __name__ == "__main__":
    main()

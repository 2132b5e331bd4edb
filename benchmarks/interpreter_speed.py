"""One training step through ``to_module`` against the hand-written torch module it came from.

Each network is written in plain torch, exported with its norms kept, and imported again. Both
take the same step (forward, cross-entropy, backward, SGD with momentum) in turn; the ratio is
formed within each pair, so that a busy machine slows both.

    python benchmarks/interpreter_speed.py [--rounds 40] [--batch 2 16]
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  its usual name

from normsurgery.pytorch import export, to_module

if TYPE_CHECKING:
    from collections.abc import Callable


class Basic(nn.Module):
    """A block of He et al., "Deep residual learning", 2015, section 4.2, with shortcut A."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.extra = (width - before) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(y + x)


def resnet20() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    layers += [Basic(a, b, b // a) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Inverted(nn.Module):
    """A block of Sandler et al., "MobileNetV2", 2018."""

    def __init__(self, before: int, width: int, stride: int, expand: int = 6) -> None:
        super().__init__()
        inner = before * expand
        self.body = nn.Sequential(
            *(nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            *(nn.BatchNorm2d(inner), nn.ReLU6()),
            *(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)),
        )
        self.same = stride == 1 and before == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return x + self.body(x) if self.same else self.body(x)


def mobilenet() -> nn.Module:
    rows = [(16, 24, 1), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    layers += [Inverted(*row) for row in rows]
    head = [nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6()]
    return nn.Sequential(*layers, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


NETWORKS = {"resnet20": resnet20, "mobilenet": mobilenet}


def stepper(module: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    """Return a function that takes one step and gives the seconds that it took."""
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9)
    module.train()

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(module(x), labels).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def measure(name: str, batch: int, rounds: int, exporter: str) -> None:
    torch.manual_seed(0)
    written = NETWORKS[name]().eval()
    x, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export(written, x, dynamic="batch", exporter=exporter).save(path)
        imported = to_module(path)
    steps = [stepper(copy.deepcopy(m), x, labels) for m in (written, imported, written)]
    for step in steps * 3:
        step()
    times = np.array([[step() for step in steps] for _ in range(rounds)])
    ratio, control = (np.median(times[:, i] / times[:, 0]) for i in (1, 2))
    one, other, _ = 1e3 * np.median(times, axis=0)
    print(
        f"| {name} | {batch} | {one:.2f} | {other:.2f} | {ratio:.3f} | {control:.3f} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--exporter", choices=["dynamo", "legacy"], default="dynamo")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | batch | torch, ms | to_module, ms | ratio | torch against itself |")
    print("| --- " * 6 + "|")
    for name in NETWORKS:
        for batch in options.batch:
            measure(name, batch, options.rounds, options.exporter)


if __name__ == "__main__":
    main()

"""Makes the sample models: `python sample_models/make.py [names…]` (all of them by default).

Each network is trained on digits.npz from its own seed, exported, checked under onnxruntime
and written beside this file, with one line about it on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import exporting
import networks
import numpy as np
import onnx
import torch
from torch import nn
from training import SEED, accuracy, digits, scores, train

HERE = Path(__file__).parent
Exporter = Callable[[nn.Module, torch.Tensor], onnx.ModelProto]


@dataclass(frozen=True)
class Sample:
    """One network, what writes it, and how many BatchNormalization nodes each file must hold."""

    network: type[nn.Module]
    exports: dict[str, tuple[Exporter, int]]
    epochs: int = 30
    inputs: str = "images"
    targets: str = "labels"


SAMPLES = {
    "resnet": Sample(
        networks.ResNet,
        {
            "digits_resnet": (exporting.legacy, 11),
            "digits_resnet_folded": (exporting.folded, 0),
        },
    ),
    "mobilenet": Sample(networks.MobileNet, {"digits_mobilenet": (exporting.dynamo, 17)}),
    "densenet": Sample(networks.DenseNet, {"digits_densenet": (exporting.legacy, 21)}),
    "repvgg": Sample(networks.RepVGG, {"digits_repvgg": (exporting.legacy, 18)}),
    "unet": Sample(networks.UNet, {"digits_unet": (exporting.dynamo, 12)}, 40, "noisy", "masks"),
    "conv1d": Sample(networks.Conv1d, {"digits_conv1d": (exporting.dynamo, 4)}),
    "mlp": Sample(networks.Mlp, {"digits_mlp": (exporting.legacy, 3)}),
}


def make(sample: Sample, arrays: dict[str, np.ndarray]) -> None:
    """Train one network, then export, check and write each of its files."""
    torch.manual_seed(SEED)
    network = sample.network()
    train(
        network, arrays[f"train_{sample.inputs}"], arrays[f"train_{sample.targets}"], sample.epochs
    )
    x = arrays[f"test_{sample.inputs}"]
    expected = scores(network, x)
    reached = accuracy(expected, arrays, sample.targets)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for name, (export, norms) in sample.exports.items():
        model = export(network, torch.from_numpy(x[:2]))
        assert exporting.batch_norms(model) == norms, f"{name}: {exporting.batch_norms(model)} BN"
        assert accuracy(exporting.check(model, x, expected), arrays, sample.targets) == reached
        path = HERE / f"{name}.onnx"
        onnx.save(model, path)
        size = path.stat().st_size // 1024
        print(f"{path.name}: {norms} BN, {parameters:,} parameters, {size} KiB, {reached:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(SAMPLES)}")
    names = parser.parse_args().names or list(SAMPLES)
    if unknown := set(names) - set(SAMPLES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    arrays = digits()
    np.savez_compressed(HERE / "digits.npz", **arrays)
    for name in names:
        make(SAMPLES[name], arrays)


if __name__ == "__main__":
    main()

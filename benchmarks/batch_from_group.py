"""What ``convert --to batch`` keeps of networks that were trained with group or instance norm.

The digits ResNet of ``sample_models`` is trained with each norm in the place of BatchNormalization
(8 epochs, seeded, some ten seconds each), exported, converted with statistics of the training
images, and folded. ``python benchmarks/batch_from_group.py``
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import nn

import normsurgery
from normsurgery import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = Path(__file__).parents[1] / "sample_models"
sys.path.insert(0, str(SAMPLES))  # where its scripts import from
import exporting  # noqa: E402
import networks  # noqa: E402
import training  # noqa: E402

EPOCHS = 8
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "one group": lambda c: nn.GroupNorm(1, c),
    "8 channels per group": lambda c: nn.GroupNorm(c // 8, c),
    "instance norm": lambda c: nn.InstanceNorm2d(c, affine=True),
}


def swap(module: nn.Module, make: Callable[[int], nn.Module]) -> None:
    """Put another norm in the place of every BatchNorm2d."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child.num_features))
        else:
            swap(child, make)


def classes(path: Path, images: np.ndarray) -> np.ndarray:
    outputs = runtime.run(runtime.session(path, threads=1), {"image": images})
    return next(iter(outputs.values())).argmax(1)


def main() -> None:
    torch.set_num_threads(1)
    with np.load(SAMPLES / "digits.npz") as archive:
        digits = dict(archive)
    images, labels = digits["test_images"], digits["test_labels"]
    print(
        "| trained with | exporter | accuracy | as BN | agreement | variance explained | folded |"
    )
    print("| --- " * 7 + "|")
    for name, make in NORMS.items():
        torch.manual_seed(0)
        network = networks.ResNet()
        swap(network, make)
        training.train(network, digits["train_images"], digits["train_labels"], EPOCHS)
        for exporter in (exporting.legacy, exporting.dynamo):
            model = exporter(network, torch.zeros(2, 1, 8, 8))
            result = normsurgery.convert(model, "batch", data={"image": digits["train_images"]})
            folded = normsurgery.fold(result.model).report
            with tempfile.TemporaryDirectory() as folder:
                source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
                onnx.save(model, source)
                result.save(target)
                before, after = classes(source, images), classes(target, images)
            explained = [one.note.split()[1] for one in result.report.converted]
            least = min(explained, key=lambda text: float(text.removesuffix("%")))
            print(
                f"| {name} | {exporter.__name__} | {np.mean(before == labels):.1%} | "
                f"{np.mean(after == labels):.1%} | {np.mean(before == after):.1%} | "
                f"{least} or more | {folded.before - folded.after} of {folded.before} |"
            )


if __name__ == "__main__":
    main()

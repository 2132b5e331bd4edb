"""What label-free distillation of scale and bias gains, on a CIFAR-10 ResNet-20 (see ``cifar.py``).

Converted on no data, distilled on training images, measured on the 2,000 test images.

``python benchmarks/distill_accuracy.py --data FOLDER [--samples 64 256]``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cifar

import normsurgery
from normsurgery import data, io
from normsurgery.conversion import drift
from normsurgery.pytorch import distill

CONVERSIONS: dict[str, dict[str, Any]] = {
    "one group": {},
    "16 channels per group": {"channels_per_group": 16},
    "one group, no map in front": {"affine": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 256])
    options = parser.parse_args()
    arrays = cifar.images(options.data)
    training = {"image": arrays["train_images"]}
    print("| conversion | images | error | agreement | accuracy |\n" + "| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        path = cifar.export(cifar.network(options.data), Path(folder, "resnet20.onnx"))
        original = io.load(path)
        wanted = data.inputs_of(original.proto)
        rows = data.take({"image": arrays["test_images"]}, wanted).rows
        test = data.Data(tuple(wanted), rows, data.Pixels(), arrays["test_labels"])
        for name, how in CONVERSIONS.items():
            made = normsurgery.convert(path, **how)
            show(name, 0, drift.measure(original, made.content, {}, test))
            for samples in options.samples:
                taught = distill(path, made.content, training, samples=samples)
                show(name, samples, drift.measure(original, taught.content, {}, test))


def show(name: str, samples: int, found: drift.Drift) -> None:
    assert found.accuracy is not None
    after = f"{100 * found.accuracy[1]:.1f}"
    agreement = f"{100 * (found.agreement or 0):.1f}"
    print(f"| {name} | {samples or '–'} | {found.error:.3f} | {agreement} | {after} |", flush=True)


if __name__ == "__main__":
    main()

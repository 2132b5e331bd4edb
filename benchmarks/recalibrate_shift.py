"""What ``recalibrate`` gains where test images differ from those that a network was trained on.

A ResNet-20 on shifted CIFAR-10 test images: with its own statistics, and with those of shifted
training images (no labels), by each mode. "one pass" is what not to do: all statistics measured at
once in the network as it was, so that each layer gets those of inputs that it will never see.
``python benchmarks/recalibrate_shift.py --data FOLDER`` (see ``cifar.py``).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cifar
import numpy as np
import onnx
from onnx import numpy_helper

import normsurgery
from normsurgery import statistics

if TYPE_CHECKING:
    from collections.abc import Callable

Pixels = np.ndarray  # (N, 3, H, W), 0 … 1
MEAN = np.array(cifar.MEAN).reshape(3, 1, 1)
STD = np.array(cifar.STD).reshape(3, 1, 1)


def blur(x: Pixels) -> Pixels:
    """Average over 3 × 3 pixels."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return sum(padded[:, :, i : i + 32, j : j + 32] for i in range(3) for j in range(3)) / 9


SHIFTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "none": lambda x, _: x,
    "contrast × 0.4": lambda x, _: 0.5 + 0.4 * (x - 0.5),
    "brightness + 0.3": lambda x, _: np.clip(x + 0.3, 0, 1),
    "noise 0.08": lambda x, rng: np.clip(x + rng.normal(0, 0.08, x.shape), 0, 1),
    "blur 3 × 3": lambda x, _: blur(x),
    "gamma 2.2": lambda x, _: np.clip(x, 0, 1) ** 2.2,
}


def shifted(images: np.ndarray, name: str, seed: int) -> np.ndarray:
    """Return standardised images whose pixels were shifted."""
    pixels = SHIFTS[name](images * STD + MEAN, np.random.default_rng(seed))
    return ((pixels - MEAN) / STD).astype(np.float32)


def one_pass(source: Path, target: Path, images: np.ndarray) -> None:
    """Write the model with the statistics of all norms' inputs in the model as it is."""
    model = onnx.load(source)
    norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    batches = ({"image": images[i : i + 64]} for i in range(0, len(images), 64))
    found = statistics.moments(source, [n.input[0] for n in norms], batches)
    stored = {t.name: t for t in model.graph.initializer}
    for node in norms:
        for slot, values in ((3, found[node.input[0]].mean), (4, found[node.input[0]].var)):
            new = numpy_helper.from_array(values.astype(np.float32), f"{node.output[0]}_{slot}")
            model.graph.initializer.remove(stored[node.input[slot]])
            model.graph.initializer.append(new)
            node.input[slot] = new.name
    onnx.save(model, target)


def ways(source: Path, target: Path, images: np.ndarray) -> dict[str, Callable[[], None]]:
    """Return by name how the model is given new statistics."""

    def by(mode: str, batch_size: int) -> Callable[[], None]:
        def save() -> None:
            result = normsurgery.recalibrate(
                source, {"image": images}, mode=mode, batch_size=batch_size
            )
            result.save(target, force=True)

        return save

    return {
        "one pass": lambda: one_pass(source, target, images),
        "batch, of 8": by("batch", 8),
        "batch, of 64": by("batch", 64),
        "batch, of 256": by("batch", 256),
        "sequential": by("sequential", 64),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    parser.add_argument("--images", type=int, nargs="*", default=[1000], help="for calibration")
    arguments = parser.parse_args()
    arrays = cifar.images(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        source = cifar.export(cifar.network(arguments.data), Path(temporary) / "resnet20.onnx")
        target = Path(temporary) / "recalibrated.onnx"
        names = list(ways(source, target, arrays["train_images"]))
        print(" | ".join(["shift", "images", "before", *names, "seconds of each"]))
        for name in SHIFTS:
            tests = {**arrays, "test_images": shifted(arrays["test_images"], name, 1)}
            before = cifar.accuracy(cifar.in_onnxruntime(source), tests)
            for count in arguments.images:
                images = shifted(arrays["train_images"][:count], name, 2)
                row, seconds = [f"{before:.1f}"], []
                for way in ways(source, target, images).values():
                    began = time.perf_counter()
                    way()
                    seconds.append(f"{time.perf_counter() - began:.1f}")
                    row.append(f"{cifar.accuracy(cifar.in_onnxruntime(target), tests):.1f}")
                print(" | ".join([name, str(count), *row, " ".join(seconds)]), flush=True)


if __name__ == "__main__":
    main()

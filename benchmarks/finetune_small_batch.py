"""Fine-tuning at small batches: BatchNorm live, frozen, and GroupNorm converted, copied, fresh.

All through this package's own pipeline: a CIFAR-10 ResNet-20 is exported with its norms kept,
converted, fine-tuned by ``normsurgery.pytorch.finetune`` for one pass over 4,000 images, and the
file that comes out is run in onnxruntime on 2,000 test images. One recipe for all: SGD with
momentum 0.9, cosine to 0, gradients clipped at a norm of 1; each method at the best of three
learning rates, found with seed 0, then three seeds at that rate.

    python benchmarks/finetune_small_batch.py --data FOLDER           # the table
    python benchmarks/finetune_small_batch.py --data FOLDER --shift   # other camera
    python benchmarks/finetune_small_batch.py --data FOLDER --curves docs/finetune-batch-size.svg
    python benchmarks/finetune_small_batch.py --data FOLDER --each KEPT  # of convert_accuracy.py

``cifar.py`` says what is in FOLDER. Every run is kept in ``--results``, so that a script that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cifar
import numpy as np
import torch
from plot import Line, line_plot
from torch import nn

import normsurgery
from normsurgery import data, io
from normsurgery.pytorch import finetune

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)
BATCHES = (1, 2, 4, 8, 16, 32)
METHODS = {  # name: (model to start from, norms)
    "BN live": ("bn", "train"),
    "BN frozen": ("bn", "frozen"),
    "GN converted, one group": ("gn1", "train"),
    "GN converted, 16 channels a group": ("gn16", "train"),
    "GN, scale and bias copied": ("copied", "train"),
    "GN, re-initialised": ("fresh", "train"),
}
CONVERSIONS = {"gn1": {}, "gn16": {"channels_per_group": 16}}
GAIN, OFFSET = np.float32(0.4), np.float32(0.8)  # of the shifted images: dim and bright
CURVES = ("BN live", "GN converted, one group")
SHIFTED = ("BN live", "BN frozen", "GN converted, one group")


@dataclass
class Bench:
    """The data, the starting models, and the results so far."""

    folder: Path
    models: Path
    results: Path
    shifted: bool = False

    def accuracy(self, method: str, lr: float, seed: int, batch: int) -> float:
        """Return the test accuracy in percent after one pass; run it if it was not yet."""
        known = json.loads(self.results.read_text()) if self.results.exists() else {}
        key = f"{method} | {lr:g} | seed {seed} | batch {batch}"
        key += " | shifted" if self.shifted else ""
        if key not in known:
            started = time.perf_counter()
            known[key] = self._run(method, lr, seed, batch)
            self.results.write_text(json.dumps(known, indent=1))
            print(f"{key}: {known[key]:.2f} %  ({time.perf_counter() - started:.0f} s)", flush=True)
        return known[key]

    def start(self, method: str) -> float:
        """Return the test accuracy in percent of the model that a method starts from."""
        return self._judge(self._model(METHODS[method][0]))

    def best(self, method: str, batch: int, rates: Iterable[float] = RATES) -> float:
        """Return the learning rate that does best with the first seed."""
        return max(rates, key=lambda lr: self.accuracy(method, lr, SEEDS[0], batch))

    def _run(self, method: str, lr: float, seed: int, batch: int) -> float:
        name, norms = METHODS.get(method, (method, "train"))
        model = self._model(name)
        samples = data.read(
            f"{self.folder / 'cifar10_subset.npz'}:train",
            data.inputs_of(io.load(model).proto),
            pixels=self._pixels(),
        )
        try:
            result = finetune(
                model, samples, lr=lr, seed=seed, batch_size=batch, norms=norms, clip=1.0
            )
        except normsurgery.errors.DivergedError as error:
            print(error)
            return 10.0
        tuned = self.models / "tuned.onnx"
        result.save(tuned, force=True)
        return self._judge(tuned)

    def _judge(self, model: Path) -> float:
        arrays = cifar.images(self.folder)
        if self.shifted:
            arrays["test_images"] = GAIN * arrays["test_images"] + OFFSET
        return cifar.accuracy(cifar.in_onnxruntime(model), arrays)

    def _pixels(self) -> data.Pixels:
        """Return mean and std that give ``(p − MEAN)/STD``, or GAIN times that plus OFFSET."""
        if not self.shifted:
            return data.Pixels(cifar.MEAN, cifar.STD)
        std = tuple(s / GAIN for s in cifar.STD)
        mean = tuple(m - OFFSET * s for m, s in zip(cifar.MEAN, std, strict=True))
        return data.Pixels(mean, std)

    def _model(self, name: str) -> Path:
        path = self.models / f"{name}.onnx"
        if path.exists():
            return path
        if name in CONVERSIONS:
            normsurgery.convert(self._model("bn"), to="group", **CONVERSIONS[name]).save(path)
            return path
        module = cifar.network(self.folder)
        if name != "bn":
            regroup(module, copied=name == "copied")
        cifar.export(module, path)
        return path


def regroup(module: nn.Module, *, copied: bool) -> None:
    """Replace each BatchNorm by a fresh GroupNorm of 16 channels a group, or with its constants."""
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.GroupNorm(child.num_features // 16, child.num_features)
            if copied:
                norm.load_state_dict({"weight": child.weight, "bias": child.bias})
            above, _, key = name.rpartition(".")
            setattr(module.get_submodule(above), key, norm)


def table(bench: Bench) -> None:
    """Print each method at batch 2: best of three learning rates, mean and range of three seeds.

    On shifted images the rate is the one that was best for all three methods without the shift.
    """
    methods, rates = (SHIFTED, (1e-2,)) if bench.shifted else (tuple(METHODS), RATES)
    best = {method: bench.best(method, 2, rates) for method in methods}
    lines = ["| method | start | rate | after one pass at batch 2 |", "| --- | --- | --- | --- |"]
    for method, lr in best.items():
        found = [bench.accuracy(method, lr, seed, 2) for seed in SEEDS]
        spread = f"{statistics.mean(found):.2f} ({min(found):.2f} … {max(found):.2f})"
        lines.append(f"| {method} | {bench.start(method):.2f} | {lr:g} | {spread} |")
    print("\n".join(lines))


def each(bench: Bench, target: Path) -> None:
    """Write the accuracy after one pass at batch 2 of every ``resnet20.STRATEGY.onnx`` in models.

    At the better of two learning rates, one seed; equal files are trained once.
    """
    found: dict[str, float] = {}
    seen: dict[bytes, float] = {}
    for path in sorted(bench.models.glob("resnet20.*.onnx")):
        content = path.read_bytes()
        if content not in seen:
            seen[content] = max(bench.accuracy(path.stem, lr, SEEDS[0], 2) for lr in RATES[1:])
        found[path.stem.removeprefix("resnet20.")] = seen[content]
    target.write_text(json.dumps(found, indent=1))


def curves(bench: Bench, target: Path, seeds: Sequence[int]) -> None:
    """Write the plot of error over batch size, each point at the better of two learning rates.

    They are the lower two of three for one and two images a batch, where steps are many, and the
    higher two for more.
    """
    found: dict[str, list[list[float]]] = {method: [] for method in CURVES}
    for batch in BATCHES:
        for method in CURVES:
            lr = bench.best(method, batch, RATES[:2] if batch < 4 else RATES[1:])
            found[method].append([100 - bench.accuracy(method, lr, seed, batch) for seed in seeds])
    lines = []
    for method, errors in found.items():
        means = [statistics.mean(e) for e in errors]
        spreads = [(max(e) - min(e)) / 2 for e in errors]
        lines.append(Line(method, means, spreads))
        print(method, *(f"{m:.2f}±{s:.2f}" for m, s in zip(means, spreads, strict=True)))
    title = "ResNet-20 on CIFAR-10: error after one pass over 4,000 images"
    text = line_plot(title, BATCHES, lines, "images per batch", "test error, %")
    target.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    parser.add_argument("--curves", type=Path, help="write the plot over batch sizes there")
    parser.add_argument("--each", type=Path, help="train every converted file of this folder")
    parser.add_argument("--shift", action="store_true", help="the table, on dim and bright images")
    parser.add_argument("--seeds", type=int, default=3, help="of each point of the plot")
    folder = Path(tempfile.gettempdir()) / "normsurgery-benchmarks" / "finetune"
    parser.add_argument("--results", type=Path, default=folder / "results.json")
    arguments = parser.parse_args()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(arguments.data, arguments.each or folder, arguments.results, arguments.shift)
    if arguments.each:
        each(bench, arguments.each / "after.json")
    elif arguments.curves:
        curves(bench, arguments.curves, range(arguments.seeds))
    else:
        table(bench)


if __name__ == "__main__":
    main()

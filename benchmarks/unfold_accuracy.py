"""What ``unfold`` does to a ResNet-20 whose exporter folded its BatchNormalizations.

For growing numbers of calibration images: whether the outputs kept their bits on all test images,
the verdict of parity, how far the new norms' statistics are from those of all training images, and
the accuracy; then the accuracy after ``convert``, untrained, at one group and at 16 channels per
group. The last row is the network whose BatchNormalizations were never folded.
``python benchmarks/unfold_accuracy.py --data FOLDER`` (see ``cifar.py``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cifar
import numpy as np
import onnx
import torch

import normsurgery
from normsurgery.data import Data, Pixels, inputs_of
from normsurgery.pytorch import finetune
from normsurgery.validation import parity

COUNTS = (1, 8, 64, 512)
GAUGES = ("balance", "whiten", "fold")
GROUPS: dict[str, dict[str, int]] = {"one group": {}, "16 per group": {"channels_per_group": 16}}


def export_folded(module: torch.nn.Module, path: Path) -> Path:
    """Write ``module`` as torch does by default: BatchNormalization folded into convolutions."""
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, 32, 32),),
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    program.save(str(path))
    return path


def distance(few: normsurgery.UnfoldResult, all_: normsurgery.UnfoldResult) -> float:
    """Return the median over all channels of the relative error of the deviation."""
    errors = []
    for result in (few, all_):
        norms = [n for n in result.model.graph.node if n.op_type == "BatchNormalization"]
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
        errors.append(np.concatenate([stored[n.input[1]] for n in norms]))
    return float(np.median(np.abs(errors[0] / errors[1] - 1)))


def converted(source: Path, arrays: cifar.Images) -> str:
    """Return the accuracies after conversion, for each grouping and gauge."""
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "converted.onnx"
        for options in GROUPS.values():
            for gauge in GAUGES:
                result = normsurgery.convert(source, "group", gauge=gauge, **options)
                result.save(target, force=True)
                shown.append(f"{cifar.accuracy(cifar.in_onnxruntime(target), arrays):.1f}")
    return " | ".join(shown)


def finetuned(source: Path, arrays: cifar.Images) -> float:
    """Return the accuracy after conversion to one group and one pass over 4,000 images in pairs."""
    model = normsurgery.convert(source, "group").model
    given = Data(
        inputs_of(model),
        {"image": arrays["train_images"]},
        Pixels(),
        labels=arrays["train_labels"],
    )
    result = finetune(model, given, batch_size=2, lr=3e-3, clip=1.0, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "tuned.onnx")
        return cifar.accuracy(cifar.in_onnxruntime(Path(folder) / "tuned.onnx"), arrays)


def finetune_all(folder: Path, arrays: cifar.Images) -> None:
    """Print the accuracy after fine-tuning, from each start."""
    train = {"image": arrays["train_images"]}
    with tempfile.TemporaryDirectory() as temporary:
        whole = cifar.export(cifar.network(folder), Path(temporary) / "whole.onnx")
        print(f"never folded: {finetuned(whole, arrays):.2f} %", flush=True)
        source = export_folded(cifar.network(folder), Path(temporary) / "folded.onnx")
        for keep in (False, True):
            target = Path(temporary) / f"unfolded_{keep}.onnx"
            normsurgery.unfold(source, train, samples=8, keep_weights=keep).save(target)
            how = "weights as they were" if keep else "weights of drawn norm"
            print(f"unfolded, {how}: {finetuned(target, arrays):.2f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    parser.add_argument("--finetune", action="store_true", help="train what was converted, instead")
    options = parser.parse_args()
    folder = options.data
    arrays = cifar.images(folder)
    if options.finetune:
        finetune_all(folder, arrays)
        return
    tests = arrays["test_images"]
    train = {"image": arrays["train_images"]}
    with tempfile.TemporaryDirectory() as temporary:
        source = export_folded(cifar.network(folder), Path(temporary) / "folded.onnx")
        before = cifar.in_onnxruntime(source, optimize=False)
        wanted = before(tests)
        print(f"folded: {cifar.accuracy(before, arrays):.2f} %")
        everything = normsurgery.unfold(source, train, samples=None)
        names = [f"{gauge}, {name}" for name in GROUPS for gauge in GAUGES]
        columns = ("norms", "outputs equal", "parity ratio", "deviation off by", "accuracy", *names)
        print(" | ".join(("images", *columns)))
        for count in COUNTS:
            target = Path(temporary) / f"unfolded_{count}.onnx"
            result = normsurgery.unfold(source, train, samples=count)
            result.save(target)
            after = cifar.in_onnxruntime(target, optimize=False)
            found = parity(source, target)
            worst = found.worst()
            ratio = float("nan") if worst is None or worst.ratio is None else worst.ratio
            print(
                f"{count} | {len(result.report.unfolded)} | "
                f"{np.array_equal(wanted, after(tests))} | {ratio:.3f} "
                f"({'ok' if found.ok else 'FAILED'}) | {distance(result, everything):.1%} | "
                f"{cifar.accuracy(after, arrays):.2f} % | {converted(target, arrays)}",
                flush=True,
            )
        whole = cifar.export(cifar.network(folder), Path(temporary) / "whole.onnx")
        kept = cifar.accuracy(cifar.in_onnxruntime(whole, optimize=False), arrays)
        print(f"never folded | 19 | | | | {kept:.2f} % | {converted(whole, arrays)}")


if __name__ == "__main__":
    main()

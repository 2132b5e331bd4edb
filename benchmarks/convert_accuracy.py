"""What is left of a trained network when its BatchNormalizations become other norms, untrained.

Strategies, each over groups and numbers of calibration images: this project's ``convert``; BN's
scale and bias copied onto group normalization; group normalization re-initialised as Opacus's
``ModuleValidator.fix`` does (gcd(32, C) groups, scale 1, bias 0); frozen BN. On the sample models,
and with ``--data FOLDER`` (see ``cifar.py``) on a CIFAR-10 ResNet-20.

``python benchmarks/convert_accuracy.py [--data FOLDER] [--keep FOLDER] [--after RESULTS.json]``;
``strategies`` and ``Strategy.make`` are for other scripts, too.

``--keep`` leaves the converted files, ``resnet20.STRATEGY.onnx``, for a fine-tuning benchmark;
``--after`` reads its accuracies, ``{"STRATEGY": percent}``, into the last column.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import normsurgery
from normsurgery import edits, io, models, norms
from normsurgery.constants import Limits
from normsurgery.conversion import sites
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SAMPLES = Path(__file__).parents[1] / "sample_models"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Strategy:
    """A way to convert: key names its file and its row in ``--after``."""

    key: str
    name: str
    groups: str
    images: int
    make: Callable[[Path, Arrays], io.Model]


def ours(images: int = 0, to: str = "group", **options: Any) -> Callable[[Path, Arrays], io.Model]:
    """Return a strategy by ``convert``, with so many calibration images."""

    def make(source: Path, calibration: Arrays) -> io.Model:
        data = {name: array[:images] for name, array in calibration.items()}
        return normsurgery.convert(source, to, data=data if images else None, **options).content

    return make


def bare(groups: Callable[[int], int], *, copy: bool) -> Callable[[Path, Arrays], io.Model]:
    """Return a strategy that puts group normalization in with BN's scale and bias, or 1 and 0."""

    def make(source: Path, _: Arrays) -> io.Model:
        content, _form = models.take(source)
        graph = Graph(content)
        for site in list(sites.find(graph, Limits())):
            assert isinstance(site, sites.Site)
            scope, output, channels = site.scope, site.output, site.channels
            sites.as_one_node(site)
            site.node.output[0] = graph.unique_name(f"{output}/old")
            scope.producer[site.node.output[0]] = scope.producer.pop(output)
            edits.skip(scope, site.node)
            scale = site.bn.scale if copy else np.ones(channels)
            B = site.bn.B if copy else np.zeros(channels)
            norm = norms.Norm(groups(channels), scale, B, 1e-5)
            writer = norms.Writer(scope, site.name, output, site.elem_type, site.dims)
            last = norms.load()["group"].write(writer, site.value, norm, "auto")
            writer.close(last, site.node)
        for scope in graph.scopes:
            edits.finish(scope)
        return content

    return make


def per_group(size: int) -> Callable[[int], int]:
    return lambda channels: max(1, channels // size) if channels % size == 0 else 1


def strategies(counts: tuple[int, ...]) -> Iterator[Strategy]:
    """Yield the rows of the table."""
    yield Strategy("frozen", "frozen BN (`--to affine`)", "", 0, ours(to="affine"))
    gcd = bare(lambda channels: math.gcd(32, channels), copy=False)
    yield Strategy("reinit", "re-initialised", "gcd(32, C)", 0, gcd)
    for key, how, asked in (
        ("32", lambda channels: math.gcd(32, channels), "gcd(32, C)"),
        ("16each", per_group(16), "16 each"),
        ("1", lambda _: 1, "1"),
    ):
        yield Strategy(f"copy-{key}", "scale and bias copied", asked, 0, bare(how, copy=True))
    for key, asked, options in (
        ("1", "1", {}),
        ("16each", "16 each", {"channels_per_group": 16}),
        ("8each", "8 each", {"channels_per_group": 8}),
        ("instance", "C", {"to": "instance"}),
    ):
        for gauge in ("none", "whiten", "fold", "balance"):
            if key in {"8each", "instance"} and gauge != "balance":
                continue
            made = ours(gauge=gauge, **options)
            yield Strategy(f"{gauge}-{key}", f"`convert --gauge {gauge}`", asked, 0, made)
        for epsilon in (1.0, 2.0, 10.0) if key in {"1", "16each"} else ():
            made = ours(gauge="balance", epsilon=epsilon, **options)
            yield Strategy(
                f"epsilon{epsilon:g}-{key}", f"`convert --epsilon {epsilon:g}`", asked, 0, made
            )
        for count in counts if key in {"1", "16each"} else ():
            made = ours(count, **options)
            yield Strategy(f"auto-{key}-{count}", "`convert --data`", asked, count, made)
    for count in counts:
        made = ours(count, groups="auto")
        yield Strategy(f"auto-{count}", "`convert --data --groups auto`", "auto", count, made)


def scores(path: Path, images: np.ndarray) -> np.ndarray:
    """Return a model's first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[i : i + 250]})[0] for i in range(0, len(images), 250)]
    return np.concatenate(parts)


def table(
    source: Path,
    arrays: Arrays,
    counts: tuple[int, ...],
    keep: Path | None = None,
    after: dict[str, float] | None = None,
    only: str = "*",
) -> None:
    """Print one model's table. arrays: train_images, test_images, test_labels."""
    before = scores(source, arrays["test_images"])
    truth, classes = arrays["test_labels"], before.argmax(1)
    whole = 100 * float((classes == truth).mean())
    print(f"\n{source.stem}: {whole:.1f} % with BN\n")
    columns = ("start", "groups", "calibration images", "accuracy", "kept", "agreement")
    print(f"| {' | '.join(columns)} | error / rms | after fine-tuning |")
    print("| --- " * 8 + "|")
    with tempfile.TemporaryDirectory() as temporary:
        for one in (s for s in strategies(counts) if fnmatch(s.key, only)):
            path = (keep or Path(temporary)) / f"{source.stem}.{one.key}.onnx"
            io.save(one.make(source, {"image": arrays["train_images"]}), path, force=True)
            made = scores(path, arrays["test_images"])
            accuracy = 100 * float((made.argmax(1) == truth).mean())
            agreement = 100 * float((made.argmax(1) == classes).mean())
            error = float(np.sqrt(np.square(made - before).mean() / np.square(before).mean()))
            trained = (after or {}).get(one.key)
            print(
                f"| {one.name} | {one.groups} | {one.images} | {accuracy:.1f} | "
                f"{accuracy / whole:.1%} | {agreement:.1f} | {error:.3f} | "
                f"{'' if trained is None else f'{trained:.1f}'} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the two CIFAR-10 archives")
    parser.add_argument("--keep", type=Path, help="leave the converted files in this folder")
    parser.add_argument("--after", type=Path, help="accuracies after fine-tuning, as JSON")
    parser.add_argument("--models", nargs="*", default=["resnet", "mobilenet", "densenet", "mlp"])
    parser.add_argument("--only", default="*", help="a pattern of strategies, such as balance-*")
    options = parser.parse_args()
    after = json.loads(options.after.read_text()) if options.after else None
    if options.data is not None:
        import cifar

        with tempfile.TemporaryDirectory() as temporary:
            source = (options.keep or Path(temporary)) / "resnet20.onnx"
            cifar.export(cifar.network(options.data), source)
            table(source, cifar.images(options.data), (8, 64), options.keep, after, options.only)
    with np.load(SAMPLES / "digits.npz") as archive:
        digits = {name: archive[name] for name in archive.files}
    for name in options.models:
        arrays = digits
        if name == "unet":
            arrays = {f"{part}_images": digits[f"{part}_noisy"] for part in ("train", "test")}
            arrays["test_labels"] = digits["test_masks"]
        table(SAMPLES / f"digits_{name}.onnx", arrays, (64,), only=options.only)


if __name__ == "__main__":
    main()

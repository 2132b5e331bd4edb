"""Do two files compute the same? Seeded inputs, onnxruntime without optimizations, an oracle.

With an oracle: over all input sets together, per float output,

    rms(candidate − oracle) ≤ 2 · max(rms(original − oracle), 2⁻²⁴ · rms(oracle))

(2⁻²⁴ is float32's unit roundoff: an original that happens to be closer than that, on an output of
a few numbers, is luck.) A float16 model is held to the error that onnxruntime itself makes when
it fuses it: its weights have to be rounded again by any fold, and to 11 bits. A candidate over the
bound is measured once more against the noise of that in the model's own type: the distance of the
original from itself with its weights rounded once more (``_moved``).

Without one: onnxruntime's optimized run of the original is a second correct rounding of the same
function, BatchNormalization fused. A candidate may stray from the plain run 4 times as far, or
1e-5 of the output's rms where the optimizer changed nothing: about 100 roundings of 2⁻²⁴ each.
Integer outputs must be equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from corpus import double
from onnx import numpy_helper

if TYPE_CHECKING:
    from corpus.fetch import Model

Feeds = dict[str, np.ndarray]
Outputs = list[np.ndarray]
Maker = Callable[[list[int], np.random.Generator], np.ndarray]
ROUNDOFF = 2.0**-24
FEW = 100  # the rms of an error over fewer numbers is a matter of luck: take more inputs


def inputs(model: Model, seeds: int = 1) -> list[Feeds]:
    """Return input sets: noise, loud noise, and dark strokes on a light page, for each seed."""
    makers = (_normal, _loud, _strokes)
    return [_feeds(model, make, seed) for seed in range(seeds) for make in makers]


def _feeds(model: Model, make: Maker, seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    feeds: Feeds = {k: make(shape, rng).astype(np.float32) for k, shape in model.inputs.items()}
    for name, (low, high, *shape) in model.integers.items():
        feeds[name] = rng.integers(low, high + 1, shape)
    return feeds


def _normal(shape: list[int], rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(shape)


def _loud(shape: list[int], rng: np.random.Generator) -> np.ndarray:
    return 3 * rng.standard_normal(shape)


def _strokes(shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """Text-like: without it the OCR detectors' outputs are sigmoid(−20), and prove nothing."""
    page = np.ones(shape)
    channels_last = len(shape) == 4 and shape[-1] <= 4
    image = np.moveaxis(page, -1, 1) if channels_last else page
    height, width = image.shape[-2:] if image.ndim > 1 else (1, image.shape[-1])
    for _ in range(20):
        y, x = rng.integers(0, max(1, height - 4)), rng.integers(0, max(1, width - 12))
        image[..., y : y + 2, x : x + int(rng.integers(3, 12))] = -1
        image[..., y : y + 8, x : x + 2] = -1
    return page


def probed(path: Path, model: Model) -> onnx.ModelProto:
    """Load a file, and make outputs of the model's probes: what a saturated output hides."""
    proto = onnx.load(path)
    for name in model.probes:
        kind = onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=1))
        proto.graph.output.append(onnx.ValueInfoProto(name=name, type=kind))
    return proto


def run(
    source: Path | onnx.ModelProto, feeds: Feeds, *, optimize: bool = False
) -> list[np.ndarray]:
    """Run a model on the CPU provider, with every graph optimization off unless asked for."""
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    content = source if isinstance(source, Path) else source.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@dataclass(frozen=True)
class Verdict:
    """One output: the candidate's error, and what it may be."""

    output: int
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the error is within bounds; a NaN is not."""
        return self.error <= self.allowed


def compare(model: Model, original: Path, candidate: Path) -> list[Verdict]:
    """Judge each output of ``candidate`` over all input sets."""
    before, after = probed(original, model), probed(candidate, model)
    sets = inputs(model)[: 1 if model.constant_weights else None]
    if min(out.size for out in run(before, sets[0])) < FEW:
        sets = inputs(model, seeds=8)
    plain = [run(before, feeds) for feeds in sets]
    fused = [run(before, feeds, optimize=True) for feeds in sets]
    other = [run(after, feeds) for feeds in sets]
    half = model.oracle and _is_half(before)
    truth, moved = plain, plain
    if model.oracle:
        evaluator = double.oracle(before)
        truth = [double.run(evaluator, feeds) for feeds in sets]

    def judged() -> list[Verdict]:
        runs = (truth, plain, fused, other, moved)
        return [
            _judge(*(_pool(r, i) for r in runs), index=i, half=half, oracle=model.oracle)
            for i in range(len(plain[0]))
        ]

    verdicts = judged()
    if model.oracle and not all(v.ok for v in verdicts):
        again = _moved(probed(original, model))  # the oracle has made ``before`` its own
        moved = [run(again, feeds) for feeds in sets]
        verdicts = judged()
    return verdicts


def _moved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with one float32 weight in twelve moved by an ulp, up or down.

    A rounding error is uniform within half an ulp: its variance is 1/12 ulp², as that of this is.
    """
    copy, rng = onnx.ModelProto(), np.random.default_rng(0)
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor)
            steps = rng.choice([-1, 0, 1], values.shape, p=[1 / 24, 11 / 12, 1 / 24])
            new = values + (steps * np.spacing(np.abs(values))).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    return copy


def _judge(
    truth: np.ndarray,
    plain: np.ndarray,
    fused: np.ndarray,
    other: np.ndarray,
    moved: np.ndarray,
    *,
    index: int,
    half: bool,
    oracle: bool,
) -> Verdict:
    if plain.dtype.kind != "f":
        return Verdict(index, float(np.sum(other != plain)), 0)
    if not oracle:
        return Verdict(index, rms(other - plain), max(4 * rms(fused - plain), 1e-5 * rms(plain)))
    own = max(rms(plain - truth), rms(moved - plain), rms(fused - truth) if half else 0)
    return Verdict(index, rms(other - truth), 2 * max(own, ROUNDOFF * rms(truth)))


def rms(values: np.ndarray) -> float:
    """Return the root of the mean square, in float64."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _pool(runs: list[Outputs], index: int) -> np.ndarray:
    pooled = np.concatenate([np.ravel(outputs[index]) for outputs in runs])
    return pooled.astype(np.float64) if pooled.dtype.kind == "f" else pooled


def _is_half(model: onnx.ModelProto) -> bool:
    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)

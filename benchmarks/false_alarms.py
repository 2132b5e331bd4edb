"""How often ``validate`` flags what is right, where outputs are few numbers and luck is large.

Small random networks: one to four Conv → BatchNormalization → activation, some with a norm that
computes its statistics, most ending in 1 to 20 numbers. Each is folded, and rewritten by
onnxruntime's own optimization; both are right. They are judged once as ``validate`` does, and where
that took more than the first changed copies, once more by those alone. Then one channel of the fold
is made wrong by a factor, to see what the patience costs.

``python benchmarks/false_alarms.py --networks 14000`` (a quarter of an hour of one core)
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from builder import Builder
from onnx import helper, numpy_helper

import normsurgery
from normsurgery.validation import opinions
from normsurgery.validation.verdict import parity

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTORS = (1e-3, 1e-4, 1e-5)
ACTIVATIONS = ("Relu", "Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Tanh")


class Net(Builder):
    """Nodes in a chain, each of which reads ``value``, that of the one before."""

    def __init__(self, seed: int) -> None:
        super().__init__([7, seed])
        self.value = "x"

    def drawn(self, low: float, high: float, *shape: int) -> str:
        """Add uniform weights; return their name."""
        return self._weight(self.random.uniform(low, high, shape))

    def normal(self, spread: float, *shape: int) -> str:
        """Add normal weights around 0; return their name."""
        return self._weight(self.random.normal(0, spread, shape))

    def _weight(self, values: Any) -> str:
        return self.weight(f"w{len(self.weights)}", values.astype(np.float32))

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> None:
        """Add a node to the end of the chain."""
        name = f"v{len(self.nodes)}"
        self.value = self.node(op_type, name, [self.value, *inputs], **attributes)

    def chance(self, share: float) -> bool:
        """Return True in that share of the cases."""
        return bool(self.random.random() < share)

    def pick(self, options: Any) -> Any:
        """Return one of them."""
        return options[self.random.integers(len(options))]


def network(seed: int) -> onnx.ModelProto:
    """A small network that ``seed`` stands for."""
    net = Net(seed)
    start = channels = net.pick((1, 3))
    size = net.pick((4, 6, 8, 16))
    for _ in range(net.random.integers(1, 5)):
        channels = _block(net, channels, net.pick((2, 4, 8, 16)))
    _head(net, channels)
    net.nodes[-1].output[0] = "y"
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", start, size, size])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    return net.model("net", x, y, opset=21, ir_version=10)


def _block(net: Net, into: int, out: int) -> int:
    bias = [net.normal(0.3, out)] if net.chance(0.5) else []
    weight = net.normal((9 * into) ** -0.5, out, into, 3, 3)
    net.add("Conv", weight, *bias, pads=[1] * 4, strides=[net.pick((1, 1, 2))] * 2)
    _batch_norm(net, out)
    if net.chance(0.8):
        net.add(net.pick(ACTIVATIONS))
    norm = net.random.random()
    scale, shift = net.drawn(0.5, 1.5, out), net.normal(0.5, out)
    if norm < 0.25:
        net.add("GroupNormalization", scale, shift, num_groups=net.pick((1, 2)))
    elif norm < 0.35:
        net.add("InstanceNormalization", scale, shift)
    return out


def _batch_norm(net: Net, channels: int) -> None:
    mean = 0.5 * net.pick((1, 5))
    parameters = (net.drawn(0.5, 1.5, channels), net.normal(0.5, channels))
    statistics = (net.normal(mean, channels), net.drawn(0.1, 2, channels))
    net.add("BatchNormalization", *parameters, *statistics, epsilon=net.pick((1e-5, 1e-3)))


def _head(net: Net, channels: int) -> None:
    """Scores of a few classes, a few pooled channels, the mean of it all, or nothing more."""
    kind, out = net.random.random(), net.pick((1, 1, 2, 4, 10))
    if kind < 0.6:
        net.add("GlobalAveragePool")
        net.add("Flatten")
        net.add("Gemm", net.normal(channels**-0.5, out, channels), net.normal(0.3, out), transB=1)
        if net.chance(0.3):
            net.add(net.pick(("Sigmoid", "Softmax")))
    elif kind < 0.8:
        net.add("Conv", net.normal(channels**-0.5, out, channels, 1, 1))
        _batch_norm(net, out)
        net.add("GlobalAveragePool")
    elif kind < 0.9:
        net.add("ReduceMean", keepdims=0)


def right(path: Path) -> Iterator[Path]:
    """The network at ``path``, folded, and as onnxruntime's optimizations leave it."""
    folded = path.with_name("folded.onnx")
    onnx.save(normsurgery.fold(path).model, folded)
    yield folded
    levels = ort.GraphOptimizationLevel
    for level in (levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        yield path.with_name("optimized.onnx")


def wrong(path: Path, seed: int, factor: float) -> Path:
    """The fold at ``path`` with one output channel of one weight too large by ``factor``."""
    rng = np.random.default_rng([9, seed])
    model = onnx.load(path)
    layers = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm"}]
    name = layers[rng.integers(len(layers))].input[1]
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[rng.integers(len(values))] *= np.float32(1 + factor)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    target = path.with_name("wrong.onnx")
    onnx.save(model, target)
    return target


def judge(reference: Path, candidate: Path, sets: int, found: Counter[str], kind: str) -> None:
    """Count the verdict under ``kind``, and that of the first changed copies alone."""
    verdict = parity(reference, candidate, sets=sets, threads=1)
    found[kind] += 1
    found[f"{kind}, inconclusive"] += verdict.status == "inconclusive"
    failed = verdict.status == "failed"
    found[f"{kind}, failed"] += failed
    patient = any("ulp" in c.note for output in verdict.outputs for c in output.comparisons)
    if patient and not failed:
        near, opinions.NEAR = opinions.NEAR, 0.0
        try:
            failed = parity(reference, candidate, sets=sets, threads=1).status == "failed"
        finally:
            opinions.NEAR = near
    found[f"{kind}, failed by the first copies alone"] += failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--wrong", type=int, default=500, help="of them to plant a bug in")
    parser.add_argument("--sets", type=int, default=3, help="input sets, as fold's own check")
    asked = parser.parse_args()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        for seed in range(asked.networks):
            onnx.save(network(seed), path)
            for candidate in right(path):
                judge(path, candidate, asked.sets, found, "right")
            for factor in FACTORS if seed < asked.wrong else ():
                bad = wrong(path.with_name("folded.onnx"), seed, factor)
                judge(path, bad, asked.sets, found, f"one channel off by {factor:g}")
    for what, count in found.items():
        print(f"{what}: {count}")


if __name__ == "__main__":
    main()

"""What statistics of every layer cost, beside a plain run: time, memory, and how exact they are.

A chain of 20 convolutions of 32 channels on 8 × 3 × 112 × 112, one thread; each way in a process of
its own, the median of ``--rounds``. Memory is what the peak grows by while it runs. The error is
that of the variances, against float64 NumPy on the activations, for inputs far from zero.
``python benchmarks/statistics_cost.py`` (Linux)
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from normsurgery import runtime, statistics
from normsurgery.moments import Moments

LAYERS, CHANNELS, SHAPE = 20, 32, (8, 3, 112, 112)
WAYS = {
    "plain": "nothing but the output",
    "statistics": "moments of every convolution, as `normsurgery.statistics` reduces them",
    "any order": "the same in onnxruntime's default order of nodes",
    "activations": "every convolution's output taken out, nothing computed",
}


def chain() -> onnx.ModelProto:
    """Return Conv → Relu, ``LAYERS`` times."""
    rng = np.random.default_rng(0)
    nodes, weights, value, width = [], [], "x", SHAPE[1]
    for i in range(LAYERS):
        w = rng.normal(0, np.sqrt(2 / (9 * width)), (CHANNELS, width, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"W{i}"))
        nodes.append(helper.make_node("Conv", [value, f"W{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value, width = f"r{i}", CHANNELS
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", CHANNELS, 112, 112])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def measure(way: str) -> None:
    """Print seconds of a run and megabytes that the peak grew by."""
    from normsurgery import io

    model = chain()
    values = [f"c{i}" for i in range(LAYERS)]
    if way == "activations":
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    content = io.from_proto(model)
    if way in {"statistics", "any order"}:
        content, _ = statistics.probe(content, dict.fromkeys(values, 1))
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        io.save(content, Path(folder) / "model.onnx")
        session = runtime.session(
            Path(folder) / "model.onnx", threads=1, in_order=way == "statistics"
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        runtime.run(session, {"x": x})
        seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(seconds, grown / 1024)


def errors() -> None:
    """Print the largest relative error of a variance for some ratios of mean to deviation."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, "H", "W"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for ratio in (0, 100, 10_000):
        x = np.random.default_rng(0).normal(ratio, 1, (8, 8, 56, 56)).astype(np.float32)
        found = statistics.moments(model, ["y"], [{"x": x[:5]}, {"x": x[5:]}])["y"]
        wanted = Moments.of(x)
        naive = (x**2).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
        ours, theirs = (np.abs(v / wanted.var - 1).max() for v in (found.var, naive))
        print(f"mean/deviation {ratio}: {ours:.1e}; E[x²] − E[x]² in float32: {theirs:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        measure(arguments.way)
        return
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, grown = map(float, done.stdout.split())
            times[way].append(seconds)
            memory[way].append(grown)
    print("way | seconds / plain, of one round | MB")
    for way, what in WAYS.items():
        ratio = median(a / b for a, b in zip(times[way], times["plain"], strict=True))
        print(f"{what} | {ratio:.2f} | {median(memory[way]):.0f}")
    errors()


if __name__ == "__main__":
    main()

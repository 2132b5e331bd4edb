"""How far the folded weights of ResNet-50 are from float64, in ULP, for each tool.

Weights and biases apart. The reference is formed in float64 from the stored float32 constants:
``a = scale/√(var + epsilon)``, ``W' = a·W``, ``b' = B − a·mean``. One ULP is the spacing of
float32 at the reference value; a correctly rounded number is within 0.5.

``python benchmarks/fold_exactness.py``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import measuring
import models
import numpy as np
import numpy.typing as npt
import onnx
import tools
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

Float64 = npt.NDArray[np.float64]
Pair = tuple[Float64, Float64]  # weights and biases of one Conv


def reference(path: Path) -> list[Pair]:
    """Return the exact folded weights and biases of every Conv that a BN follows."""
    graph = onnx.load(path).graph
    values = constants(graph)
    norms = {n.input[0]: n for n in graph.node if n.op_type == "BatchNormalization"}
    found = []
    for conv in graph.node:
        if conv.op_type == "Conv" and conv.output[0] in norms:
            norm = norms[conv.output[0]]
            scale, bias, mean, var = (values[name] for name in norm.input[1:])
            a = scale / np.sqrt(var + next(x.f for x in norm.attribute if x.name == "epsilon"))
            found.append((values[conv.input[1]] * a[:, None, None, None], bias - a * mean))
    return found


def folded(path: Path) -> list[Pair]:
    """Return the weights and biases of every Conv of a model."""
    graph = onnx.load(path).graph
    values = constants(graph)
    convs = [n for n in graph.node if n.op_type == "Conv" and len(n.input) > 2]
    return [(values[n.input[1]], values[n.input[2]]) for n in convs]


def constants(graph: onnx.GraphProto) -> dict[str, Float64]:
    """Return every value that is known before the model runs.

    Some tools leave the folding arithmetic in the graph, to be done at each run; it is done here in
    the dtypes that the graph asks for.
    """
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if all(name in known for name in node.input if name):
            feeds = {name: known[name] for name in node.input if name}
            results: Any = ReferenceEvaluator(node).run(None, feeds)
            known |= zip(node.output, results, strict=True)
    return {name: value.astype(np.float64) for name, value in known.items()}


def partner(exact: Pair, candidates: list[Pair]) -> Pair:
    """Return the Conv that is ``exact`` up to rounding; tools rename and reorder."""
    probe = exact[0].ravel()[:64]
    for pair in candidates:
        same = pair[0].shape == exact[0].shape
        if same and np.allclose(pair[0].ravel()[:64], probe, rtol=1e-3, atol=1e-9):
            return pair
    raise LookupError("a folded Conv is missing")


def error_in_ulp(exact: Float64, value: Float64) -> Float64:
    """Return ``|value − exact|`` in float32 ULP of ``exact``."""
    exponent = np.maximum(np.frexp(exact)[1] - 1, -126)
    return np.asarray(np.abs(value - exact) / np.ldexp(1.0, exponent - 23)).ravel()


def row(tool: tools.Tool, exact: list[Pair], path: Path) -> str:
    """Return one line of the table."""
    candidates = folded(path)
    pairs = [(pair, partner(pair, candidates)) for pair in exact]
    cells = [tool.name]
    for part in (0, 1):
        errors = np.concatenate([error_in_ulp(e[part], v[part]) for e, v in pairs])
        cells += [f"{errors.mean():.3f}", f"{errors.max():,.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", nargs="*", choices=tools.PEERS, default=list(tools.PEERS))
    parser.add_argument("--folder", type=Path, default=models.FOLDER)
    options = parser.parse_args()
    chosen = tools.installed([tools.OURS, *options.tools])
    model = models.network("resnet50", options.folder)
    exact = reference(model)
    print(tools.describe(chosen))
    print("| tool | weights: mean ULP | max | biases: mean ULP | max |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for tool in chosen:
            output = Path(folder) / f"{tool.name}.onnx"
            try:
                measuring.run(tool.command(model, output))
                print(row(tool, exact, output), flush=True)
            except (measuring.FailedError, LookupError) as error:
                print(f"| {tool.name} | {error} |")


if __name__ == "__main__":
    main()

"""The corpus as torch modules: which models import and compute what onnxruntime computes.

``python tests/corpus/interpreting.py`` prints the table of docs/interpreter.md.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnx
from corpus import analysis, fetch, parity

from normsurgery import io, runtime
from normsurgery.errors import NormSurgeryError
from normsurgery.pytorch import to_module
from normsurgery.pytorch.interpreter import checking, stepwise

if TYPE_CHECKING:
    from corpus.fetch import Model


@dataclass(frozen=True)
class Import:
    """What became of one model: operators it has, parameters, and the obstacle if there is one."""

    operators: int
    parameters: int = 0
    judged: str = ""
    obstacle: str = ""


def operators(path: Path) -> Counter[str]:
    """Count the operators of a model, bodies included."""
    graphs = analysis.subgraphs(onnx.load(path).graph)
    return Counter(node.op_type for graph in graphs for node in graph.node)


def is_float_with_conv(path: Path) -> bool:
    """Whether a model convolves, and does so in floats: no quantized or custom arithmetic."""
    found = operators(path)
    quantized = {"QuantizeLinear", "ConvInteger", "QLinearConv", "DynamicQuantizeLinear", "Quant"}
    return bool(found["Conv"]) and not quantized & found.keys()


def attempt(model: Model, path: Path) -> Import:
    """Import a model and hold it against onnxruntime on the corpus' own inputs."""
    count = len(operators(path))
    try:
        module = to_module(path, check=False)
        session = runtime.session(path)
        wide = checking.widened(module)
        judged = "whole"
        for feeds in parity.inputs(model)[:2]:
            theirs = runtime.run(session, feeds)
            ours, true = (checking.outputs(m, feeds) for m in (module, wide))
            if checking.compare(theirs, ours, true) is None:
                continue
            judged = "node by node"
            content = io.load(path)
            found = stepwise.first_difference(module, wide, content, feeds, checking.BOUND)
            if found is not None:
                return Import(count, obstacle=f"differs: {found}")
    except NormSurgeryError as error:
        return Import(count, obstacle=str(error))
    parameters = sum(int(np.prod(p.shape)) for p in module.parameters())
    return Import(count, parameters, judged)


def main() -> None:
    """Print the table."""
    sys.stdout.write("| model | kinds of operator | parameters | judged |\n")
    sys.stdout.write("| --- " * 4 + "|\n")
    counted = matched = 0
    for model in fetch.models():
        path = fetch.fetch(model)
        found = attempt(model, path)
        verdict = found.obstacle or found.judged
        if is_float_with_conv(path):
            counted, matched = counted + 1, matched + (not found.obstacle)
        else:
            verdict += " (not counted: no float Conv)"
        cells = (model.name, str(found.operators), f"{found.parameters:,}", verdict)
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()
    sys.stdout.write(f"{matched} of {counted} float models with a Conv match\n")


if __name__ == "__main__":
    main()

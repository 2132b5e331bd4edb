"""What the small graphs on the pages are made of.

The map to follow is a BatchNormalization with ``a = {2, -0.5}`` and ``b = {1, 1.5}``, or a Mul by
``m`` where one without shift or without negative scale is needed. ``make.py`` runs them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

TENSORS = {  # what a graph that names one gets, unless it brings its own
    "W": "double[2, 1, 1, 1] W = {1, 3}",  # Conv from 1 to 2 channels
    "V": "double[1, 2, 1, 1] V = {1, 3}",  # Conv from 2 channels to 1
    "m": "double[2, 1, 1] m = {2, 3}",
    "scale": "double[2] scale = {2, -1}",
    "B": "double[2] B = {1, 0}",
    "mean": "double[2] mean = {0, 3}",
    "var": "double[2] var = {1, 4}",
}
BN = "BatchNormalization<epsilon = 0.0>"
NO_SHIFT = ("double[2] B = {0, 0}", "double[2] mean = {0, 0}")
SINGLE = tuple(TENSORS[n].replace("double", "float") for n in ("scale", "B", "mean", "var"))
ONES = tuple(f"float[1] {name} = {{1}}" for name in ("B", "mean", "var"))


@dataclass(frozen=True)
class Example:
    """A graph as onnx.parser reads it, what to see in it, and options of ``fold``."""

    note: str
    text: str
    opset: int
    options: dict[str, Any] = field(default_factory=dict)


def graph(
    note: str,
    nodes: str,
    *tensors: str,
    x: str = "double[N, 1, 4, 4] x",
    y: str = "double[N, 2, 4, 4] y",
    opset: int = 21,
    functions: str = "",
    **options: Any,
) -> Example:
    """Return an example; in ``nodes``, ``BN(c)`` stands for a BN of c with its parameters."""
    nodes = re.sub(r"\bBN\((\w+)\)", rf"{BN}(\1, scale, B, mean, var)", nodes).replace(";", "\n")
    brought = {tensor.partition(" =")[0].split()[-1] for tensor in tensors}
    brought |= set(re.findall(r"\w+", f"{x} {y}"))
    shared = [t for n, t in TENSORS.items() if n not in brought and re.search(rf"\b{n}\b", nodes)]
    constants = ", ".join([*tensors, *shared])
    text = f"example ({x}) => ({y}) {f'<{constants}>' if constants else ''} {{ {nodes} }}"
    return Example(note, text + functions, opset, options)


TO_ONE: dict[str, Any] = {
    "x": "double[N, 2, 4, 4] x",
    "y": "double[N, 1, 4, 4] y",
}  # forwards, into V
MATRIX: dict[str, Any] = {"x": "double[N, 2] x", "y": "double[N, 2] y"}
SQUARE = "double[2, 2] A = {1, 3, 5, 7}"

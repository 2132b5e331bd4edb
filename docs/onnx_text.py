"""Print a model as short ONNX text."""

from __future__ import annotations

import re

import onnx

MOST_NODES = 20
FLOAT = re.compile(r"-?\d+(\.\d+(e[+-]?\d+)?|e[+-]?\d+)")


def onnx_text(model: onnx.ModelProto) -> str:
    """Return graph and functions as onnx.printer writes them, floats rounded to four digits.

    One initializer a line; of a long row of nodes, only both ends.
    """
    to_text = onnx.printer.to_text
    parts = [to_text(model.graph), *(to_text(function) for function in model.functions)]
    lines = [line for part in parts for line in part.splitlines() if line.strip()]
    text = "\n".join(_line(line) for line in _ends(lines))
    return FLOAT.sub(lambda m: f"{float(m[0]):.4g}", text)


def _line(line: str) -> str:
    line = re.sub(r" +(?=\{)", " ", line.rstrip())
    line = re.sub(r"(?<=\S) (?=\()", "", line) if "=>" not in line else line
    return line.replace("}, ", "},\n    ") if line.startswith("   <") else line


def _ends(lines: list[str]) -> list[str]:
    if len(lines) <= MOST_NODES:
        return lines
    left = len(lines) - 12
    return [*lines[:8], f"   …  # {left} nodes more", *lines[-4:]]

"""The tools that are compared, each called in the leanest way that folds BatchNormalization.

A tool is a command line that turns MODEL into OUTPUT in a process of its own: what a build script
would run. Peers are called from ``python -c`` with the imports that they need and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path


def offline(level: str, more: str = "") -> str:
    """Return the program that writes what onnxruntime makes of a model at an optimization level."""
    return (
        "import sys, onnxruntime as ort\n"
        "options = ort.SessionOptions()\n"
        f"options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_{level}\n"
        "options.optimized_model_filepath = sys.argv[2]\n"
        f"{more}"
        "ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])\n"
    )


# Tool: (distribution, program). sys.argv is [-c, MODEL, OUTPUT].
PROGRAMS = {
    "onnxruntime": ("onnxruntime", offline("BASIC")),
    "onnxruntime-lean": (
        "onnxruntime",
        offline("BASIC", "options.add_session_config_entry('session.disable_prepacking', '1')\n"),
    ),
    "onnxoptimizer": (
        "onnxoptimizer",
        "import sys, onnx, onnxoptimizer\n"
        "model = onnxoptimizer.optimize(onnx.load(sys.argv[1]), ['fuse_bn_into_conv'])\n"
        "onnx.save(model, sys.argv[2])\n",
    ),
    "onnxsim": (
        "onnxsim",
        "import sys, onnx, onnxsim\n"
        "model, _ = onnxsim.simplify(onnx.load(sys.argv[1]))\n"
        "onnx.save(model, sys.argv[2])\n",
    ),
    "onnxslim": (
        "onnxslim",
        "import sys, onnxslim\nonnxslim.slim(sys.argv[1], sys.argv[2])\n",
    ),
    "onnxscript": (
        "onnxscript",
        "import sys, onnx_ir\n"
        "from onnxscript import rewriter\n"
        "onnx_ir.save(rewriter.rewrite(onnx_ir.load(sys.argv[1])), sys.argv[2])\n",
    ),
}
OURS = "normsurgery"
PEERS = tuple(PROGRAMS)
NORMSURGERY = str(Path(sysconfig.get_path("scripts")) / "normsurgery")


@dataclass(frozen=True)
class Tool:
    """A command that folds; ``arguments`` come before MODEL and OUTPUT."""

    name: str
    distribution: str

    def command(self, model: Path, output: Path) -> list[str]:
        """Return the command line."""
        if self.name == OURS:
            options = ["-o", str(output), "--force", "--no-validate"]
            return [NORMSURGERY, "fold", str(model), *options]
        return [sys.executable, "-c", PROGRAMS[self.name][1], str(model), str(output)]

    @property
    def version(self) -> str | None:
        """Version of the installed distribution; None if it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


def installed(names: list[str]) -> list[Tool]:
    """Return the tools of those names that are installed, telling which are not."""
    found = []
    for name in names:
        tool = Tool(name, OURS if name == OURS else PROGRAMS[name][0])
        if tool.version is None:
            print(f"{name}: not installed, left out")
        else:
            found.append(tool)
    return found


def describe(tools: list[Tool]) -> str:
    """Return one line on where and with what the figures were measured."""
    names = [*(t.distribution for t in tools), "onnx", "numpy", "protobuf"]
    versions = [f"{n} {importlib.metadata.version(n)}" for n in dict.fromkeys(names)]
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    return f"{time.strftime('%Y-%m-%d')}; {machine}; {', '.join(versions)}"

"""docs/session.md, run as it stands: its code, and the output that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from normsurgery import runtime

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(?:\.\d+)*")


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / "docs" / "session.md").read_text(encoding="utf-8"))


def run(kind: str, code: str, folder: Path) -> str:
    """Run a block as a user would, from ``folder``; return what it printed."""
    command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-euc", code]
    paths = [str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")]
    if kind == "python":  # the first sh block exports it
        paths.insert(0, "sample_models")
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pattern(line: str) -> str:
    """Match the line with any number where it has one: machines round differently."""
    parts = [re.escape(part) for part in _NUMBER.split(line)]
    return r"[\d.e+-]+".join(parts)


def test_it_has_what_it_promises() -> None:
    text = "".join(code for kind, code in blocks() if kind == "sh")
    verbs = re.findall(r"^normsurgery (\w+)", text, re.MULTILINE)
    assert verbs == ["export", "fold", "validate", "convert", "finetune", "fold", "validate"]


def test_session(tmp_path: Path) -> None:
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "normsurgery"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m normsurgery_cli.main "$@"\n')
    script.chmod(0o755)
    printed = ""
    exports = ""
    for kind, code in blocks():
        if kind == "text":
            for line in code.splitlines():
                assert re.search(f"^{pattern(line)}$", printed, re.MULTILINE), f"{line}\n{printed}"
            continue
        printed = run(kind, exports + code if kind == "sh" else code, tmp_path)
        exports += "".join(f"{line}\n" for line in code.splitlines() if line.startswith("export "))
    assert "BatchNormalization" not in operators(tmp_path / "resnet.folded.onnx")
    assert accuracy(tmp_path / "resnet.gn.onnx") > 0.98
    assert accuracy(tmp_path / "resnet.tuned.folded.onnx") > 0.98


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def accuracy(path: Path) -> float:
    with np.load(ROOT / "sample_models" / "digits.npz") as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    (scores,) = runtime.run(runtime.session(path), {"image": images}).values()
    return float((scores.argmax(1) == labels).mean())

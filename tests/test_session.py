"""The session of docs/session.md, run line by line as a user would."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from normsurgery_cli import main

from normsurgery import runtime

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "session.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the arguments of every line that calls normsurgery."""
    shell = TEXT.split("```sh\n")[1].split("```")[0]
    return [shlex.split(line) for line in shell.splitlines() if line.startswith("normsurgery ")]


def accuracy(path: Path) -> float:
    with np.load(ROOT / "sample_models" / "digits.npz") as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    (scores,) = runtime.run(runtime.session(path), {"image": images}).values()
    return float((scores.argmax(1) == labels).mean())


def test_the_documented_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "sample_models")
    verbs = []
    for arguments in commands():
        monkeypatch.setattr(sys, "argv", arguments)
        status = main.run()
        shown = capsys.readouterr()
        assert status == 0, (arguments, shown.err)
        verbs.append(arguments[1])
    assert verbs == [
        "export", "finetune", "fold", "validate", "convert", "finetune", "fold", "validate",
    ]  # fmt: skip
    assert accuracy(tmp_path / "trained.onnx") > 0.95
    assert accuracy(tmp_path / "gn.onnx") > 0.9
    assert accuracy(tmp_path / "tuned.folded.onnx") > 0.95
    kinds = {node.op_type for node in onnx.load(tmp_path / "trained.folded.onnx").graph.node}
    assert "BatchNormalization" not in kinds

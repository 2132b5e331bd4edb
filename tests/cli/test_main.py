"""Start-up, help and version of the command line."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from normsurgery_cli.main import VERBS

import normsurgery

if TYPE_CHECKING:
    from cli.conftest import Run


def test_version(cli: Run) -> None:
    assert cli("--version").out.decode().strip().endswith(normsurgery.__version__)


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "-h"] for verb in VERBS)])
def test_help(cli: Run, arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert outcome.status == 0
    assert outcome.out.startswith(b"Usage: ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['normsurgery', '--help']\n"
        "from normsurgery_cli import main\n"
        "assert main.run() == 0\n"
        "heavy = {'numpy', 'onnx', 'rich', 'onnxruntime', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("absent", ["onnxruntime", "torch"])
def test_folding_imports_neither_runtime(absent: str) -> None:
    code = (
        "import sys, normsurgery\n"
        "from pathlib import Path\n"
        "normsurgery.fold(sys.argv[1])\n"
        "normsurgery.inspect(sys.argv[1])\n"
        f"assert {absent!r} not in sys.modules"
    )
    sample = "sample_models/digits_resnet.onnx"
    root = __file__.rsplit("/tests/", 1)[0]
    subprocess.run([sys.executable, "-c", code, f"{root}/{sample}"], check=True)

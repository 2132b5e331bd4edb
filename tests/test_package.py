"""The wheel: what is in it, and that it works where nothing else is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import normsurgery

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_models" / "digits_resnet.onnx"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_content(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    version = normsurgery.__version__
    assert tops == {"normsurgery", "normsurgery_cli", f"normsurgery-{version}.dist-info"}
    assert "normsurgery/py.typed" in names
    assert "normsurgery/folding/sinks/conv.py" in names


def test_core_alone_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """The core dependencies alone fold a model, and say how to get the parity check."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    installed = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    if re.search("Connection|Could not find a version|No matching", installed.stderr):
        pytest.skip(f"no packages to be had: {installed.stderr[-200:]}")
    assert installed.returncode == 0, installed.stderr
    script = tmp_path / "env" / "bin" / "normsurgery"
    output = tmp_path / "out.onnx"
    run = [str(script), "fold", str(SAMPLE), "-o", str(output), "--json"]
    result = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(result.stdout)
    assert found["report"]["after"] == 0
    assert "not installed" in found["parity"]
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    assert not {"onnxruntime", "torch"} & {entry["name"] for entry in json.loads(listed.stdout)}

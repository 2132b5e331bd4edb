"""Processes that share recalibration end with the statistics of one, whatever their number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from normsurgery import pytorch, recalibration
from normsurgery.errors import UsageError

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_models"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_shards_of_1_2_3_and_7_processes(tmp_path: Path) -> None:
    """Equal to 1e-12 is asked for; the parts are the same for all, so the bits are."""
    script = Path(__file__).with_name("sharing.py")
    command = [sys.executable, str(script), str(tmp_path), "1", "2", "3", "7"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "1-0.npz") as archive:
        alone = dict(archive)
    assert len(alone) == 11 + 4
    for count in (2, 3, 7):
        for rank in range(count):
            with np.load(tmp_path / f"{count}-{rank}.npz") as archive:
                for name, wanted in alone.items():
                    np.testing.assert_allclose(archive[name], wanted, rtol=1e-12, atol=0)
                    np.testing.assert_array_equal(archive[name], wanted)


def test_torchrun_writes_once(tmp_path: Path) -> None:
    """The command line under torchrun, by two processes: the file of one process, byte for byte."""
    arguments = [
        *("-m", "normsurgery_cli.main", "recalibrate", str(SAMPLES / "digits_resnet.onnx")),
        *("-d", f"{SAMPLES / 'digits.npz'}:test", "--limit", "64", "--batch-size", "16"),
        *("--mode", "batch", "-o"),
    ]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for how, name in (([], "one.onnx"), (torchrun, "two.onnx")):
        done = subprocess.run(
            [sys.executable, *how, *arguments, str(tmp_path / name)],
            env=ENVIRONMENT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote ") == 1
        assert ("shared among 2" in done.stdout) == (how == torchrun)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "two.onnx")


def test_outside_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK is not set; start the processes with torchrun"):
        pytorch.processes().__enter__()


def test_processes_with_other_files() -> None:
    """A process whose peers count other samples or another model refuses to go on."""
    import normsurgery

    class Strange(recalibration.Alone):
        def add(self, values: np.ndarray) -> np.ndarray:
            return np.vstack([values, values + 1])

    images = np.load(SAMPLES / "digits.npz")["train_images"][:4]
    with pytest.raises(UsageError, match="process 0 of 1 has another model or other data"):
        normsurgery.recalibrate(SAMPLES / "digits_resnet.onnx", {"image": images}, peers=Strange())

"""Several processes that train together: as one does, and what they say if one stops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from pytorch.learners import digits, grouped, tensors

from normsurgery.errors import UsageError
from normsurgery.pytorch import FinetuneResult, finetune


def test_a_world_size_without_torchrun_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    for size, what in (("2", "start them with torchrun"), ("two", "'two', which is no number")):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(UsageError, match=what):
            finetune(grouped(), digits())


TWO = """
import os, sys
from pathlib import Path
import onnx
sys.path[:0] = {paths!r}
from learners import digits, grouped
from normsurgery.pytorch import finetune

result = finetune(grouped(), digits(limit=61), batch_size={size}, epochs=2, lr=0.01, device="cpu")
if result.report.writes:
    onnx.save(result.model, {out!r})
    assert result.report.processes == 2
    print(result.report.epochs[-1].train.loss)
"""


def test_two_processes_do_the_steps_of_one_with_the_double_batch(tmp_path: Path) -> None:
    """61 samples in batches of 4 and 2×2: the last group is 1 sample and none."""
    out, script = tmp_path / "two.onnx", tmp_path / "two.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script.write_text(TWO.format(paths=paths, size=2, out=str(out)))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one: FinetuneResult = finetune(grouped(), digits(limit=61), batch_size=4, epochs=2, lr=0.01)
    before, two = tensors(grouped()), tensors(onnx.load(out))
    for name, array in tensors(one.model).items():
        if array.dtype == np.float32:
            moved = np.abs(array - before[name]).max()
            assert np.abs(two[name] - array).max() <= 1e-4 * max(moved, 1e-3), name
    assert float(done.stdout.split()[-1]) == pytest.approx(
        one.report.epochs[-1].train.loss, rel=1e-4
    )


BROKEN = """
import sys
sys.path[:0] = {paths!r}
import numpy as np
from learners import grouped
from normsurgery.errors import NormSurgeryError
from normsurgery.pytorch import finetune

images = np.ones((4, 1, 8, 8), np.float32)
bad = images.copy()
bad[2] = np.nan
labels = np.zeros(4, np.int64)
batches = [(images, labels)] * 5 + [(bad, labels)] + [(images, labels)] * 4  # the second one's
try:
    finetune(grouped(), batches, device="cpu")
except NormSurgeryError as error:
    sys.stdout.write(str(error) + chr(10))
    sys.stdout.flush()
    sys.exit(error.exit_status)
"""


def test_a_process_whose_peer_stopped_says_so(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script.write_text(BROKEN.format(paths=paths))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    said = sorted(line for line in done.stdout.splitlines() if line)
    assert said[-1].startswith("the loss is nan at step 3, and that batch of the data holds")
    # the launcher may stop the other one before it says anything
    assert all(line.startswith("another of the processes stopped") for line in said[:-1])
    assert "Traceback" not in done.stderr.split("ChildFailedError")[0].split("failed (exitcode")[0]

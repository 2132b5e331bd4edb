"""``normsurgery finetune`` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from cli.conftest import Run

SAMPLES = Path(__file__).parents[2] / "sample_models"
DATA = f"{SAMPLES / 'digits.npz'}:train"
TEST = f"{SAMPLES / 'digits.npz'}:test"
RESNET = SAMPLES / "digits_resnet.onnx"
SHORT = ("--data", DATA, "--limit", "40")


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_one_epoch_and_what_it_says(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "tuned.onnx"
    outcome = cli("finetune", RESNET, *SHORT, "--val", TEST, "-o", out)
    assert outcome.status == 0, outcome.err
    text = outcome.out.decode()
    assert "before: validation loss " in text
    assert "epoch 1: loss " in text
    assert "20 steps on cpu" in text
    assert "parity: ok" in text
    assert f"wrote {out}" in text
    assert "BatchNormalization" not in operators(out)
    assert outcome.err == ""


def test_json_and_the_norms_left_in(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "tuned.onnx"
    outcome = cli("finetune", RESNET, *SHORT, "--no-fold", "--json", "-o", out)
    summary = json.loads(outcome.out)
    assert summary["verb"] == "finetune"
    assert summary["parity"] == "nothing was folded"
    assert summary["report"]["steps"] == 20
    assert operators(out) == operators(RESNET)


def test_a_dry_run_writes_nothing(cli: Run, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(RESNET.read_bytes())
    outcome = cli("finetune", model, *SHORT, "-n", "--checkpoint", tmp_path)
    assert outcome.status == 0, outcome.err
    assert b"nothing written (dry run)" in outcome.out
    assert list(tmp_path.iterdir()) == [model]


def test_standard_input_and_output(cli: Run) -> None:
    outcome = cli("finetune", "-", *SHORT, stdin=RESNET.read_bytes())
    assert outcome.status == 0, outcome.err
    assert len(onnx.load_from_string(outcome.out).graph.node) > 10
    assert "wrote -" in outcome.err


def test_a_model_without_norms_is_warned_about(cli: Run, tmp_path: Path) -> None:
    model = SAMPLES / "digits_resnet_folded.onnx"
    outcome = cli("finetune", model, *SHORT, "-o", tmp_path / "t.onnx")
    assert outcome.status == 0, outcome.err
    assert b"warning: no normalization is left in the model" in outcome.out


def test_errors_are_one_line_and_leave_nothing(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "t.onnx"
    for arguments, status, what in (
        (("--data", tmp_path / "none.npz"), 4, "NS-E401"),
        ((*SHORT, "--freeze", "nothing*"), 2, "NS-E200"),
        ((*SHORT, "--loss", "hinge"), 2, "NS-E200"),
        ((*SHORT, "--array", "image"), 2, "NS-E200"),
        ((*SHORT, "--mean", "a,b"), 2, "NS-E200"),
        ((*SHORT, "--size", "8"), 2, "NS-E200"),
        ((*SHORT, "--resume"), 2, "NS-E200"),
        ((*SHORT, "--lr", "1e30", "--schedule", "constant"), 1, "NS-E101"),
    ):
        outcome = cli("finetune", RESNET, *arguments, "-o", out)
        assert outcome.status == status, (arguments, outcome.err)
        assert outcome.err.startswith(f"error[{what}]: ")
        assert outcome.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    out.write_bytes(b"precious")
    assert cli("finetune", RESNET, *SHORT, "-o", out).status == 4
    assert out.read_bytes() == b"precious"


def test_a_killed_run_resumes_to_the_same_bytes(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    usual = ("finetune", RESNET, "--data", DATA, "--limit", "60", "--epochs", "3")
    saving = ("--optimizer", "adamw", "--checkpoint", file, "--checkpoint-every", "1")
    killed, resumed, whole = (tmp_path / f"{n}.onnx" for n in ("killed", "resumed", "whole"))
    command = [str(a) for a in (*usual, *saving, "-o", killed)]
    process = subprocess.Popen(
        [sys.executable, "-m", "normsurgery_cli.main", *command], env={**os.environ}
    )
    while _step(file) < 7 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    outcome = cli(*usual, *saving, "--resume", "-o", resumed)
    assert outcome.status == 0, outcome.err
    assert b"resumed at step " in outcome.out
    assert cli(*usual, "--optimizer", "adamw", "-o", whole).status == 0
    assert resumed.read_bytes() == whole.read_bytes()


def _step(file: Path) -> int:
    try:
        with safe_open(file, framework="np") as held:
            progress = json.loads(held.metadata()["normsurgery.finetune"])["progress"]
    except (OSError, SafetensorError):
        return 0
    return int(progress["step"])


def test_training_is_not_lost_to_a_fold_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normsurgery_cli import finetune, proving

    from normsurgery import data, pytorch
    from normsurgery.errors import ParityError

    model = onnx.load(RESNET)
    inputs = data.inputs_of(model)
    result = pytorch.finetune(model, data.read(DATA, inputs, limit=4))

    def failing(*_args: object, **_options: object) -> None:
        raise ParityError("ratio 5")

    monkeypatch.setattr(proving, "save", failing)
    save = finetune._save
    said = save(result, tmp_path / "out.onnx", force=False, external=None, no_validate=False)
    assert said == "failed, so the norms were left in the output: ratio 5"
    assert operators(tmp_path / "out.onnx") == operators(RESNET)
    assert operators(tmp_path / "out.onnx") != [n.op_type for n in result.model.graph.node]

"""``normsurgery fold`` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from graphs import bn, parse, weights

import normsurgery
from normsurgery import runtime

if TYPE_CHECKING:
    from cli.conftest import Run

SAMPLES = Path(__file__).parents[2] / "sample_models"
TEXT = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
  c = Conv(x, W)
  y = BatchNormalization(c, scale, B, mean, var)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "my model.onnx"
    parameters = bn(4, dtype=np.float32)
    onnx.save(parse(TEXT, W=weights(4, 3, 3, 3, dtype=np.float32), **parameters), path)
    return path


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def left_over(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_default_output_is_beside_the_input(cli: Run, model: Path) -> None:
    outcome = cli("fold", model)
    assert outcome.status == 0, outcome.err
    assert operators(model.with_name("my model.folded.onnx")) == ["Conv"]
    text = outcome.out.decode()
    assert "1 BatchNormalization before, 0 after" in text
    assert "parity: ok" in text
    assert "certificate: 112 coefficients" in text
    assert left_over(model.parent) == {"my model.onnx", "my model.folded.onnx"}


def test_metadata_says_what_made_it(cli: Run, model: Path) -> None:
    cli("fold", model)
    props = {
        p.key: p.value for p in onnx.load(model.with_name("my model.folded.onnx")).metadata_props
    }
    assert props["normsurgery.verb"] == "fold"
    assert props["normsurgery.version"] == normsurgery.__version__
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert props["normsurgery.source_sha256"] == digest


def test_existing_output_needs_force(cli: Run, model: Path) -> None:
    output = model.with_name("out.onnx")
    output.write_bytes(b"precious")
    outcome = cli("fold", model, "-o", output)
    assert outcome.status == 4
    assert outcome.err.startswith("error[NS-E402]: ")
    assert output.read_bytes() == b"precious"
    assert cli("fold", model, "-o", output, "--force").status == 0
    assert operators(output) == ["Conv"]


def test_over_the_input(cli: Run, model: Path) -> None:
    assert cli("fold", model, "-o", model, "-f").status == 0
    assert operators(model) == ["Conv"]


def test_dry_run_writes_nothing(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "--dry-run")
    assert outcome.status == 0
    assert b"folded" in outcome.out
    assert left_over(model.parent) == {"my model.onnx"}


def test_json(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "--json")
    found = json.loads(outcome.out)
    assert found["report"]["before"] == 1
    assert found["report"]["after"] == 0
    assert found["report"]["folded"][0]["into"] == ["Conv (makes `y`)"]
    assert all(c["max_ulp"] <= 0.5 for c in found["certificates"])
    assert found["parity"]["ok"] is True


def test_streams(cli: Run, model: Path) -> None:
    outcome = cli("fold", "-", stdin=model.read_bytes())
    assert outcome.status == 0
    folded = onnx.load_from_string(outcome.out)
    assert [n.op_type for n in folded.graph.node] == ["Conv"]
    assert "parity: ok" in outcome.err


def test_json_and_model_cannot_share_stdout(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "-o", "-", "--json")
    assert outcome.status == 2
    assert outcome.err.startswith("error[NS-E200]: ")


def test_kept_is_told_with_its_reason(cli: Run) -> None:
    outcome = cli("fold", SAMPLES / "digits_densenet.onnx", "--dry-run")
    assert b"kept" in outcome.out
    assert b"stopped at" in outcome.out


def test_without_onnxruntime(cli: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available", lambda: False)
    outcome = cli("fold", model)
    assert outcome.status == 0
    assert b"parity: not run" in outcome.out
    assert b"pip install onnxruntime" in outcome.out


def test_a_source_that_onnxruntime_cannot_run(cli: Run, tmp_path: Path) -> None:
    """No Conv in double precision there: both models are evaluated without it, which is said."""
    path = tmp_path / "double.onnx"
    text = TEXT.replace("float[", "double[")
    onnx.save(parse(text, W=weights(4, 3, 3, 3), **bn(4)), path)
    outcome = cli("fold", path)
    assert outcome.status == 0
    assert b"parity: ok, float64 evaluation, 3 input sets" in outcome.out
    assert b"(onnxruntime refuses it: " in outcome.out
    assert b"NOT_IMPLEMENTED" in outcome.out
    assert operators(tmp_path / "double.folded.onnx") == ["Conv"]


def test_a_source_that_nothing_can_run(cli: Run, tmp_path: Path) -> None:
    """The model folds, and that parity is not proved is said."""
    path = tmp_path / "custom.onnx"
    text = TEXT.replace("y = Batch", "h = Nonsense(c)\n  y = Batch").replace(
        "zation(c,", "zation(h,"
    )
    onnx.save(parse(text, W=weights(4, 3, 3, 3, dtype=np.float32), **bn(4, dtype=np.float32)), path)
    outcome = cli("fold", path)
    assert outcome.status == 0
    assert b"parity: not run: " in outcome.out
    assert b"Nonsense" in outcome.out


def test_parity_can_be_skipped(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "--no-validate")
    assert outcome.status == 0
    assert b"parity: not run" in outcome.out


@pytest.fixture
def broken_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug: every folded weight is off by a thousandth."""
    from normsurgery.payloads import Computed

    right = Computed.scaled
    monkeypatch.setattr(Computed, "scaled", lambda self, factor: right(self, factor * 1.001))


@pytest.mark.usefixtures("broken_algebra")
def test_failed_parity_leaves_no_output(cli: Run, model: Path) -> None:
    outcome = cli("fold", model)
    assert outcome.status == 1
    assert outcome.err.startswith("error[NS-E100]: ")
    assert outcome.err.count("\n") == 1
    assert left_over(model.parent) == {"my model.onnx"}


@pytest.mark.usefixtures("broken_algebra")
def test_failed_parity_can_be_kept(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "--keep")
    assert outcome.status == 1
    assert operators(model.with_name("my model.folded.onnx")) == ["Conv"]


def test_external_data(cli: Run, model: Path) -> None:
    assert cli("fold", SAMPLES / "digits_resnet.onnx", "-o", model, "-f", "--external").status == 0
    data = [entry for entry in model.parent.iterdir() if entry.suffix == ".data"]
    assert len(data) == 1
    assert model.stat().st_size < data[0].stat().st_size
    onnx.checker.check_model(model)


def test_read_only_folder(cli: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system would say it; the test may run as root, who may write anywhere."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    outcome = cli("fold", model)
    assert outcome.status == 4
    assert "read-only" in outcome.err


def test_interrupt(cli: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("normsurgery.validation.check", interrupt)
    outcome = cli("fold", model)
    assert outcome.status == 130
    assert left_over(model.parent) == {"my model.onnx"}


def test_an_output_that_says_nothing_is_no_failure(cli: Run, tmp_path: Path) -> None:
    """One output is 0 whatever goes in: nothing is proved of it, and nothing is wrong."""
    path = tmp_path / "m.onnx"
    text = TEXT.replace("y) {", "y, float[N, 3, 8, 8] zero) {\n  zero = Sub(x, x)")
    onnx.save(parse(text, W=weights(4, 3, 3, 3, dtype=np.float32), **bn(4, dtype=np.float32)), path)
    outcome = cli("fold", path)
    assert outcome.status == 0, outcome.err
    assert b"parity: inconclusive" in outcome.out
    assert operators(tmp_path / "m.folded.onnx").count("BatchNormalization") == 0
    validated = cli("validate", path, tmp_path / "m.folded.onnx")
    assert validated.status == 1
    assert "inconclusive" in validated.err

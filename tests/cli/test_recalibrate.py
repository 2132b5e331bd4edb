"""``normsurgery recalibrate`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

if TYPE_CHECKING:
    from cli.conftest import Run

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODEL = SAMPLES / "digits_resnet.onnx"
DATA = ("-d", f"{SAMPLES / 'digits.npz'}:test", "--limit", "48")
pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL.read_bytes())
    return path


def left_over(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_default_output_is_beside_the_input(cli: Run, model: Path) -> None:
    outcome = cli("recalibrate", model, *DATA)
    assert outcome.status == 0, outcome.err
    text = outcome.out.decode()
    assert "11 BatchNormalization, statistics of 48 samples, mode sequential, 9 passes" in text
    made = onnx.load(model.with_name("model.recalibrated.onnx"))
    assert {p.key: p.value for p in made.metadata_props}["normsurgery.verb"] == "recalibrate"
    again = cli("recalibrate", model, *DATA)
    assert again.err.startswith("error[NS-E402]: ")
    assert cli("recalibrate", model, *DATA, "--force").status == 0


def test_json_and_selection(cli: Run, model: Path) -> None:
    outcome = cli("recalibrate", model, *DATA, "--mode", "batch", "--json", "--only", "/3/*")
    found = json.loads(outcome.out)
    assert found["report"]["mode"] == "batch"
    assert found["report"]["passes"] == 1
    assert len(found["report"]["recalibrated"]) == 2
    assert len(found["report"]["left"]) == 9


def test_dry_run_writes_nothing(cli: Run, model: Path) -> None:
    outcome = cli("recalibrate", model, *DATA, "--mode", "batch", "-n")
    assert outcome.status == 0
    assert b"nothing written" in outcome.out
    assert left_over(model.parent) == {"model.onnx"}


def test_streams(cli: Run) -> None:
    outcome = cli("recalibrate", "-", *DATA, "--mode", "batch", stdin=MODEL.read_bytes())
    assert outcome.status == 0, outcome.err
    assert len(onnx.load_from_string(outcome.out).graph.node) > 11


def test_shards_are_merged(cli: Run, model: Path, tmp_path: Path) -> None:
    size = ("--batch-size", "8")
    shards = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for i, shard in enumerate(shards, 1):
        outcome = cli("recalibrate", model, *DATA, *size, "--partial", shard, "--shard", f"{i}/2")
        assert outcome.status == 0, outcome.err
        assert b"on 3 of 6 parts of 48 samples" in outcome.out
    merged = tmp_path / "merged.onnx"
    outcome = cli("recalibrate", model, "--merge", *shards, "-o", merged)
    assert outcome.status == 0, outcome.err
    whole = tmp_path / "whole.onnx"
    assert cli("recalibrate", model, *DATA, *size, "--mode", "batch", "-o", whole).status == 0
    assert merged.read_bytes() == whole.read_bytes()
    outcome = cli("recalibrate", model, "--merge", shards[1], "-o", tmp_path / "half.onnx")
    assert outcome.status == 2
    assert "part 0 of 6 is in none of the files" in outcome.err
    assert not (tmp_path / "half.onnx").exists()


def test_partial_as_json_and_dry(cli: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.npz"
    outcome = cli("recalibrate", model, *DATA, "--partial", target, "--json", "-n")
    assert json.loads(outcome.out)["partial"] == {"parts": [0], "of": 1, "samples": 48}
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ((), 2, "--data"),
        (("--merge",), 2, "go together"),
        (("a.npz", *DATA), 2, "go together"),
        (("--merge", "a.npz", *DATA), 2, "neither data nor a mode"),
        (("--merge", "nowhere.npz"), 4, "nowhere.npz"),
        ((*DATA, "--partial", "a.npz", "--mode", "sequential"), 2, "mode batch"),
        ((*DATA, "--partial", "a.npz", "-o", "b.onnx"), 2, "leave --output out"),
        ((*DATA, "--partial", "-"), 2, "--partial wants a file"),
        ((*DATA, "--shard", "1/2"), 2, "--shard goes with --partial"),
        ((*DATA, "--shard", "3/2", "--partial", "a.npz"), 2, "no shard"),
        ((*DATA, "-o", "-", "--json"), 2, "standard output"),
        (("-d", "nowhere.npz"), 4, "nowhere.npz"),
        ((*DATA, "--only", "nothing"), 2, "no BatchNormalization"),
        ((*DATA, "--batch-size", "1", "--mode", "batch"), 2, "a batch of one sample"),
    ],
)
def test_bad_calls(
    cli: Run, model: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    outcome = cli("recalibrate", model, *arguments)
    assert outcome.status == status, outcome.err
    assert outcome.err.count("\n") == 1
    assert text in outcome.err
    assert left_over(model.parent) == {"model.onnx"}


def test_partial_under_torchrun(cli: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = cli("recalibrate", model, *DATA, "--partial", model.with_name("a.npz"))
    assert outcome.status == 2
    assert "leave torchrun out" in outcome.err


def test_torchrun_without_torch(cli: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normsurgery import pytorch

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(pytorch, "find_spec", lambda _: None)
    outcome = cli("recalibrate", model, *DATA)
    assert outcome.status == 6
    assert 'pip install "normsurgery[torch]"' in outcome.err

"""``normsurgery unfold`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

if TYPE_CHECKING:
    from cli.conftest import Run

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODEL = SAMPLES / "digits_resnet_folded.onnx"
DATA = f"{SAMPLES / 'digits.npz'}:train"
pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL.read_bytes())
    return path


def norms(path: Path) -> int:
    return sum(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)


def test_default_output_is_beside_the_input(cli: Run, model: Path) -> None:
    outcome = cli("unfold", model, "--data", DATA, "--samples", 8)
    assert outcome.status == 0, outcome.err
    text = outcome.out.decode()
    assert "11 BatchNormalization put in, statistics of 8 samples" in text
    assert "parity: ok" in text
    assert "worst ratio 1 (scores)" in text
    assert norms(model.with_name("model.unfolded.onnx")) == 11
    assert cli("unfold", model, "--data", DATA).err.startswith("error[NS-E402]: ")
    assert cli("unfold", model, "--data", DATA, "--force").status == 0


def test_json_and_selection(cli: Run, model: Path) -> None:
    options = ("--sites", "all", "--skip", "node_Conv_1[67]*", "--keep-weights")
    outcome = cli("unfold", model, "-d", DATA, "--json", *options)
    found = json.loads(outcome.out)
    assert found["verb"] == "unfold"
    assert found["parity"]["ok"] is True
    assert [one["node"] for one in found["report"]["unfolded"]] == [
        *("node_Conv_180", "node_Conv_182", "node_Conv_184", "node_Conv_186", "node_linear")
    ]
    assert {one["slug"] for one in found["report"]["left"]} == {"not-selected"}
    assert {one["weight_factor"] for one in found["report"]["unfolded"]} == {1.0}


def test_dry_run_writes_nothing(cli: Run, model: Path) -> None:
    outcome = cli("unfold", model, "-d", DATA, "--dry-run")
    assert outcome.status == 0
    assert b"nothing written" in outcome.out
    assert list(model.parent.iterdir()) == [model]


def test_streams(cli: Run) -> None:
    outcome = cli("unfold", "-", "-d", DATA, stdin=MODEL.read_bytes())
    assert outcome.status == 0, outcome.err
    made = onnx.load_from_string(outcome.out)
    assert sum(node.op_type == "BatchNormalization" for node in made.graph.node) == 11


def test_pixels_are_standardised(cli: Run, model: Path) -> None:
    """Grey values 0…255 with a mean and a deviation of their own give the same statistics."""
    with np.load(SAMPLES / "digits.npz") as archive:
        images = archive["train_images"][:8]
    np.savez(model.with_name("stored.npz"), images=(images * 4 + 2).astype(np.float32))
    options = ("--mean", "2", "--std", "4", "--json", "-n")
    stored = cli("unfold", model, "-d", model.with_name("stored.npz"), *options)
    plain = cli("unfold", model, "-d", DATA, "--limit", 8, "--json", "-n")
    for one, other in zip(
        json.loads(stored.out)["report"]["unfolded"],
        json.loads(plain.out)["report"]["unfolded"],
        strict=True,
    ):
        assert one["mean"] == pytest.approx(other["mean"], rel=1e-5)


@pytest.mark.usefixtures("wrong_mean")
def test_failed_parity_leaves_no_output(cli: Run, model: Path) -> None:
    outcome = cli("unfold", model, "-d", DATA)
    assert outcome.status == 1
    assert outcome.err.startswith("error[NS-E100]: ")
    assert list(model.parent.iterdir()) == [model]


@pytest.fixture
def wrong_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug: the new norms' means are off by a thousandth."""
    from dataclasses import replace

    from normsurgery.unfolding import api

    right = api.identity

    def wrong(*arguments: object) -> object:
        norm = right(*arguments)  # type: ignore[arg-type]
        assert norm is not None
        return replace(norm, mean=norm.mean * 1.001)

    monkeypatch.setattr(api, "identity", wrong)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("-d", "nowhere.npz"), 4, "nowhere.npz"),
        (("-d", DATA, "--only", "nothing"), 2, "no layer to put a norm behind"),
        (("-d", DATA, "--array", "image"), 2, "INPUT=NAME"),
        (("-d", DATA, "-o", "-", "--json"), 2, "standard output"),
        ((), 2, "--data"),
    ],
)
def test_bad_calls(
    cli: Run, model: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    outcome = cli("unfold", model, *arguments)
    assert outcome.status == status
    assert outcome.err.count("\n") == 1
    assert text in outcome.err
    assert list(model.parent.iterdir()) == [model]

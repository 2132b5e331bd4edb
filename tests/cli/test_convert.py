"""``normsurgery convert`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from cli.terminal import on_a_terminal

if TYPE_CHECKING:
    from cli.conftest import Run

SAMPLES = Path(__file__).parents[2] / "sample_models"
RESNET = SAMPLES / "digits_resnet.onnx"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def accuracy(path: Path) -> float:
    import onnxruntime as ort

    data = np.load(SAMPLES / "digits.npz")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": data["test_images"]})
    return float((np.asarray(scores).argmax(1) == data["test_labels"]).mean())


@pytest.mark.parametrize("to", ["group", "layer", "affine"])
def test_a_real_model_keeps_its_accuracy(cli: Run, output: Path, to: str) -> None:
    outcome = cli("convert", RESNET, "--to", to, "-o", output)
    assert outcome.status == 0, outcome.err
    assert "11 converted, 0 kept" in outcome.out.decode()
    assert "BatchNormalization" not in operators(output)
    assert accuracy(output) >= 0.98 * accuracy(RESNET)


def test_json_and_the_default_output(cli: Run, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(RESNET.read_bytes())
    outcome = cli("convert", model, "--json", "--channels-per-group", "16", "--skip", "first")
    found = json.loads(outcome.out)
    assert found["output"].endswith("net.converted.onnx")
    assert len(found["report"]["converted"]) == 10
    assert found["report"]["left"][0]["reason"] == "skipped by 'first'"
    assert operators(tmp_path / "net.converted.onnx").count("BatchNormalization") == 1


def test_a_dry_run_writes_the_plan_alone_and_the_plan_does_the_same(
    cli: Run, tmp_path: Path
) -> None:
    plan, output = tmp_path / "plan.json", tmp_path / "out.onnx"
    said = cli("convert", RESNET, "-o", output, "--dry-run", "--write-plan", plan)
    assert said.status == 0, said.err
    assert {p.name for p in tmp_path.iterdir()} == {"plan.json"}
    assert cli("convert", RESNET, "-o", output, "--plan", plan).status == 0
    direct = tmp_path / "direct.onnx"
    assert cli("convert", RESNET, "-o", direct).status == 0
    assert output.read_bytes() == direct.read_bytes()
    both = cli("convert", RESNET, "-o", tmp_path / "both.onnx", "--plan", plan, "--to", "group")
    assert both.status == 2
    assert "the plan decides `to` of each norm: leave out --to, or the plan" in both.err
    assert len(both.err.strip().splitlines()) == 1
    assert not (tmp_path / "both.onnx").exists()


def test_a_model_that_was_converted_already(cli: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    assert cli("convert", RESNET, "-o", output).status == 0
    again = cli("convert", output, "--dry-run")
    assert again.status == 0
    assert b"already converted (normsurgery.history: convert): " in again.out
    assert b"`--to batch --data DATA` takes its norms back" in again.out
    assert b"unfold" not in again.out
    found = json.loads(cli("convert", output, "--dry-run", "--json").out)
    assert found["report"]["note"].startswith("already converted")


def test_a_frozen_map_is_proved_and_what_changes_is_not(cli: Run, tmp_path: Path) -> None:
    frozen = cli("convert", RESNET, "--to", "affine", "-o", tmp_path / "a.onnx").out.decode()
    assert "parity: ok" in frozen
    assert "drift" not in frozen
    skipped = cli("convert", RESNET, "-t", "affine", "--no-validate", "-o", tmp_path / "b.onnx")
    assert "parity: not run (--no-validate)" in skipped.out.decode()
    changed = cli("convert", RESNET, "-o", tmp_path / "c.onnx").out.decode()
    assert "parity" not in changed
    assert "drift: not measured" in changed


def test_a_model_that_was_folded_is_pointed_to_unfold(cli: Run, tmp_path: Path) -> None:
    folded = SAMPLES / "digits_resnet_folded.onnx"
    outcome = cli("convert", folded, "-o", tmp_path / "out.onnx", "--no-validate")
    assert outcome.status == 0
    assert "normsurgery unfold" in outcome.out.decode()


def test_a_plan_is_replaced_by_force_alone(cli: Run, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("mine")
    arguments = ("convert", RESNET, "--dry-run", "--write-plan", plan)
    assert cli(*arguments).status == 4
    assert plan.read_text() == "mine"
    assert cli(*arguments, "--force").status == 0
    assert json.loads(plan.read_text())["convert"]


def test_streams(cli: Run, tmp_path: Path) -> None:
    outcome = cli("convert", "-", stdin=RESNET.read_bytes())
    assert outcome.status == 0, outcome.err
    path = tmp_path / "stream.onnx"
    path.write_bytes(outcome.out)
    assert "InstanceNormalization" in operators(path)


def test_data_choose_and_the_page_shows_the_drift(cli: Run, tmp_path: Path) -> None:
    page, output = tmp_path / "report.html", tmp_path / "out.onnx"
    data = f"{SAMPLES / 'digits.npz'}:test"
    arguments = ("--data", data, "--limit", "40", "--groups", "auto", "--html", page, "--cost")
    outcome = cli("convert", RESNET, "-o", output, *arguments)
    assert outcome.status == 0, outcome.err
    text = outcome.out.decode()
    assert "drift over 40 samples" in text
    assert "accuracy" in text
    assert "(chosen)" in text
    assert "ms a run" in text
    shown = page.read_text(encoding="utf-8")
    assert shown.startswith("<!doctype html>")
    assert "Drift through the depth" in shown
    assert "http" not in shown.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    again = cli("convert", RESNET, "-o", tmp_path / "b.onnx", "--html", page)
    assert again.status == 4
    assert page.read_text(encoding="utf-8") == shown
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--groups", "2", "--channels-per-group", "2"], 2),
        (["--to", "batchy"], 2),
        (["--only", "nothing*"], 2),
        (["--groups", "some"], 2),
        (["--groups", "1" * 5000], 2),
        (["--write-plan", "-"], 2),
        (["--gauge", "best"], 2),
        (["--data", "missing.npz"], 4),
        (["--plan", "missing.json"], 4),
        (["--epsilon", "nan"], 2),
        (["--epsilon", "1e300"], 2),
        (["--html", "out.onnx"], 2),
        (["--write-plan", "out.onnx"], 2),
        (["--write-plan", "report", "--html", "report"], 2),
        (["--write-plan", str(RESNET), "--force"], 2),
        (
            [
                "--write-plan",
                str(SAMPLES / "digits.npz"),
                "--force",
                "--data",
                f"{SAMPLES / 'digits.npz'}:test",
            ],
            2,
        ),
    ],
)
def test_bad_calls_are_one_line_and_leave_nothing(
    cli: Run, output: Path, arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(output.parent)
    outcome = cli("convert", RESNET, "-o", output, *arguments)
    assert outcome.status == status
    assert outcome.err.startswith("error[NS-E")
    assert outcome.err.count("\n") == 1
    assert not list(output.parent.iterdir())


def test_back_to_batch_normalization(cli: Run, output: Path, tmp_path: Path) -> None:
    assert cli("convert", RESNET, "--to", "instance", "-o", output).status == 0
    back = tmp_path / "back.onnx"
    missing = cli("convert", output, "--to", "batch", "-o", back)
    assert missing.status == 2
    assert "--data" in missing.err
    assert not back.exists()
    data = ("--data", f"{SAMPLES / 'digits.npz'}:test", "--limit", "150")
    outcome = cli("convert", output, "--to", "batch", *data, "-o", back)
    assert outcome.status == 0, outcome.err
    text = outcome.out.decode()
    assert "11 converted, 0 kept" in text
    assert "of a channel's variance" in text
    assert "drift over 150 samples" in text
    assert operators(back).count("BatchNormalization") == 11
    assert "InstanceNormalization" not in operators(back)
    assert accuracy(back) > 0.98 > accuracy(output)


def test_distillation_without_labels(cli: Run, output: Path, tmp_path: Path) -> None:
    images = tmp_path / "images.npz"
    np.savez(images, image=np.load(SAMPLES / "digits.npz")["train_images"][:128])
    options = ("--gauge", "whiten", "--channels-per-group", "8", "--data", images)
    outcome = cli("convert", RESNET, *options, "--distill", "30", "--json", "-o", output)
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)["distilled"]
    assert found["best"] > 0
    assert found["after"] < found["before"]
    assert accuracy(output) >= 0.98 * accuracy(RESNET)
    outcome = cli("convert", RESNET, *options, "--distill", "2", "--force", "-o", output)
    assert "distilled" in outcome.out.decode()


def test_distillation_needs_data(cli: Run, output: Path) -> None:
    outcome = cli("convert", RESNET, "--distill", "30", "-o", output)
    assert outcome.status == 2
    assert "--distill needs --data" in outcome.err
    assert not output.exists()


def test_distillation_needs_torch(cli: Run, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import normsurgery.pytorch

    monkeypatch.setattr(normsurgery.pytorch, "find_spec", lambda name: None)
    data = SAMPLES / "digits.npz"
    outcome = cli("convert", RESNET, "-d", f"{data}:train", "--distill", "3", "-o", output)
    assert outcome.status == 6
    assert "normsurgery[torch]" in outcome.err
    assert not output.exists()


def test_progress_is_on_a_terminal_only() -> None:
    data = ("--data", f"{SAMPLES / 'digits.npz'}:test", "--limit", "16")
    out, shown = on_a_terminal("convert", str(RESNET), *data, "--dry-run")
    assert b"convert" in shown
    assert b"drift over 16 samples" in out
    assert b"trying" not in out

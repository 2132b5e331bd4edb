"""``normsurgery fold --fix`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from adain.networks import ARITHMETIC, adain

if TYPE_CHECKING:
    from cli.conftest import Run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    single = adain(ARITHMETIC)
    for tensor in single.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for info in (*single.graph.input, *single.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    np.save(tmp_path / "style.npy", np.random.default_rng(1).normal(0, 1, (1, 2, 5, 5)))
    onnx.save(single, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_style_is_baked_and_proved(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "--fix", f"style={model.parent / 'style.npy'}")
    assert outcome.status == 0, outcome.err
    assert b"fixed inputs: style" in outcome.out
    assert b"parity: ok" in outcome.out
    baked = onnx.load(model.with_name("model.folded.onnx"))
    assert [n.op_type for n in baked.graph.node] == ["Conv", "InstanceNormalization", "Relu"]
    assert [i.name for i in baked.graph.input] == ["content"]


def test_json_names_what_was_fixed(cli: Run, model: Path) -> None:
    outcome = cli("fold", model, "--json", "--fix", f"style={model.parent / 'style.npy'}")
    found = json.loads(outcome.out)
    assert found["report"]["fixed"] == ["style"]
    assert len(found["report"]["restored"]) == 1
    assert found["parity"]["ok"] is True


def test_an_input_named_twice(cli: Run, model: Path) -> None:
    given = ["--fix", f"style={model.parent / 'style.npy'}"]
    outcome = cli("fold", model, *given, *given)
    assert outcome.status == 2
    assert "twice" in outcome.err


def test_inspect_lists_it(cli: Run, model: Path) -> None:
    outcome = cli("inspect", model)
    assert outcome.status == 0
    assert b"AdaIN" in outcome.out
    assert b"0 normalizations and 1 taken apart" in outcome.out


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        ("style", 2, "--fix takes INPUT=FILE"),
        ("=style.npy", 2, "--fix takes INPUT=FILE"),
        ("styl=style.npy", 2, "no input 'styl'"),
        ("style=none.npy", 4, "cannot read"),
        ("style=model.onnx", 2, "no .npy or .npz"),
        ("content=style.npy", 2, "the value to fix is [1, 2, 5, 5]"),
    ],
)
def test_bad_values_are_one_line(
    cli: Run, model: Path, monkeypatch: pytest.MonkeyPatch, given: str, status: int, message: str
) -> None:
    monkeypatch.chdir(model.parent)
    outcome = cli("fold", model, "--fix", given)
    assert outcome.status == status
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not model.with_name("model.folded.onnx").exists()

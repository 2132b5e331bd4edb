"""``normsurgery export`` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.conftest import Run

SOURCE = """
import torch
from torch import nn

print("noise on standard output")

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())

ready = net().eval()

def raises():
    raise ValueError("no\\nnet today")

def number():
    return 3

def leaves():
    raise SystemExit(5)

def without_statistics():
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "their_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("their_nets", None)


def written(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix not in {".py", ".pt", ".safetensors"}} - {
        "__pycache__"
    }


def call(cli: Run, *rest: object, factory: str = "their_nets:net", shape: str = "1x3x8x8"):  # type: ignore[no-untyped-def]
    return cli("export", factory, "--input", f"x={shape}", "--exporter", "legacy", *rest)


def test_default_output_is_named_after_the_factory(cli: Run, folder: Path) -> None:
    outcome = call(cli, "--dynamic", "batch")
    assert outcome.status == 0, outcome.err
    assert written(folder) == {"net.onnx"}
    text = outcome.out.decode()
    assert "their_nets:net: 1 BatchNormalization; opset 17, legacy exporter" in text
    assert "was in training mode; exported in evaluation mode" in text
    assert "parity: ok, PyTorch" in text
    assert "noise" not in text
    model = onnx.load(folder / "net.onnx")
    assert model.graph.input[0].name == "x"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_dynamo_is_the_default(cli: Run, folder: Path) -> None:
    outcome = cli(
        "export", "their_nets:ready", "-i", "x=1x3x8x8", "--norms", "fold", "-o", "a.onnx"
    )
    assert outcome.status == 0, outcome.err
    assert b"dynamo exporter" in outcome.out
    assert b"training mode" not in outcome.out
    assert [n.op_type for n in onnx.load(folder / "a.onnx").graph.node] == ["Conv", "Relu"]


def test_json(cli: Run, folder: Path) -> None:
    found = json.loads(call(cli, "--json").out)
    assert found["verb"] == "export"
    assert found["report"]["norms"] == {"BatchNormalization": 1}
    assert found["parity"]["ok"] is True


def test_stream(cli: Run, folder: Path) -> None:
    outcome = call(cli, "-o", "-")
    assert outcome.status == 0
    assert len(onnx.load_from_string(outcome.out).graph.node) == 3
    assert "parity: ok" in outcome.err
    assert written(folder) == set()


def test_dry_run(cli: Run, folder: Path) -> None:
    outcome = call(cli, "--dry-run")
    assert outcome.status == 0
    assert b"nothing written" in outcome.out
    assert written(folder) == set()


def test_free_axes_by_input(cli: Run, folder: Path) -> None:
    assert call(cli, "--dynamic", "x:0=n,2=height,3=width").status == 0
    dims = onnx.load(folder / "net.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["n", 3, "height", "width"]


def test_failed_parity_leaves_no_output(
    cli: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plant a bug: the truth has another epsilon."""
    from normsurgery.pytorch import running

    right = running.in_double

    def wrong(module: nn.Module) -> nn.Module:
        made = right(module)
        next(m for m in made.modules() if isinstance(m, nn.BatchNorm2d)).eps = 1e-3
        return made

    monkeypatch.setattr(running, "in_double", wrong)
    outcome = call(cli)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith("error[NS-E100]: parity: FAILED")
    assert written(folder) == set()
    outcome = call(cli, "--keep")
    assert outcome.status == 1
    assert written(folder) == {"net.onnx"}
    assert call(cli, "--no-validate", "--force").status == 0


def test_existing_output_needs_force(cli: Run, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"precious")
    assert call(cli).status == 4
    assert (folder / "net.onnx").read_bytes() == b"precious"
    assert call(cli, "--force").status == 0


def state(folder: Path) -> dict[str, torch.Tensor]:
    made = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).state_dict()
    return {name: torch.full_like(value, 2) for name, value in made.items()}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "nested.pt"])
def test_weights(cli: Run, folder: Path, name: str) -> None:
    tensors = state(folder)
    if name == "w.safetensors":
        save_file(tensors, folder / name)
    else:
        torch.save(tensors if name == "w.pt" else {"state_dict": tensors, "epoch": 3}, name)
    assert call(cli, "--weights", name).status == 0
    stored = {t.name: t for t in onnx.load(folder / "net.onnx").graph.initializer}
    assert onnx.numpy_helper.to_array(stored["1.running_var"]).tolist() == [2.0] * 4


class Payload:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("pwned"),))


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ("code", 5, "holds more than tensors"),
        ("missing", 2, "1 tensors are missing, '1.bias' first"),
        ("strange", 2, "1 are of no parameter, 'extra' first"),
        ("shape", 2, "'1.bias' has shape (5,), the module's is (4,)"),
        ("garbage", 3, "is no file of weights"),
        ("list", 3, "holds a list, not a state dict"),
        ("absent", 4, "no such file of weights"),
    ],
)
def test_weights_that_do_not_fit(
    cli: Run, folder: Path, change: str, status: int, words: str
) -> None:
    tensors: object = state(folder)
    assert isinstance(tensors, dict)
    if change == "missing":
        del tensors["1.bias"]
    elif change == "strange":
        tensors["extra"] = torch.zeros(1)
    elif change == "shape":
        tensors["1.bias"] = torch.zeros(5)
    elif change == "code":
        tensors["bomb"] = Payload()
    torch.save([1, 2] if change == "list" else tensors, "w.pt")
    if change == "garbage":
        (folder / "w.safetensors").write_bytes(b"no weights here")
    name = {"garbage": "w.safetensors", "absent": "none.pt"}.get(change, "w.pt")
    outcome = call(cli, "--weights", name)
    assert outcome.status == status
    assert words in outcome.err.splitlines()[-1]
    assert written(folder) == set()
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize(
    ("factory", "shape", "status", "words"),
    [
        ("their_nets", "1x3x8x8", 2, "names no factory"),
        ("no_such_nets:net", "1x3x8x8", 2, "no module 'no_such_nets' here or on PYTHONPATH"),
        ("their_nets:nothing", "1x3x8x8", 2, "has no attribute 'nothing'"),
        ("their_nets:raises", "1x3x8x8", 2, "their_nets:raises: ValueError: no"),
        ("their_nets:leaves", "1x3x8x8", 2, "SystemExit"),
        ("their_nets:number", "1x3x8x8", 2, "gives a int, not a torch.nn.Module"),
        ("their_nets:net", "1x4x8x8", 3, "does not run on its inputs"),
        ("their_nets:net", "0x3x8x8", 2, "has no elements"),
        ("their_nets:net", "1,3,8,8", 2, "is not understood"),
        ("their_nets:net", "1x3x8x8:float31", 2, "is not understood"),
        ("their_nets:without_statistics", "1x3x8x8", 3, "BatchNorm2d `0` has no running"),
    ],
)
def test_errors_are_one_line(
    cli: Run, folder: Path, factory: str, shape: str, status: int, words: str
) -> None:
    outcome = call(cli, factory=factory, shape=shape)
    assert outcome.status == status, outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error"))
    assert words in line
    assert outcome.err.splitlines()[-1] == line
    assert written(folder) == set()


def test_a_package_that_the_factory_needs(cli: Run, folder: Path) -> None:
    (folder / "their_nets.py").write_text("import no_such_package_anywhere\n")
    outcome = call(cli)
    assert outcome.status == 6
    assert "imports no_such_package_anywhere, which is not installed" in outcome.err


@pytest.mark.parametrize("text", ["x:0", "x:a=b", "0=batch", "x:0=2"])
def test_dynamic_that_is_not_understood(cli: Run, folder: Path, text: str) -> None:
    outcome = call(cli, "--dynamic", text)
    assert outcome.status == 2
    assert "is not understood" in outcome.err


def test_help_says_that_it_runs_code(cli: Run) -> None:
    assert b"RUNS ITS CODE" in cli("export", "--help").out

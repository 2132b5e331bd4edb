"""Broken input: one line, the documented status, no output, never a traceback."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from graphs import bn, parse, weights

if TYPE_CHECKING:
    from cli.conftest import Run

SAMPLES = Path(__file__).parents[2] / "sample_models"


def sample() -> bytes:
    return (SAMPLES / "digits_mlp.onnx").read_bytes()


def tiny(text: str, **tensors: object) -> bytes:
    return parse(text, **tensors).SerializeToString()


def cyclic() -> bytes:
    return tiny("g (float[4] x) => (float[4] y) { a = Add(x, b)\n b = Relu(a)\n y = Relu(b) }")


def dangling() -> bytes:
    return tiny("g (float[4] x) => (float[4] y) { y = Add(x, nowhere) }")


def twice() -> bytes:
    return tiny("g (float[4] x) => (float[4] y) { y = Relu(x)\n y = Abs(x) }")


def wrong_bn(**change: object) -> bytes:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
      c = Conv(x, W)
      y = BatchNormalization(c, scale, B, mean, var)
    }"""
    parameters = {**bn(4, dtype=np.float32), **change}
    return tiny(text, W=weights(4, 3, 3, 3, dtype=np.float32), **parameters)


def lacking(node: str) -> bytes:
    """Return a model of which one node, on the way of the map, lacks an input or an output."""
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
      c = Conv(x, W)
      NODE
      y = BatchNormalization(d, scale, B, mean, var)
    }"""
    one = {"W": weights(4, 3, 3, 3, dtype=np.float32), **bn(4, dtype=np.float32)}
    return tiny(text.replace("NODE", node), **one)


def external(location: str) -> bytes:
    model = onnx.load_from_string(wrong_bn())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model.SerializeToString()


def wrong_size() -> bytes:
    model = onnx.load_from_string(sample())
    large = next(t for t in model.graph.initializer if len(t.raw_data) > 1 << 14)
    large.dims[0] += 1
    return model.SerializeToString()


CASES = {
    "truncated": (sample()[:-1000], 3, "NS-E301"),
    "empty": (b"", 3, "NS-E300"),
    "text": (b"import torch\nprint('hello')\n" * 100, 3, "NS-E30"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", 3, "NS-E30"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 3, "NS-E30"),
    "cyclic": (cyclic(), 3, "NS-E302"),
    "dangling": (dangling(), 3, "NS-E302"),
    "made twice": (twice(), 3, "NS-E302"),
    "wrong size": (wrong_size(), 3, "NS-E302"),
    "short scale": (wrong_bn(scale=np.ones(3, np.float32)), 3, "NS-E302"),
    "square mean": (wrong_bn(mean=np.ones((4, 4), np.float32)), 3, "NS-E302"),
    "integer var": (wrong_bn(var=np.ones(4, np.int64)), 3, "NS-E302"),
    "other channels": (wrong_bn(**bn(5, dtype=np.float32)), 3, "NS-E302"),
    "one operand": (lacking("d = Mul(c)"), 3, "NS-E302"),
    "no indices": (lacking("d = Gather<axis = 1>(c)"), 3, "NS-E302"),
    "no shape": (lacking("d = Expand(c)"), 3, "NS-E302"),
    "no position": (lacking("s = SplitToSequence(c)\n d = SequenceAt(s)"), 3, "NS-E302"),
    "no weight": (lacking('d = Conv(c, "")'), 3, "NS-E302"),
    "no output": (lacking("d = Relu(c)\n = Conv(d, W)"), 3, "NS-E302"),
    "missing data": (external("weights.bin"), 4, "NS-E401"),
    "data above": (external("../weights.bin"), 5, "NS-E500"),
    "absolute data": (external("/etc/hostname"), 5, "NS-E500"),
}


@pytest.mark.parametrize("verb", ["fold", "convert", "inspect"])
@pytest.mark.parametrize("name", CASES)
def test_one_line_and_the_right_status(cli: Run, tmp_path: Path, name: str, verb: str) -> None:
    data, status, code = CASES[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    outcome = cli(verb, path)
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith(f"error[{code}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["fold"], 2),
        (["fold", "--nonsense", "x"], 2),
        (["nonsense"], 2),
        (["fold", "/nowhere/model.onnx"], 4),
        (["fold", "/"], 4),
        (["inspect", "/dev/null"], 4),
    ],
)
def test_usage_and_missing_files(cli: Run, arguments: list[str], status: int) -> None:
    outcome = cli(*arguments)
    assert outcome.status == status
    assert outcome.err.startswith("error[NS-E")
    assert outcome.err.count("\n") == 1


def test_names_cannot_steer_the_terminal(cli: Run, tmp_path: Path) -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = Add(x, nowhere) }")
    model.graph.node[0].name = "\x1b[31mred\nline"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    outcome = cli("fold", path)
    assert "\x1b" not in outcome.err
    assert outcome.err.count("\n") == 1


def test_no_output_for_an_output_that_cannot_be(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(wrong_bn())
    for output, force in (
        (tmp_path, True),
        (tmp_path / "no" / "out.onnx", False),
        ("/dev/null", True),
    ):
        arguments = ["fold", path, "-o", output, *(["--force"] if force else [])]
        assert cli(*arguments).status == 4
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("verb", ["fold", "convert", "inspect"])
@pytest.mark.parametrize("name", CASES)
def test_standard_input_is_called_that(cli: Run, name: str, verb: str) -> None:
    data, status, code = CASES[name]
    outcome = cli(verb, "-", stdin=data)
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith(f"error[{code}")
    assert tempfile.gettempdir() not in outcome.err
    assert "stdin.onnx" not in outcome.err

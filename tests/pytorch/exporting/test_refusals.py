"""What is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch import nets
from pytorch.exporting.exports import EXPORTERS, Both
from torch import nn

import normsurgery.pytorch
from normsurgery.errors import ModuleError, UsageError
from normsurgery.pytorch import export


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_no_running_statistics(exporter: str) -> None:
    module = nets.Net(nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(ModuleError, match=r"BatchNorm2d `norm` has no running statistics"):
        export(module, torch.randn(2, 3, 6, 6), exporter=exporter)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_functional_batch_statistics(exporter: str) -> None:
    module = nets.Net(nets.BatchStatistics()).eval()
    with pytest.raises(ModuleError, match=r"batch at hand|exporter refuses the module"):
        export(module, torch.randn(2, 3, 6, 6), exporter=exporter)


class NeverEval(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> nn.BatchNorm2d:
        return super().train(True)


def test_a_module_that_stays_in_training_mode() -> None:
    with pytest.raises(ModuleError, match="NeverEval `norm` stays in training mode"):
        export(nets.Net(NeverEval(8)), torch.randn(2, 3, 6, 6))


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\nsecond line")


def test_a_module_that_does_not_run() -> None:
    with pytest.raises(ModuleError, match=r"does not run on its inputs: first line$"):
        export(Broken(), torch.randn(2, 3))


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_operator_that_the_exporter_lacks(exporter: str) -> None:
    with pytest.raises(ModuleError, match=f"torch's {exporter} exporter refuses the module") as e:
        export(Unexportable(), torch.randn(3, 3), exporter=exporter)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exporter": "onnx"}, "exporter='onnx' is unknown"),
        ({"norms": "drop"}, "norms='drop' is unknown"),
        ({"opset": 9}, "writes 18 to"),
        ({"opset": 22, "exporter": "legacy"}, "writes 11 to 20"),
        ({"dynamic": {"y": {0: "n"}}}, "no input 'y'"),
        ({"dynamic": {"x": {4: "n"}}}, "input 'x' has no axis 4"),
        ({"input_names": ["a", "b"]}, "1 inputs need as many different names"),
        ({"output_names": ["a", "b"]}, "1 outputs need as many different output_names"),
    ],
)
def test_usage(change: dict[str, Any], words: str) -> None:
    module, x, _ = nets.make("batch2d")
    with pytest.raises(UsageError, match=words):
        export(module, x, **change)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "at least one; got none"),
        ([3], "got int"),
        ({"image": torch.zeros(2, 3, 4, 6), "other": torch.zeros(2)}, "no parameter 'other'"),
        ({"index": torch.zeros(2).long()}, "takes 'image' before 'index'"),
    ],
)
def test_arguments(args: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(Both(), args)


def test_not_a_module() -> None:
    with pytest.raises(UsageError, match="a function is no torch"):
        export(lambda x: x, torch.zeros(1))  # type: ignore[arg-type]


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normsurgery.pytorch, "find_spec", lambda _: None)
    with pytest.raises(normsurgery.pytorch.MissingPackageError, match=r"normsurgery\[torch\]"):
        _ = normsurgery.pytorch.export


def test_torchscript_is_refused() -> None:
    with pytest.raises(ModuleError, match="pass the module that it was made from"):
        export(torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))), torch.randn(2, 3, 4, 4))


def test_nothing_is_printed_where_the_legacy_exporter_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It prints the graph from C++; in a pipe that would be part of the result."""
    with pytest.raises(ModuleError, match="rms_norm"):
        export(nn.RMSNorm(6), torch.randn(2, 6), exporter="legacy")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.Sequential(nn.LazyConv2d(4, 3)), "'0.weight' has no shape yet; call the module once"),
        (nn.Sequential(nn.BatchNorm2d(3, device="meta")), "'0.weight' is on the meta device"),
    ],
)
def test_tensors_without_numbers(module: nn.Module, what: str) -> None:
    for call in (export, normsurgery.pytorch.convert, normsurgery.pytorch.fold):
        with pytest.raises(ModuleError, match=what):
            call(module, args=torch.randn(2, 3, 4, 4))  # type: ignore[operator]


class ThreeArguments(nn.Module):
    def forward(self, a: torch.Tensor, b: Any = 1.0, c: Any = 2.0) -> torch.Tensor:
        return a * b + c


def test_an_argument_that_is_skipped_is_named() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(UsageError, match="forward takes 'b' before 'c': give that as well"):
        export(ThreeArguments(), {"a": x, "c": x})
    with pytest.raises(UsageError, match="forward takes 'a' before 'b': give that as well"):
        export(ThreeArguments(), {"b": x})

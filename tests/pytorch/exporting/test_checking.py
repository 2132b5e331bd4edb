"""Parity of an export with its source."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from pytorch import nets
from torch import nn

from normsurgery import runtime
from normsurgery.errors import ParityError
from normsurgery.pytorch import export
from normsurgery.pytorch.exporting import cleaning


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available", lambda: False)
    module, x, _ = nets.make("batch2d")
    result = export(module, x, exporter="legacy")
    assert result.parity is not None
    assert result.parity.ok
    assert "onnxruntime is not installed" in result.parity.runtime


class Stubborn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() * torch.tensor(1.5)


def test_a_module_that_will_not_run_in_double() -> None:
    result = export(Stubborn(), torch.randn(2, 3), exporter="legacy")
    assert result.parity is not None
    assert result.parity.ok
    assert "does not run in double" in result.parity.reason


class Specialised(nn.Module):
    """Takes the number of images it is traced with for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * int(x.shape[0])


@pytest.fixture
def wrong_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug: cleaning writes another epsilon into each BatchNormalization."""
    right = cleaning.clean

    def wrong(model: onnx.ModelProto, *rest: Any) -> Any:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 1e-3
        return right(model, *rest)

    monkeypatch.setattr(cleaning, "clean", wrong)


@pytest.mark.usefixtures("wrong_epsilon")
def test_a_wrong_graph_is_found() -> None:
    module, x, _ = nets.make("batch2d")
    with pytest.raises(ParityError, match="output: the error is"):
        export(module, x, exporter="legacy")
    result = export(module, x, exporter="legacy", keep=True)
    assert result.parity is not None
    assert not result.parity.ok


def test_a_batch_size_that_was_traced_as_a_constant_is_found() -> None:
    with pytest.raises(ParityError):
        export(Specialised(), torch.randn(2, 3), exporter="legacy", dynamic="batch")

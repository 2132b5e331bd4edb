"""The graph that is written: weights as they are stored, and none of the exporter's noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pytorch import nets
from pytorch.exporting.exports import EXPORTERS, operators, stored
from torch import nn

from normsurgery.pytorch import export


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_conv_without_bias_has_none(rank: int, exporter: str) -> None:
    """Dynamo computes one, of rank 2 for Conv3d, which onnxruntime refuses."""
    module, x, _ = nets.make(f"batch{rank}d")
    result = export(module, x, exporter=exporter)
    first, last = (n for n in result.model.graph.node if n.op_type == "Conv")
    assert list(first.input[1:]) == ["conv.weight"]
    assert list(last.input[1:]) == ["last.weight", "last.bias"]
    assert operators(result) == ["Conv", "BatchNormalization", "Relu", "Conv"]


def test_a_stored_bias_of_zeros_stays() -> None:
    module, x, _ = nets.make("batch2d")
    nn.init.zeros_(module.last.bias)
    assert "last.bias" in stored(export(module, x))


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 18), ("dynamo", 21), ("legacy", 17)])
def test_group_norm_is_portable(exporter: str, opset: int) -> None:
    """The native operator of opset 21 has no kernel on the CPU, and is off by 3e-2 there."""
    module, x, _ = nets.make("group")
    result = export(module, x, exporter=exporter, opset=opset, dynamic="batch")
    assert result.report.opset == opset
    wanted = ["Conv", "Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]
    assert operators(result) == [*wanted, "Relu", "Conv"]
    tensors = stored(result)
    assert tensors["norm.weight"].shape == tensors["norm.bias"].shape == (8, 1, 1)
    reshape = next(n for n in result.model.graph.node if n.op_type == "Reshape")
    np.testing.assert_array_equal(tensors[reshape.input[1]], [0, 4, -1])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_chunks_and_colons_are_short(exporter: str) -> None:
    """AdaIN's halves: no sequence, no bounds computed at every run, no slice of everything."""
    module, x, _ = nets.make("adain")
    found = operators(export(module, x, exporter=exporter, dynamic="batch"))
    cut = {"dynamo": ["Split"], "legacy": ["Slice", "Slice"]}[exporter]
    assert [kind for kind in found if kind in {"Split", "Slice"}] == cut
    rest = {"SplitToSequence", "SequenceAt", "Gather", "Shape", "Div"}
    assert not rest & {*found}


class Chunks(nn.Module):
    """Five channels in chunks of two, of which the last is shorter, taken from both ends."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second, last = x.split(2, 1)
        return first * 2, last, second + last


def test_uneven_chunks() -> None:
    result = export(Chunks(), torch.randn(3, 5), dynamic="batch")
    assert "Split" in operators(result)
    assert result.parity is not None
    assert result.parity.ok


@pytest.mark.parametrize("kind", [k for k in nets.KINDS if "norm" in k])
def test_baked_weights_are_rounded_once(kind: str) -> None:
    module, x, _ = nets.make(kind)
    result = export(module, x, exporter="legacy")
    assert result.report.baked == ["conv.weight"]
    exact: Any = nets.make(kind)[0].double()
    exact(x.double())  # the hooks of the first styles compute the weight in a forward
    expected = exact.conv.weight.detach().float().numpy()
    np.testing.assert_array_equal(stored(result)["conv.weight"], expected)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_tied_weights_and_equal_ones(exporter: str) -> None:
    """One tensor of two names is written once; fresh norms of equal content are written each."""
    module = nets.Tied().eval()
    result = export(module, torch.randn(1, 4, 5, 5), exporter=exporter)
    tensors = stored(result)
    assert "first.weight" in tensors
    assert "second.weight" not in tensors
    for norm in ("norm", "other"):
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert tensors[f"{norm}.{name}"].shape == (4,)

"""PyTorch's norms through both exporters: what is whole, and what was taken apart."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normsurgery

EPSILON = 1e-4


def exported(module: nn.Module, x: torch.Tensor, opset: int, path: Path) -> Path:
    """Export with a free batch: by the legacy exporter below opset 18."""
    file = path / "model.onnx"
    new = opset >= 18
    how: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
    if new:
        how = {"dynamic_shapes": ({0: torch.export.Dim("N")},), "external_data": False}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x,), file, opset_version=opset, dynamo=new, **how)
    return file


def drawn(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return module.to(dtype)


GROUP = ("GroupNormalization", 8, 2, (2, 8, 5, 6))
LAYER = ("LayerNormalization", 6, None, (2, 5, 6))
INSTANCE = ("InstanceNormalization", 8, None, (2, 8, 5, 6))
RMS = ("RMSNormalization", 6, None, (2, 5, 6))
MODULES: dict[str, Any] = {
    "GroupNormalization": lambda: nn.GroupNorm(2, 8, eps=EPSILON),
    "LayerNormalization": lambda: nn.LayerNorm(6, eps=EPSILON),
    "InstanceNormalization": lambda: nn.InstanceNorm2d(8, eps=EPSILON, affine=True),
    "RMSNormalization": lambda: nn.RMSNorm(6, eps=EPSILON),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(
    ("norm", "opset", "count"),  # of nodes in float32 and float16; 0: one operator
    [
        (GROUP, 11, (5, 5)), (GROUP, 13, (5, 5)), (GROUP, 18, (5, 5)), (GROUP, 23, (0, 0)),
        (LAYER, 11, (9, 11)), (LAYER, 13, (9, 11)), (LAYER, 17, (0, 0)), (LAYER, 23, (0, 0)),
        (INSTANCE, 11, (0, 0)), (INSTANCE, 23, (0, 0)),
        (RMS, 18, (7, 9)), (RMS, 23, (0, 0)),
    ],
)  # fmt: skip
def test_what_the_exporters_write(
    norm: Any, opset: int, count: tuple[int, int], dtype: torch.dtype, tmp_path: Path
) -> None:
    kind, channels, groups, shape = norm
    nodes = count[dtype == torch.float16]
    module = drawn(MODULES[kind](), dtype)
    found = normsurgery.inspect(exported(module, torch.randn(shape, dtype=dtype), opset, tmp_path))
    (one,) = found.norms
    assert one.op_type == (f"decomposed {kind}" if nodes else kind)
    assert (one.channels, one.num_groups) == (channels, groups)
    # float16 keeps epsilon in float32 beside it, but for the RMS norm's
    assert one.epsilon == pytest.approx(EPSILON, rel=1e-3)
    assert (found.whole, found.decomposed) == (int(not nodes), int(bool(nodes)))
    assert (one.parts.count if one.parts else 0) == nodes
    weight = dict(module.named_parameters())["weight"]
    assert one.scale is not None
    assert (one.scale.low, one.scale.high) == (weight.min().item(), weight.max().item())
    assert one.scale_constant
    assert one.bias_constant is (None if kind == "RMSNormalization" else True)
    bias = dict(module.named_parameters()).get("bias")
    if bias is not None:
        assert one.bias is not None
        assert (one.bias.low, one.bias.high) == (bias.min().item(), bias.max().item())
    if kind in {"LayerNormalization", "RMSNormalization"}:
        assert one.axes == (2,)


@pytest.mark.parametrize("opset", [11, 18])
def test_a_norm_over_channels_by_hand(opset: int, tmp_path: Path) -> None:
    """ConvNeXt's, along axis 1 of (N, C, H, W); the convolution behind takes scale and bias."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
            self.conv = nn.Conv2d(8, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(1, keepdim=True)
            var = (x - mean).pow(2).mean(1, keepdim=True)
            x = (x - mean) / torch.sqrt(var + EPSILON)
            return self.conv(self.w[:, None, None] * x + self.b[:, None, None])

    (one,) = normsurgery.inspect(exported(Net(), torch.randn(2, 8, 5, 6), opset, tmp_path)).norms
    assert (one.op_type, one.axes) == ("decomposed LayerNormalization", (1,))
    assert one.channels == 8
    assert one.outcome == "folds"
    assert one.detail.startswith("scale and bias: into Conv")


@pytest.mark.parametrize("opset", [11, 18])
def test_a_pooled_mean_and_an_l2_norm_are_none(opset: int, tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x - x.mean((2, 3), keepdim=True)
            return nn.functional.normalize(x, dim=1) + x / x.std(1, keepdim=True).clamp(min=1e-5)

    found = normsurgery.inspect(exported(Net(), torch.randn(2, 8, 5, 6), opset, tmp_path))
    assert found.norms == []

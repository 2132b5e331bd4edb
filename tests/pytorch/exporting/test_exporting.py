"""Every kind of norm through both exporters, and the module that comes back untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pytorch import nets
from pytorch.exporting.exports import EXPORTERS, Both, operators, stored
from torch import nn
from torch.nn.utils import parametrizations

import normsurgery.pytorch
from normsurgery import runtime
from normsurgery.pytorch import export

LINEAR = {"Conv", "BatchNormalization", "InstanceNormalization", "LayerNormalization"}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", nets.KINDS)
def test_kinds(kind: str, exporter: str) -> None:
    """One node a norm, weights by their names in the module, no computed weight, parity."""
    module, x, norms = nets.make(kind)
    result = export(module, x, exporter=exporter, dynamic="batch")
    assert result.report.norms == norms
    assert result.parity is not None
    assert result.parity.ok
    assert result.parity.reason == ""  # the module in double was the truth
    onnx.checker.check_model(result.model, full_check=True)
    tensors = stored(result)
    state = {
        name: value.numpy()
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
    plain = {name for name in state if "weight_" not in name and "parametrizations" not in name}
    if kind != "almost frozen":
        assert plain <= tensors.keys()
    for name in plain & tensors.keys():
        np.testing.assert_array_equal(tensors[name].ravel(), state[name].ravel())
    for node in result.model.graph.node:
        if node.op_type in LINEAR:
            assert all(name in tensors for name in node.input[1:]), node.op_type
    assert "Identity" not in operators(result)
    assert "CastLike" not in operators(result)
    assert b"stack_trace" not in result.model.SerializeToString()
    assert str(Path(__file__).parents[1]).encode() not in result.model.SerializeToString()
    (x_info,) = result.model.graph.input
    assert x_info.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [v.name for v in result.model.graph.output] == ["output"]


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in module.state_dict().items()},
        "modes": [m.training for m in module.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "wants": [p.requires_grad for p in module.parameters()],
        "hooks": [[list(m._forward_hooks), list(m._forward_pre_hooks)] for m in module.modules()],
        "classes": [type(m) for m in module.modules()],
        "random": torch.random.get_rng_state(),
    }


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", ["spectral norm", "weight norm", "weight norm, hook", "frozen"])
def test_the_module_is_not_changed(kind: str, exporter: str) -> None:
    module, x, _ = nets.make(kind)
    module.train()
    module.norm.eval()
    module.register_forward_hook(lambda *_: None)
    module(x).sum().backward()
    before = snapshot(module)
    export(module, x, exporter=exporter)
    after = snapshot(module)
    for key, value in before.items():
        if key == "state":
            assert value.keys() == after[key].keys()
            assert all(torch.equal(v, after[key][k]) for k, v in value.items())
        elif key == "grads":
            assert all(
                a is b is None or torch.equal(a, b) for a, b in zip(value, after[key], strict=True)
            )
        elif key == "random":
            assert torch.equal(value, after[key])
        else:
            assert value == after[key], key
    module(x).sum().backward()  # and still works: parametrizations are properties of the class


def test_training_mode_is_left_and_told() -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module.train(), x)
    assert result.report.was_training
    assert result.report.norms == nets.BN
    assert module.training


def test_fold() -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module, x, norms="fold", dynamic="batch")
    assert operators(result) == ["Conv", "Relu", "Conv"]
    assert result.report.folded is not None
    assert (result.report.folded.before, result.report.folded.after) == (1, 0)
    assert result.parity is not None
    assert result.parity.ok
    props = {p.key: p.value for p in result.model.metadata_props}
    assert props["normsurgery.verb"] == "export"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_several_inputs_and_outputs(exporter: str) -> None:
    args = {"index": torch.tensor([3, 4]), "image": torch.randn(2, 3, 4, 6)}
    free = {"image": {0: "batch", 2: "height"}, "index": {0: "batch"}}
    result = export(nets.stir(Both()), args, exporter=exporter, dynamic=free)
    graph = result.model.graph
    assert [v.name for v in graph.input] == ["image", "index"]
    assert [v.name for v in graph.output] == ["sum", "row"]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", 6]
    assert result.parity is not None
    assert "image (3, 3, 8, 6)" in result.parity.sets[1]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, exporter: str) -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module.to(dtype), x.to(dtype), exporter=exporter)
    assert result.parity is not None
    assert result.parity.ok
    assert stored(result)["norm.running_var"].dtype.name == str(dtype).split(".")[1]
    without_kernels = dtype is not torch.float16
    assert ("float64 evaluator" in result.parity.runtime) == without_kernels


def test_a_batch_of_one_can_be_dynamic() -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module, x[:1], dynamic="batch")
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_parametrized_copies_share_no_class_with_the_caller() -> None:
    """``remove_parametrizations`` on a copy would delete the property of the original's class."""
    module = nets.Net(nn.BatchNorm2d(8), conv=parametrizations.weight_norm(nets.conv()))
    export(module, torch.randn(2, 3, 6, 6), exporter="legacy", validate=False)
    assert module.conv.weight.shape == (8, 3, 3, 3)


class WritesIntoItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x.sub_(0.5).mul_(4.0))
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_that_writes_into_its_input(dtype: torch.dtype) -> None:
    """The caller's example stays as it is; module and graph are compared on the same numbers."""
    x = torch.randn(2, 3, 4, 4, dtype=dtype)
    before = x.clone()
    for exporter in EXPORTERS:
        parity = export(WritesIntoItsInput().to(dtype), x, exporter=exporter).parity
        assert parity is not None
        assert parity.ok
        assert torch.equal(x, before)
    normsurgery.pytorch.convert(WritesIntoItsInput().to(dtype), to="group", groups=1, args=x)
    assert torch.equal(x, before)


class PassesOn(nn.Module):
    """Returns its input, and one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.norm(x)
        return y, x, y


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_output_that_is_an_input_or_another_output(exporter: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 4)
    result = export(PassesOn(), x, exporter=exporter, output_names=["a", "b", "c"])
    onnx.checker.check_model(result.model, full_check=True)
    assert [value.name for value in result.model.graph.input] == ["x"]
    result.save(tmp_path / "model.onnx")
    found = runtime.run(runtime.session(tmp_path / "model.onnx"), {"x": x.numpy()})
    for name, wanted in zip("abc", PassesOn().eval()(x), strict=True):
        np.testing.assert_allclose(found[name], wanted.detach().numpy(), rtol=1e-6)

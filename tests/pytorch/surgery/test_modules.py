"""Converting and folding modules gives what converting and folding their exports gives."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch import nets
from pytorch.surgery.samples import NETS, images, kinds, network
from torch import nn

import normsurgery
from normsurgery.errors import UsageError
from normsurgery.pytorch import ModuleResult, convert, export, fold
from normsurgery.validation import parity

# The BatchNorms that a fold of the module leaves. RepVGG's four are identity branches, which the
# graph's fold merges into a Conv; the others stay there, too.
LEFT = {"DenseNet": 12, "RepVGG": 4, "Conv1d": 1, "torchvision DenseNet": 6}


def saved(result: Any, path: Path) -> Path:
    result.save(path)
    return path


@pytest.mark.parametrize(
    ("name", "to", "options"),
    [
        *((name, "group", {}) for name in NETS),
        ("ResNet", "group", {"channels_per_group": 8, "gauge": "fold", "epsilon": 1e-3}),
        ("MobileNet", "group", {"affine": "keep"}),
        ("UNet", "instance", {}),
        ("Conv1d", "instance", {}),
        ("ResNet", "layer", {"affine": "none"}),
        ("DenseNet", "affine", {}),
        ("Mlp", "affine", {}),
    ],
)
def test_two_front_doors(name: str, to: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Convert, then export, against export, then convert: one function, one error budget."""
    module, x = network(name), images(name)
    result = convert(module, to, args=x, **options)
    assert result.difference is not None
    assert result.difference < 1e-13
    first = export(result.module, x, exporter="legacy", dynamic="batch", validate=False)
    exported = export(module, x, exporter="legacy", dynamic="batch", validate=False)
    second = normsurgery.convert(exported.model, to, encoding="auto" if to == "affine" else
        "instance", **options)  # fmt: skip
    found = parity(
        saved(second, tmp_path / "graph.onnx"), saved(first, tmp_path / "module.onnx"),
        shapes={exported.model.graph.input[0].name: (2, *x.shape[1:])},
    )  # fmt: skip
    assert found.ok, found.line()
    assert len(result.report.converted) == len(second.report.converted)
    assert [d.epsilon for d in result.report.converted] == pytest.approx(
        [d.epsilon for d in second.report.converted]
    )


@pytest.mark.parametrize("name", NETS)
def test_fold(name: str, tmp_path: Path) -> None:
    module, x = network(name), images(name)
    result = fold(module, args=x)
    assert result.parity is not None
    assert result.parity.ok, result.parity.line()
    assert result.difference is not None
    assert result.difference < 1e-13
    assert kinds(result.module, nn.BatchNorm1d, nn.BatchNorm2d) == LEFT.get(name, 0)
    assert result.report.after == len(result.report.kept) == LEFT.get(name, 0)
    before = export(module, x, exporter="legacy", validate=False)
    after = export(result.module, x, exporter="legacy", validate=False)
    found = parity(saved(before, tmp_path / "a.onnx"), saved(after, tmp_path / "b.onnx"))
    assert found.ok, found.line()


def test_folded_coefficients_are_rounded_once() -> None:
    """W' = W·γ/√(v + ε) and b' = β − m·γ/√(v + ε), in float64, then float32."""
    module, x, _ = nets.make("batch2d")
    bn, conv = module.norm, module.conv
    folded: Any = fold(module, args=x).module
    gamma, beta, mean, var = (
        v.detach().double() for v in (bn.weight, bn.bias, bn.running_mean, bn.running_var)
    )
    a = gamma / torch.sqrt(var + float(np.float32(bn.eps)))
    weight = (conv.weight.detach().double() * a.reshape(-1, 1, 1, 1)).float()
    assert torch.equal(folded.conv.weight, weight)
    assert torch.equal(folded.conv.bias, (beta - mean * a).float())
    assert isinstance(folded.norm, nn.Identity)


def test_start_of_a_converted_norm() -> None:
    """Whiten, one group: γ' = γ·√(1 + ε), and k keeps the norm of the weights (DESIGN §3)."""
    module, x, _ = nets.make("batch2d")
    made: Any = convert(module, args=x, gauge="whiten", epsilon=1.0).module
    k = made.norm.eps**0.5  # ε = k²·1
    torch.testing.assert_close(made.conv.weight.norm(), module.conv.weight.norm())
    sigma = torch.sqrt(module.norm.running_var + module.norm.eps)
    torch.testing.assert_close(
        made.conv.weight, k * module.conv.weight / sigma.reshape(-1, 1, 1, 1)
    )
    r = module.norm.running_var / sigma**2
    torch.testing.assert_close(
        made.norm.weight, module.norm.weight * torch.sqrt(r.mean() + 1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(made.norm.bias, module.norm.bias)


def check_untouched(module: nn.Module, make: Any) -> ModuleResult:
    module.train()
    module(torch.randn(4, 3, 6, 6)).sum().backward()
    state = copy.deepcopy(module.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    result: ModuleResult = make(module)
    after = module.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[k], after[k]) for k in state)
    assert module.training
    assert all(
        torch.equal(a, b.grad)
        for a, b in zip(grads, module.parameters(), strict=True)
        if a is not None and b.grad is not None
    )
    assert result.module.training
    assert all(m.training for m in result.module.modules())
    assert all(p.grad is None for p in result.module.parameters())
    return result


def test_the_caller_keeps_his_module_and_gets_one_to_train() -> None:
    module, x, _ = nets.make("batch2d")
    made = check_untouched(module, lambda m: convert(m, args=x)).module
    made(torch.randn(2, 3, 6, 6)).sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    other = convert(nets.make("batch2d")[0], args=x).module
    other.load_state_dict(made.state_dict())
    check_untouched(module, lambda m: fold(m, args=x))


def test_one_image_at_a_time_trains() -> None:
    """The reason for all this: no statistic of a batch is left."""
    made = convert(network("ResNet"), args=images("ResNet")).module.train()
    x = images("ResNet")
    torch.testing.assert_close(made(x)[:1], made(x[:1]))


@pytest.mark.parametrize("name", ["ResNet", "UNet", "Mlp", "Conv1d", "ResNet-18"])
def test_an_input_can_be_guessed(name: str) -> None:
    result = convert(network(name), validate=False)
    assert len(result.report.converted) > 0
    assert result.difference is None


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


def test_an_input_that_cannot_be_guessed() -> None:
    with pytest.raises(UsageError, match="no input for Two could be guessed: pass args="):
        convert(Two())


def test_selection_and_plan_by_module_names() -> None:
    module, x = network("ResNet-18"), images("ResNet-18")
    result = convert(module, args=x, skip=["bn1", "layer4.*"], least=4, channels_per_group=8)
    made: Any = result.module
    assert isinstance(made.bn1, nn.BatchNorm2d)
    assert isinstance(made.layer4[0].downsample[1], nn.BatchNorm2d)
    assert made.layer3[0].bn1.num_groups == 4
    again = convert(module, args=x, plan=result.plan)
    for mine, theirs in zip(made.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_back_to_batch_norm_needs_a_graph() -> None:
    with pytest.raises(UsageError, match="convert its export"):
        convert(network("Mlp"), "batch")


@pytest.mark.parametrize("function", [convert, fold])
def test_not_a_module(function: Any) -> None:
    with pytest.raises(UsageError, match="a str is no torch"):
        function("model.onnx")


def test_float16() -> None:
    module, x, _ = nets.make("batch2d")
    made: Any = convert(module.half(), args=x.half()).module
    assert made.norm.weight.dtype is made.conv.weight.dtype is torch.float16


def test_data_choose_what_is_auto(tmp_path: Path) -> None:
    """As in a file: gauge and groups by agreement with the original on some images."""
    module = network("ResNet")
    x = torch.cat([images("ResNet")] * 3).numpy()
    np.savez(tmp_path / "images.npz", input=x)
    result = convert(module, args=images("ResNet"), groups="auto", data=tmp_path / "images.npz")
    assert result.report.choices
    assert result.report.drift is not None
    assert kinds(result.module, nn.GroupNorm) == 11

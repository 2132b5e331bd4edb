"""Where a norm and its weights lie in a module, and what lies so that it stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch import nets
from torch import nn
from torch.nn.utils import parametrizations

from normsurgery.errors import ModuleError
from normsurgery.pytorch import convert, fold
from normsurgery.pytorch.norms import ChannelAffine, FrozenBatchNorm


@pytest.mark.parametrize(
    ("kind", "to", "wanted"),
    [
        ("batch1d", "instance", nn.InstanceNorm1d),
        ("batch2d", "instance", nn.InstanceNorm2d),
        ("batch3d", "instance", nn.InstanceNorm3d),
        ("sync", "instance", nn.InstanceNorm2d),
        ("batch3d", "group", nn.GroupNorm),
        ("batch without affine", "group", nn.GroupNorm),
        ("instance, running", "group", nn.GroupNorm),
        ("frozen, hidden epsilon", "group", nn.GroupNorm),
        ("frozen", "affine", ChannelAffine),
    ],
)
def test_kinds(kind: str, to: str, wanted: type) -> None:
    module, x, _ = nets.make(kind)
    result = convert(module, to, args=x)
    made: Any = result.module
    assert type(made.norm) is wanted
    assert made.norm.weight.shape == made.norm.bias.shape == (8,)
    assert made.norm.weight.requires_grad
    assert result.report.converted[0].node == "norm"


class Timm(nn.BatchNorm2d):
    """The names and the order of timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.LeakyReLU(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
        return self.act(self.drop(x))


class Swapped(Timm):
    """Looks like it, but activates first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.BatchNorm2d.forward(self, self.act(x))


def test_the_activation_of_a_norm_stays() -> None:
    module = nets.stir(nets.Net(Timm(8)))
    made: Any = convert(module, args=torch.randn(2, 3, 6, 6)).module
    assert [type(m) for m in made.norm] == [nn.GroupNorm, nn.LeakyReLU]
    folded: Any = fold(module, args=torch.randn(2, 3, 6, 6)).module
    assert isinstance(folded.norm, nn.LeakyReLU)


def test_a_norm_that_does_more_is_refused() -> None:
    module, x = nets.stir(nets.Net(Swapped(8))), torch.randn(2, 3, 6, 6)
    with pytest.raises(ModuleError, match="Swapped `norm` does more than a BatchNorm"):
        convert(module, args=x)
    (kept,) = fold(module, args=x).report.kept
    assert "does more than a BatchNorm" in kept.reason


class Functional(nn.Module):
    """F.batch_norm with stored statistics that are no BatchNorm's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(x, self.mean, self.var)


def test_a_functional_norm_is_refused_by_name() -> None:
    module, x = nets.Net(Functional()).eval(), torch.randn(2, 3, 6, 6)
    with pytest.raises(ModuleError, match=r"is a functional F\.batch_norm.*or skip it"):
        convert(module, args=x)
    (kept,) = fold(module, args=x).report.kept
    assert "functional F.batch_norm" in kept.reason


class Shared(nn.Module):
    """One conv, or one norm, called twice."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.n, self.m = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        if what == "conv":
            self.b = self.a
        elif what == "norm":
            self.m = self.n
        elif what == "weight":
            self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.m(self.b(torch.relu(self.n(self.a(x)))))


@pytest.mark.parametrize("what", ["conv", "weight"])
def test_a_weight_of_two_readers_keeps_the_map_in_front(what: str) -> None:
    module, x = nets.stir(Shared(what)), torch.randn(2, 4, 6, 6)
    result = convert(module, args=x)
    made: Any = result.module
    assert [type(m) for m in made.n] == [FrozenBatchNorm, nn.GroupNorm]
    assert "is read in several places" in result.report.converted[0].note or any(
        "is read in several places" in layer.note for layer in result.plan
    )
    assert torch.equal(made.a.weight, module.a.weight)
    kept = fold(module, args=x).report.kept
    assert [k.slug for k in kept] == ["module", "module"]


def test_a_norm_that_is_called_twice() -> None:
    module, x = nets.stir(Shared("norm")), torch.randn(2, 4, 6, 6)
    with pytest.raises(ModuleError, match="BatchNorm2d `n` is called more than once"):
        convert(module, args=x)
    assert len(fold(module, args=x).report.kept) == 2


def test_a_parametrized_weight_stays_parametrized() -> None:
    module = nets.stir(
        nets.Net(nn.BatchNorm2d(8), conv=parametrizations.spectral_norm(nets.conv()))
    )
    made: Any = convert(module, args=torch.randn(2, 3, 6, 6)).module
    assert "parametrizations.weight.original" in made.conv.state_dict()
    assert [type(m) for m in made.norm] == [FrozenBatchNorm, nn.GroupNorm]


class Auxiliary(nets.Net):
    """A head for training alone, as Inception and GoogLeNet have."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(8))
        self.aux = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return self.last(self.aux(x) if self.training else x)


def test_what_evaluation_does_not_reach_is_told() -> None:
    result = convert(nets.stir(Auxiliary()), args=torch.randn(2, 3, 6, 6))
    assert result.unreached == ["aux"]
    assert isinstance(result.module.aux, nn.BatchNorm2d)

"""A module that was changed wrongly is found."""

from __future__ import annotations

import pytest
import torch
from pytorch import nets
from torch import nn

from normsurgery.errors import ParityError
from normsurgery.payloads import Computed
from normsurgery.pytorch import convert, fold
from normsurgery.pytorch.surgery import places


def test_a_change_that_is_carried_back_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug: what goes into a module is off by a ten-thousandth."""
    right = places.Places.carry_out

    def wrong(self: places.Places, change: places.Change) -> None:
        assert change.values is not None
        right(self, places.Change(change.node, change.slot, change.values * 1.0001))

    monkeypatch.setattr(places.Places, "carry_out", wrong)
    module, x, _ = nets.make("batch2d")
    with pytest.raises(ParityError, match="apart in float64"):
        convert(module, args=x)
    with pytest.raises(ParityError, match="apart in float64"):
        fold(module, args=x)


def test_wrong_algebra_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug in the graph and in the module alike: every folded weight is off."""
    right = Computed.scaled
    monkeypatch.setattr(Computed, "scaled", lambda self, factor: right(self, factor * 1.0001))
    module, x, _ = nets.make("batch2d")
    with pytest.raises(ParityError, match="the folded module is another one"):
        fold(module, args=x)


class Hard(nets.Net):
    """HardSigmoid's slope is 1/6 here, and the float32 next to it in a graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * nn.functional.hardsigmoid(x.mean())


def test_attributes_of_float32_are_no_difference() -> None:
    module, x = nets.stir(Hard(nn.BatchNorm2d(8))), torch.randn(2, 3, 6, 6)
    result = convert(module, args=x)
    assert result.difference is not None
    assert 1e-9 < result.difference < 1e-7

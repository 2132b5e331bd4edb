"""What tests of carriers are made of: a map on either side of something that it has to cross."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphs import bn, ops, parse, weights
from onnx import ModelProto

import normsurgery
from normsurgery import models
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Limits
from normsurgery.folding import table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Site
from normsurgery.graph import Graph


def dims(rank: int) -> str:
    return ", ".join("NMPQRS"[:rank])


def backwards(
    between: str,
    *,
    channels: int = 4,
    shift: bool = True,
    sign: bool = True,
    rank: int = 4,
    x: str = "N, 3, 6, 6",
    W: tuple[int, ...] = (4, 3, 1, 1),
    inputs: str = "",
    outputs: str = "",
    opset: int = 21,
    **tensors: Any,
) -> ModelProto:
    """Conv makes ``c``; ``between`` makes ``d`` of it, over ``channels``; a BN reads that."""
    return parse(
        f"""g (double[{x}] x{inputs}) => (double[{dims(rank)}] y{outputs}) {{
          c = Conv(x, W)
          {between}
          y = BatchNormalization(d, scale, B, mean, var)
        }}""",
        opset=opset,
        W=weights(*W),
        **bn(channels, shift=shift, sign=sign),
        **tensors,
    )


def forwards(
    between: str,
    last: str = "y = Conv(d, V)",
    *,
    V: tuple[int, ...] = (5, 4, 1, 1),
    channels: int = 4,
    shift: bool = True,
    sign: bool = True,
    rank: int = 4,
    x: str = "N, 4, 6, 6",
    inputs: str = "",
    outputs: str = "",
    opset: int = 21,
    **tensors: Any,
) -> ModelProto:
    """A BN behind a Sigmoid makes ``b``; ``between`` makes ``d`` of it, which ``last`` reads."""
    return parse(
        f"""g (double[{x}] x{inputs}) => (double[{dims(rank)}] y{outputs}) {{
          u = Sigmoid(x)
          b = BatchNormalization(u, scale, B, mean, var)
          {between}
          {last}
        }}""",
        opset=opset,
        V=weights(*V),
        **bn(channels, shift=shift, sign=sign),
        **tensors,
    )


def assert_stays(model: ModelProto) -> None:
    """Assert that nothing folds."""
    result = normsurgery.fold(model)
    assert not result.report.folded
    assert ops(result.model) == ops(model)


def slug_of(
    model: ModelProto,
    op_type: str,
    *,
    forwards: bool = True,
    axis: int = 1,
    affine: ChannelAffine | None = None,
    slot: int = 0,
) -> str | None:
    """Return why ``op_type`` does not take a map by its own rules; None if it does."""
    scope = Graph(models.take(model)[0]).main
    node = next(n for n in scope.nodes if n.op_type == op_type)
    source = next(n for n in scope.nodes if n.op_type == "BatchNormalization")
    found = table.load().sources["BatchNormalization"](scope, source, Limits())
    assert found is not None
    assert not isinstance(found, Obstacle)
    value = node.input[slot] if forwards else node.output[0]
    site = Site(scope, source, node, value, affine or found.affine, axis, Limits(), forwards)
    tables = table.load()
    sinks = tables.forward_sinks if forwards else tables.sinks
    step = sinks[op_type](site) if op_type in sinks else None
    step = tables.carriers[op_type](site) if step is None and op_type in tables.carriers else step
    return step.reason if isinstance(step, Obstacle) else None


def ints(*values: int) -> Any:
    """Return a list of integers as an initializer."""
    return np.array(values, np.int64)

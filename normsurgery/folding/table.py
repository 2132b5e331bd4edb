"""The three tables of the calculus, and what their entries take and return.

An entry is one function, marked ``@source``, ``@carrier`` or ``@sink`` with the operators that it
is for, in any module of ``folding/sources``, ``folding/carriers`` or ``folding/sinks``. It is
registered by being there: ``load`` imports every module of the three folders.

A **source** says what affine map a node is. A map then walks backwards, from the source's input
to what makes it, or forwards, to what reads its output. A **sink** says how a node absorbs a map
that acts on its output (backwards) or on its input (forwards), as edits of its constants; None
leaves the node to its carrier. A **carrier** says what a map becomes on the other side of a node.
Each returns an Obstacle where a condition fails, and changes nothing: edits are applied once the
whole path is known to work.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.affine import ChannelAffine
    from normsurgery.constants import Limits
    from normsurgery.dtypes import Float64
    from normsurgery.folding.obstacles import Obstacle
    from normsurgery.graph import Scope
    from normsurgery.payloads import Computed


@dataclass(frozen=True)
class Source:
    """An affine map found in a graph: ``output = affine(value)`` on one axis of ``value``.

    sure: the value is known to have the map's channels, so that the node does not widen it.
    reset: for a node that does more than the map: the edits after which it does not do the map.
    It stays then, and the map can only go forwards.
    """

    node: NodeProto
    slot: int
    affine: ChannelAffine
    axis: int = 1
    sure: bool = True
    reset: tuple[Edit, ...] = ()

    @property
    def value(self) -> str:
        """Name of the input that the map acts on."""
        return self.node.input[self.slot]


@dataclass(frozen=True)
class Site:
    """A map that waits at ``node``, to be absorbed or carried on.

    Backwards it acts on the node's output ``value``, forwards on its input ``value``; in both
    cases on axis ``axis`` of it.
    """

    scope: Scope
    source: NodeProto
    node: NodeProto
    value: str
    affine: ChannelAffine
    axis: int
    limits: Limits
    forwards: bool = False

    @property
    def slot(self) -> int:
        """The input that the map acts on, forwards."""
        return list(self.node.input).index(self.value)

    def through(
        self, affine: ChannelAffine | None = None, axis: int | None = None, slot: int = 0
    ) -> Carried:
        """Return the map on the other side: of input ``slot`` backwards, the output forwards."""
        other = self.node.output[0] if self.forwards else self.node.input[slot]
        affine = self.affine if affine is None else affine
        return Carried((), ((other, affine, self.axis if axis is None else axis),))


@dataclass(frozen=True)
class Dequantize:
    """The DequantizeLinear that an edit's integers go through, scales along ``axis``."""

    scale: Computed
    zero_point: Computed | None
    axis: int


@dataclass(frozen=True)
class Edit:
    """Give input ``slot`` of ``node`` the constant ``tensor``, named after ``wanted``.

    drop: attributes whose default holds afterwards; set_ints: attributes to set.
    beside: what is added to the sum of products with these coefficients, aligned with the tensor's
    factors; terms: how many products that sum has. They tell whether what underflows matters.
    dequantize: for integers, what makes numbers of them.
    product: each element of the tensor is multiplied with a value of its own, as a scale is.
    """

    node: NodeProto
    slot: int
    tensor: Computed
    wanted: str
    drop: tuple[str, ...] = ()
    set_ints: dict[str, int] = field(default_factory=dict)
    beside: Float64 | None = field(default=None, compare=False)
    terms: int = 1
    dequantize: Dequantize | None = None
    product: bool = False


@dataclass(frozen=True)
class Carried:
    """What a carrier makes of a map: edits of its own, and the maps on the other side of it.

    onward: (value, map, axis) each. instead: other ways, if this one meets an obstacle.
    """

    edits: tuple[Edit, ...]
    onward: tuple[tuple[str, ChannelAffine, int], ...]
    instead: tuple[Carried, ...] = ()


SourceFunction = Callable[["Scope", "NodeProto", "Limits"], "Source | Obstacle | None"]
SinkFunction = Callable[[Site], "tuple[Edit, ...] | Carried | Obstacle | None"]
CarrierFunction = Callable[[Site], "Carried | Obstacle"]


@dataclass(frozen=True)
class Tables:
    """Entries by operator type; sinks by direction."""

    sources: dict[str, SourceFunction] = field(default_factory=dict)
    carriers: dict[str, CarrierFunction] = field(default_factory=dict)
    sinks: dict[str, SinkFunction] = field(default_factory=dict)
    forward_sinks: dict[str, SinkFunction] = field(default_factory=dict)


FOLDERS = ("sources", "carriers", "sinks")
_TABLES = Tables()
F = TypeVar("F")


def source(*op_types: str) -> Callable[[SourceFunction], SourceFunction]:
    """Register a function that recognises operators of these types as affine maps."""
    return lambda function: _add(_TABLES.sources, op_types, function)


def carrier(*op_types: str) -> Callable[[CarrierFunction], CarrierFunction]:
    """Register a function that moves a map across an operator, backwards and forwards."""
    return lambda function: _add(_TABLES.carriers, op_types, function)


def sink(*op_types: str) -> Callable[[SinkFunction], SinkFunction]:
    """Register a function that absorbs a map on an operator's output."""
    return lambda function: _add(_TABLES.sinks, op_types, function)


def forward_sink(*op_types: str) -> Callable[[SinkFunction], SinkFunction]:
    """Register a function that absorbs a map on an operator's input."""
    return lambda function: _add(_TABLES.forward_sinks, op_types, function)


def _add(table: dict[str, F], op_types: tuple[str, ...], function: F) -> F:
    for op_type in op_types:
        if op_type in table:
            raise ValueError(f"two entries for {op_type}")
        table[op_type] = function
    return function


@cache
def load() -> Tables:
    """Import every module of the three folders and return the tables."""
    for folder in FOLDERS:
        package = importlib.import_module(f"normsurgery.folding.{folder}")
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    return _TABLES

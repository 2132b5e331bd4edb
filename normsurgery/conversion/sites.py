"""Where norms stand in a graph: BatchNormalization, and those that an exporter took apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, edits, shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.conversion.merged import NO_STATISTICS, merged
from normsurgery.conversion.start import BatchNorm
from normsurgery.errors import GraphError
from normsurgery.folding import obstacles, table
from normsurgery.folding.elementwise import WithConstant, with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.plan import refuse_foreign
from normsurgery.folding.sources.batch_normalization import epsilon, parameters
from normsurgery.folding.table import Source
from normsurgery.nodes import label
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Graph, Scope

TAKEN_APART = (({"Sub", "Add"}), ({"Div", "Mul"}), ({"Mul", "Div"}), ({"Add", "Sub"}))


@dataclass(frozen=True)
class Site:
    """An inference-mode BatchNormalization, as one node or taken apart into four.

    node: the one, or the last of the four. value: what it normalizes. bn: its constants.
    dims: of ``value``; elem_type: its type. vector_type: that of the constants.
    """

    scope: Scope
    node: NodeProto
    value: str
    bn: BatchNorm
    dims: shapes.Dims
    elem_type: int
    vector_type: int

    @property
    def output(self) -> str:
        """The value that the norm makes."""
        return self.node.output[0]

    @property
    def name(self) -> str:
        """The node's name, or its output's where it has none."""
        return self.node.name or self.output

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.bn.channels

    @property
    def positions(self) -> int | None:
        """Number of positions of a channel in one sample; None if it is not fixed."""
        sizes = [size for size in self.dims[2:] if size is not None]
        return int(np.prod(sizes)) if len(sizes) == len(self.dims[2:]) else None


@dataclass(frozen=True)
class NoSite:
    """A BatchNormalization that cannot be converted, and why."""

    node: NodeProto
    obstacle: Obstacle

    @property
    def kind(self) -> str:
        """The operator, or those of a merged one."""
        return "Mul, Add" if self.obstacle.reason == NO_STATISTICS else self.node.op_type


def find(graph: Graph, limits: Limits) -> Iterator[Site | NoSite]:
    """Yield what can be converted, and each BatchNormalization that cannot, in graph order.

    A merged one, whose statistics are gone, is one that cannot.

    Raises ``GraphError`` for a BatchNormalization that is none.
    """
    for scope in graph.scopes:
        for node in scope.live():
            if node.op_type == "BatchNormalization" and scope.is_onnx(node):
                yield _whole(scope, node, limits)
            elif node.op_type in TAKEN_APART[-1] and scope.is_onnx(node):
                found = _taken_apart(scope, node, limits)
                if found is not None:
                    yield found
                    continue
                obstacle = merged(scope, node, limits)
                if obstacle is not None:
                    yield NoSite(node, obstacle)


def as_one_node(site: Site) -> None:
    """Make a norm that was taken apart one BatchNormalization: the last of its nodes."""
    node, scope, bn = site.node, site.scope, site.bn
    if node.op_type == "BatchNormalization":
        return
    for slot in range(len(node.input)):
        edits.set_input(scope, node, slot, site.value if slot == 0 else "")
    del node.input[1:], node.attribute[:]
    node.op_type = "BatchNormalization"
    vectors = (bn.scale, bn.B, bn.mean, bn.var)
    for slot, (what, values) in enumerate(
        zip(("scale", "bias", "mean", "var"), vectors, strict=True), start=1
    ):
        constant = Computed(values, (), site.vector_type)
        edits.set_constant(scope, node, slot, f"{site.name}.{what}", constant)
    node.attribute.add(name="epsilon", type=1, f=bn.epsilon)


def _whole(scope: Scope, node: NodeProto, limits: Limits) -> Site | NoSite:
    found = refuse_foreign(scope, node) or parameters(scope, node, limits)
    if isinstance(found, Obstacle):
        return NoSite(node, found)
    bn = BatchNorm(*found, epsilon(node))
    bad = ChannelAffine.of_batch_norm(*found, bn.epsilon).bad_channel()
    if bad is None and not np.isfinite(bn.var).all():  # a = 0 then, but no norm starts from there
        bad = int(np.argmin(np.isfinite(bn.var)))
    if bad is not None:
        return NoSite(node, obstacles.not_finite(node, bad))
    scale = constant_of(scope, node.input[1], limits)
    elem_type = scale.elem_type if isinstance(scale, Constant) else dtypes.FLOAT
    return _site(scope, node, node.input[0], bn, elem_type)


def _taken_apart(scope: Scope, node: NodeProto, limits: Limits) -> Site | NoSite | None:
    """Recognise ``((x − mean)/σ)·scale + B``, each a node of its own, per channel on axis 1.

    The statistics are those of the first two steps: shift, then scale. A chain in which a scale
    has been multiplied into 1/σ, or that lacks a step, does not tell them, and is no norm; nor is
    one whose value, but for the last, is read elsewhere.
    """
    steps: list[tuple[NodeProto, WithConstant]] = []
    here = node
    for kinds in reversed(TAKEN_APART):
        if here.op_type not in kinds or refuse_foreign(scope, here) is not None:
            return None
        found = with_constant(scope, here, limits)
        if isinstance(found, Obstacle) or found.along_one_axis() is None:
            return None
        steps.insert(0, (here, found))
        value = here.input[found.slot]
        if len(steps) < len(TAKEN_APART):
            maker = scope.producer.get(value)
            if maker is None or not scope.only_reader(value):
                return None
            here = maker
    maps = [table.load().sources[n.op_type](scope, n, limits) for n, _ in steps]
    sources = [m for m in maps if isinstance(m, Source)]
    channels = max((s.affine.channels for s in sources), default=0)
    if len(sources) < len(steps) or any(
        not s.affine.uniform and (s.axis != 1 or s.affine.channels != channels) for s in sources
    ):
        return None
    shift, over, scale, B = (s.affine.of(channels) for s in sources)
    if shift is None or over is None or scale is None or B is None:
        return None
    if np.any(shift.a != 1) or np.any(over.a <= 0) or np.any(B.a != 1):  # c − x, or no deviation
        return None
    bn = BatchNorm(scale.a, B.b, -shift.b, 1 / over.a**2, 0.0)
    if channels < 2 or not all(np.isfinite(v).all() for v in (bn.scale, bn.B, bn.mean, bn.var)):
        return None
    return _site(scope, node, value, bn, steps[0][1].constant.elem_type)


def _site(
    scope: Scope, node: NodeProto, value: str, bn: BatchNorm, vector_type: int
) -> Site | NoSite:
    if not bn.channels:
        return NoSite(node, obstacles.no_channel(node, "it has no channels"))
    dims = shapes.dims(scope, value)
    if dims is None:
        dims = shapes.dims(scope, node.output[0])
    if dims is None or len(dims) < 2:
        return NoSite(node, obstacles.unknown_rank(value))
    if dims[1] is not None and dims[1] != bn.channels:
        raise GraphError(f"{label(node)} has {bn.channels} channels, `{value}` has {dims[1]}")
    elem_type = shapes.elem_type(scope, value) or vector_type
    return Site(scope, node, value, bn, dims, elem_type, vector_type)

"""Find for each affine map a complete path to where it is absorbed.

A map walks from its source over carriers until sinks have taken all of it. Nothing is edited
before the whole path is known to work; where there is none, the first obstacle is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from normsurgery import shapes
from normsurgery.folding import obstacles, quantized, representable, table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Carried, Site, Source

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.affine import ChannelAffine
    from normsurgery.constants import Limits
    from normsurgery.folding.table import Edit
    from normsurgery.graph import Scope

MOST_STEPS = 10_000  # of one path, alternatives included

Waiting = tuple[str, "ChannelAffine", int]


@dataclass(frozen=True)
class Plan:
    """How to fold one source.

    edits: of the nodes that absorb it. forwards: whether those read its output.
    left: the shift that stays in the source's place as an Add, if any.
    """

    source: Source
    edits: tuple[Edit, ...]
    forwards: bool
    left: ChannelAffine | None = None


def plan(scope: Scope, source: Source, limits: Limits) -> Plan | Obstacle:
    """Return the cheapest way to fold ``source``, or the first obstacle.

    In this order: all of it backwards; all of it forwards; its scale backwards, with its shift
    left as an Add, where that is cheaper than the source was.
    """
    if source.reset:
        found = _path(scope, source, limits, forwards=True)
        return found if isinstance(found, Obstacle) else Plan(source, found, forwards=True)
    backwards = _path(scope, source, limits, forwards=False)
    if not isinstance(backwards, Obstacle):
        return Plan(source, backwards, forwards=False)
    forwards = _path(scope, source, limits, forwards=True)
    if not isinstance(forwards, Obstacle):
        return Plan(source, forwards, forwards=True)
    if backwards.reason == "no-bias" and _add_is_cheaper(scope, source):
        scale = replace(source, affine=source.affine.scale_only())
        edits = _path(scope, scale, limits, forwards=False)
        if not isinstance(edits, Obstacle):
            return Plan(source, edits, forwards=False, left=source.affine.shift_only())
    return replace(backwards, text=f"{backwards.text}; forwards, {forwards.text}")


def _add_is_cheaper(scope: Scope, source: Source) -> bool:
    """Whether an Add of the shift in the source's place would be a gain.

    It is behind a matrix product, (N, C): runtimes make one Gemm of the two. An Add over positions
    is none: onnxruntime 1.32 runs it in 1.0 to 1.4 times the time of a BatchNormalization (the
    smaller the image, the slower), so a BN whose shift has to stay is left whole.
    """
    both = source.affine.scales and source.affine.shifts
    return both and shapes.rank(scope, source.value) == 2


def _path(
    scope: Scope, source: Source, limits: Limits, *, forwards: bool
) -> tuple[Edit, ...] | Obstacle:
    """Return the edits that absorb the whole map of ``source`` one way, or the first obstacle."""
    if forwards and not source.sure:
        return obstacles.unknown_shape(source.node, source.value)
    walk = _Walk(scope, source, limits, forwards)
    start = source.node.output[0] if forwards else source.value
    edits = walk.from_here([(start, source.affine, source.axis)], ())
    if isinstance(edits, Obstacle):
        return edits
    return representable.check(edits) or edits


class _Walk:
    """One walk through the graph; what it holds does not change but for the steps it may take."""

    def __init__(self, scope: Scope, source: Source, limits: Limits, forwards: bool) -> None:
        self.scope, self.source, self.limits, self.forwards = scope, source, limits, forwards
        self.tables = table.load()
        self.steps = 0

    def from_here(
        self, waiting: list[Waiting], edits: tuple[Edit, ...]
    ) -> tuple[Edit, ...] | Obstacle:
        """Return all edits once every waiting map is absorbed; try alternatives in turn."""
        while waiting:
            value, affine, axis = waiting.pop()
            nodes = self._nodes(value)
            if isinstance(nodes, Obstacle):
                return nodes
            for position, node in enumerate(nodes):
                self.steps += 1
                if self.steps > MOST_STEPS:
                    return obstacles.too_long(self.source.node)
                step = self._step(
                    Site(
                        self.scope,
                        self.source.node,
                        node,
                        value,
                        affine,
                        axis,
                        self.limits,
                        self.forwards,
                    )
                )
                if isinstance(step, Obstacle):
                    return step
                if step.instead and position == len(nodes) - 1:
                    return self._any_of((step, *step.instead), waiting, edits)
                clash = _clash(edits, step.edits)
                if clash is not None:
                    return clash
                edits += step.edits
                waiting += step.onward
        return edits

    def _any_of(
        self, ways: tuple[Carried, ...], waiting: list[Waiting], edits: tuple[Edit, ...]
    ) -> tuple[Edit, ...] | Obstacle:
        first: Obstacle | None = None
        for way in ways:
            clash = _clash(edits, way.edits)
            found = clash or self.from_here([*waiting, *way.onward], edits + way.edits)
            if not isinstance(found, Obstacle):
                return found
            first = first or found
        assert first is not None  # noqa: S101  there is at least one way
        return first

    def _nodes(self, value: str) -> list[NodeProto] | Obstacle:
        """Return the nodes that have to take a map on ``value``."""
        if value in self.scope.outputs or value in self.scope.pinned:
            return obstacles.graph_output(value)
        readers = self.scope.value_readers(value)
        if self.forwards:
            return self._readers(value, readers)
        node = self.scope.producer.get(value)
        if node is None:
            return obstacles.graph_input(value)
        if len(readers) != 1:
            return obstacles.fan_out(value, len(readers))
        return refuse_foreign(self.scope, node) or [node]

    def _readers(self, value: str, readers: list[NodeProto]) -> list[NodeProto] | Obstacle:
        if not readers:
            return obstacles.fan_out(value, 0)
        for node in readers:
            if value not in node.input:
                return obstacles.read_in_body(node)
            if list(node.input).count(value) > 1:
                return obstacles.reached_twice(node)
            refused = refuse_foreign(self.scope, node)
            if refused is not None:
                return refused
        return readers

    def _step(self, site: Site) -> Carried | Obstacle:
        op_type = site.node.op_type
        sinks = self.tables.forward_sinks if self.forwards else self.tables.sinks
        if op_type in sinks:
            absorbed = sinks[op_type](site)
            if absorbed is not None:
                return Carried(absorbed, ()) if isinstance(absorbed, tuple) else absorbed
        if op_type in self.tables.carriers:
            return self.tables.carriers[op_type](site)
        return quantized.refuse(site.node) or obstacles.not_linear(site.node)


def _clash(edits: tuple[Edit, ...], more: tuple[Edit, ...]) -> Obstacle | None:
    """Return the obstacle of a constant that two parts of one map would change."""
    taken = {(id(edit.node), edit.slot) for edit in edits}
    twice = next((edit for edit in more if (id(edit.node), edit.slot) in taken), None)
    return None if twice is None else obstacles.reached_twice(twice.node)


def refuse_foreign(scope: Scope, node: NodeProto) -> Obstacle | None:
    """Return the obstacle of a node whose meaning is not the ONNX spec's, with fixed attributes."""
    if not scope.is_onnx(node):
        return obstacles.custom_operator(node)
    if any(a.ref_attr_name for a in node.attribute):
        return obstacles.attribute_reference(node)
    return None

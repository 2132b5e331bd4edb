"""Find for each affine map a complete path to where it is absorbed, then apply it.

A map walks backwards from its source over carriers until sinks have taken all of it. Nothing is
edited before the whole path is known to work; where it does not, the first obstacle is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx import AttributeProto, NodeProto

from normsurgery import shapes
from normsurgery.folding import obstacles, representable, table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import along, bias_name, derived
from normsurgery.nodes import remove_attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.constants import Limits
    from normsurgery.folding.table import Edit, Site, Source
    from normsurgery.graph import Scope


@dataclass(frozen=True)
class Applied:
    """What happened to a source: the nodes that took its map, and the tensors made for it.

    shift_left: the map's shift stayed behind as an Add.
    """

    into: tuple[NodeProto, ...]
    tensors: tuple[str, ...]
    shift_left: bool


def fold_source(scope: Scope, source: Source, limits: Limits) -> Applied | Obstacle:
    """Fold one source backwards, or return the first obstacle and change nothing."""
    shift_left = False
    edits = path(scope, source, limits)
    if isinstance(edits, Obstacle) and edits.reason == "no-bias" and source.affine.scales:
        only_scale = replace(source, affine=source.affine.scale_only())
        edits = path(scope, only_scale, limits)
        shift_left = True
    if isinstance(edits, Obstacle):
        return edits
    into = tuple({id(e.node): e.node for e in edits}.values())
    shift = _shift_constant(scope, source, edits[-1].tensor.elem_type) if shift_left else None
    if isinstance(shift, Obstacle):
        return shift
    tensors = [_apply(scope, edit) for edit in edits]
    if shift is None:
        scope.bypass(source.node, source.slot)
    else:
        tensors.append(_become_add(scope, source, *shift))
    return Applied(into, tuple(tensors), shift_left)


def path(scope: Scope, source: Source, limits: Limits) -> list[Edit] | Obstacle:
    """Return the edits that absorb the whole map of ``source``, or the first obstacle."""
    tables = table.load()
    edits: list[Edit] = []
    waiting = [(source.value, source.affine, 1)]
    while waiting:
        value, affine, axis = waiting.pop()
        node = _only_maker(scope, value)
        if isinstance(node, Obstacle):
            return node
        site = table.Site(scope, source.node, node, value, affine, axis, limits)
        step = _step(tables, site)
        if isinstance(step, Obstacle):
            return step
        edits += step.edits
        waiting += step.onward
    return representable.check(edits) or edits


def _step(tables: table.Tables, site: Site) -> table.Carried | Obstacle:
    op_type = site.node.op_type
    if op_type in tables.sinks:
        absorbed = tables.sinks[op_type](site)
        return absorbed if isinstance(absorbed, Obstacle) else table.Carried(absorbed, ())
    if op_type in tables.carriers:
        return tables.carriers[op_type](site)
    return obstacles.not_linear(site.node)


def _only_maker(scope: Scope, value: str) -> NodeProto | Obstacle:
    """Return the node that makes ``value`` for one reader alone, and may be changed."""
    node = scope.producer.get(value)
    if node is None:
        return obstacles.graph_input(value)
    if value in scope.outputs or value in scope.pinned:
        return obstacles.graph_output(value)
    readers = len(scope.value_readers(value))
    if readers != 1:
        return obstacles.fan_out(value, readers)
    return refuse_foreign(scope, node) or node


def refuse_foreign(scope: Scope, node: NodeProto) -> Obstacle | None:
    """Return the obstacle of a node whose meaning is not the ONNX spec's, with fixed attributes."""
    if not scope.is_onnx(node):
        return obstacles.custom_operator(node)
    if any(a.ref_attr_name for a in node.attribute):
        return obstacles.attribute_reference(node)
    return None


def _apply(scope: Scope, edit: Edit) -> str:
    """Carry out one edit; return the name of the tensor that it made."""
    for name in edit.drop:
        remove_attribute(edit.node, name)
    for name, number in edit.set_ints.items():
        remove_attribute(edit.node, name)
        edit.node.attribute.add(name=name, type=AttributeProto.INT, i=number)
    old = edit.node.input[edit.slot] if edit.slot < len(edit.node.input) else ""
    if scope.replace_computed(old, edit.tensor):
        return old
    name = scope.add_constant(edit.wanted, edit.tensor)
    scope.set_input(edit.node, edit.slot, name)
    return name


def _shift_constant(
    scope: Scope, source: Source, elem_type: int
) -> tuple[Computed, dict[str, int]] | Obstacle:
    """Return the constant of the Add that takes the source's place, and its attributes."""
    b = source.affine.b
    if scope.opset < 7:  # Add broadcast by attribute then
        return Computed(b, (), elem_type), {"broadcast": 1, "axis": 1}
    rank = shapes.rank(scope, source.value)
    if rank is None:
        return obstacles.unknown_rank(source.value)
    return Computed(along(b, 1, rank), (), elem_type), {}


def _become_add(
    scope: Scope, source: Source, constant: Computed, attributes: dict[str, int]
) -> str:
    """Turn the source's node into the Add of its shift; return the constant's name."""
    node = source.node
    wanted = derived(bias_name(node.name or node.output[0]))
    name = scope.add_constant(wanted, constant)
    for slot in range(len(node.input)):
        if slot != source.slot:
            scope.set_input(node, slot, "")
    value = source.value
    del node.input[:], node.attribute[:], node.output[1:]
    node.input.extend([value, ""])
    node.op_type = "Add"
    for key, number in attributes.items():
        node.attribute.add(name=key, type=AttributeProto.INT, i=number)
    scope.set_input(node, 1, name)
    return name

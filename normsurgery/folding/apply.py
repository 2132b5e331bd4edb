"""Carry out a plan: give nodes their new constants and take the source out of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import AttributeProto, NodeProto, helper

from normsurgery import edits, shapes
from normsurgery.folding import obstacles, representable
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import along, bias_name, derived
from normsurgery.folding.table import Edit
from normsurgery.nodes import remove_attribute
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.folding.plan import Plan
    from normsurgery.graph import Scope


@dataclass(frozen=True)
class Applied:
    """What happened to a source: the nodes that took its map, and the tensors made for it.

    shift_left: the map's shift stayed behind as an Add.
    """

    into: tuple[NodeProto, ...]
    tensors: tuple[str, ...]
    shift_left: bool


def apply(scope: Scope, plan: Plan) -> Applied | Obstacle:
    """Carry out ``plan``; an obstacle, and nothing changed, if its shift cannot be left behind."""
    into = tuple({id(e.node): e.node for e in plan.edits}.values())
    left = _shift_constant(scope, plan)
    if isinstance(left, Obstacle):
        return left
    tensors = [_edit(scope, edit) for edit in plan.edits]
    source = plan.source
    if left is not None:
        tensors.append(_become_add(scope, source.node, source.slot, left))
    elif source.reset:
        for edit in source.reset:
            _edit(scope, edit)
    elif plan.forwards:
        edits.skip(scope, source.node, source.slot)
    else:
        edits.bypass(scope, source.node, source.slot)
    return Applied(into, tuple(tensors), left is not None)


def _edit(scope: Scope, edit: Edit) -> str:
    """Carry out one edit; return the name of the tensor that it made."""
    for name in edit.drop:
        remove_attribute(edit.node, name)
    for name, number in edit.set_ints.items():
        remove_attribute(edit.node, name)
        edit.node.attribute.add(name=name, type=AttributeProto.INT, i=number)
    if edit.dequantize is None:
        return edits.set_constant(scope, edit.node, edit.slot, edit.wanted, edit.tensor)
    stem = edit.wanted.removesuffix("_folded")
    how = edit.dequantize
    names = [
        edits.add_constant(scope, f"{stem}_quantized_folded", edit.tensor),
        edits.add_constant(scope, f"{stem}_scale_folded", how.scale),
    ]
    if how.zero_point is not None:
        names.append(edits.add_constant(scope, f"{stem}_zero_point_folded", how.zero_point))
    made = scope.graph.unique_name(edit.wanted)
    node = helper.make_node("DequantizeLinear", names, [made], name=made, axis=how.axis)
    edits.insert_first(scope, node)
    edits.set_input(scope, edit.node, edit.slot, made)
    return names[0]


def _shift_constant(scope: Scope, plan: Plan) -> Edit | Obstacle | None:
    """Return the constant of the Add that takes the source's place, if a shift is left."""
    if plan.left is None:
        return None
    node, b = plan.source.node, plan.left.b
    last = plan.edits[-1]
    elem_type = (last.dequantize.scale if last.dequantize else last.tensor).elem_type
    wanted = derived(bias_name(node.name or node.output[0]))
    if scope.opset < 7:  # Add broadcast by attribute then
        attributes = {"broadcast": 1, "axis": plan.source.axis}
        edit = Edit(node, 1, Computed(b, (), elem_type), wanted, (), attributes)
    else:
        rank = shapes.rank(scope, plan.source.value)
        if rank is None:
            return obstacles.unknown_rank(plan.source.value)
        tensor = Computed(along(b, plan.source.axis, rank), (), elem_type)
        edit = Edit(node, 1, tensor, wanted)
    return representable.check([edit]) or edit


def _become_add(scope: Scope, node: NodeProto, slot: int, edit: Edit) -> str:
    """Turn the source's node into the Add of its shift; return the constant's name."""
    for i in range(len(node.input)):
        if i != slot:
            edits.set_input(scope, node, i, "")
    value = node.input[slot]
    del node.input[:], node.attribute[:], node.output[1:]
    node.input.extend([value, ""])
    node.op_type = "Add"
    return _edit(scope, edit)

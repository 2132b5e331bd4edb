"""An embedding, a Gather of a constant table, absorbs a map into the table."""

from __future__ import annotations

import tempfile

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import affine_of, along, derived, slabs
from normsurgery.folding.table import Edit, Site, sink
from normsurgery.nodes import int_attribute
from normsurgery.payloads import Computed


@sink("Gather")
def embedding(site: Site) -> tuple[Edit, ...] | Obstacle | None:
    """``a·T[i] + b = (a·T + b)[i]``, a and b along an axis of the table T that is not picked from.

    The table must have no other reader: a second one of it would cost more than the map does. The
    Gather of any other value is crossed. Source: ONNX operator Gather.
    """
    node = site.node
    table = constant_of(site.scope, node.input[0], site.limits)
    if not isinstance(table, Constant):
        return None  # a carrier
    if table.elem_type not in dtypes.FLOATS:
        return obstacles.not_linear(node)
    rank, q = len(table.shape), shapes.rank(site.scope, node.input[1])
    if q is None and not site.affine.uniform:
        return obstacles.unknown_rank(node.input[1])
    picked = int_attribute(node, "axis", 0) % rank
    axis = site.axis if site.axis < picked else site.axis - (q or 0) + 1
    if not site.affine.uniform and (picked <= site.axis < picked + (q or 0) or axis >= rank):
        return obstacles.no_channel(node, f"the map acts on axis {site.axis}, of the indices")
    shared = len(site.scope.value_readers(node.input[0]))
    here = node.input[0] in site.scope.initializers or node.input[0] in site.scope.producer
    if shared != 1 or not here or node.input[0] in site.scope.outputs:
        return obstacles.fan_out(node.input[0], shared)
    axis = 0 if site.affine.uniform else axis
    affine = affine_of(site, table.shape[axis])
    if isinstance(affine, Obstacle):
        return affine
    a, b = along(affine.a, axis, rank), along(affine.b, axis, rank)
    tensor = table.tensor.scaled(a)
    if affine.shifts:
        tensor = _shifted(tensor, b)
    return (Edit(node, 0, tensor, derived(table.name)),)


def _shifted(tensor: Computed, b: dtypes.Float64) -> Computed:
    """Return the table plus b, in float64, kept in a temporary file as large ones can be."""
    with tempfile.TemporaryFile() as file:  # the map outlives it
        total = np.memmap(file, np.float64, "w+", shape=tensor.base.shape)
    for first, rows in slabs(tensor):
        part = slice(first, first + len(rows))
        total[part] = rows + (b[part] if b.shape[0] > 1 else b)
    return Computed(total, (), tensor.elem_type)

"""SplitToSequence and SequenceAt: a Split whose parts are read out of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery import shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import has_input
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import int_attribute

if TYPE_CHECKING:
    from onnx import NodeProto


@carrier("SplitToSequence")
def split_to_sequence(site: Site) -> Carried | Obstacle:
    """Forwards each part that is read gets its range of the channels, or the whole map.

    The whole map where another axis is split. Parts must be read by SequenceAt, with constant
    positions. Source: ONNX operators SplitToSequence, SequenceAt.
    """
    node, sequence = site.node, site.node.output[0]
    if not site.forwards or site.slot != 0:
        return obstacles.not_linear(node)
    readers = site.scope.value_readers(sequence)
    if sequence in site.scope.outputs or any(r.op_type != "SequenceAt" for r in readers):
        return obstacles.not_linear(node)
    onward = []
    for reader in readers:
        part = _range(site, node, reader)
        if isinstance(part, Obstacle):
            return part
        affine = site.affine if part is None else site.affine.cut(*part)
        onward.append((reader.output[0], affine, site.axis))
    return Carried((), tuple(onward))


@carrier("SequenceAt")
def sequence_at(site: Site) -> Carried | Obstacle:
    """Backwards the map becomes one of the value that was split, which leaves other parts alone.

    Nobody else may read this part: other readers of the sequence must be SequenceAt, with other
    constant positions. If another axis is split, no other part may be read at all.
    Source: ONNX operators SequenceAt, SplitToSequence.
    """
    node = site.node
    maker = site.scope.producer.get(node.input[0])
    if site.forwards or maker is None or maker.op_type != "SplitToSequence":
        return obstacles.not_linear(node)
    if not site.scope.is_onnx(maker) or any(a.ref_attr_name for a in maker.attribute):
        return obstacles.not_linear(node)
    part = _range(site, maker, node)
    if isinstance(part, Obstacle):
        return part
    whole = maker.input[0]
    sequence = maker.output[0]
    if part is None or site.affine.uniform:
        if not site.scope.only_reader(sequence):
            return obstacles.fan_out(sequence, len(site.scope.value_readers(sequence)))
        return Carried((), ((whole, site.affine, site.axis),))
    others = [r for r in site.scope.value_readers(sequence) if r is not node]
    ranges = [_range(site, maker, r) if r.op_type == "SequenceAt" else part for r in others]
    if sequence in site.scope.outputs or any(isinstance(r, Obstacle) or r == part for r in ranges):
        return obstacles.fan_out(sequence, len(others) + 1)
    dims = shapes.dims(site.scope, whole)
    size = None if dims is None else dims[site.axis]
    if size is None or part[1] - part[0] != site.affine.channels:
        return obstacles.unknown_shape(node, whole)
    return Carried((), ((whole, site.affine.placed(part[0], size), site.axis),))


def _range(site: Site, split: NodeProto, at: NodeProto) -> tuple[int, int] | Obstacle | None:
    """Return the channels of the part that ``at`` reads; None where another axis is split."""
    whole = split.input[0]
    dims = shapes.dims(site.scope, whole)
    if dims is None:
        return obstacles.unknown_rank(whole)
    if not int_attribute(split, "keepdims", 1) and not has_input(split, 1):
        return obstacles.mixed_channels(split)
    axis = int_attribute(split, "axis", 0) % len(dims)
    if axis != site.axis:
        return None
    size = dims[axis]
    if size is None:
        return obstacles.unknown_shape(split, whole)
    sizes = _sizes(site, split, size)
    if isinstance(sizes, Obstacle):
        return sizes
    position = constant_of(site.scope, at.input[1], site.limits)
    if not isinstance(position, Constant):
        return obstacles.not_constant(at, "position", position)
    if position.tensor.base.size != 1:
        return obstacles.unknown_shape(at, at.input[1])
    i = int(position.tensor.base.item())
    if not -len(sizes) <= i < len(sizes):
        return obstacles.unknown_shape(at, whole)
    first = sum(sizes[: i % len(sizes)])
    return first, first + sizes[i]


def _sizes(site: Site, split: NodeProto, size: int) -> list[int] | Obstacle:
    """Return the sizes of the parts: given, all alike with a smaller last one, or all 1."""
    if not has_input(split, 1):
        return [1] * size
    found = constant_of(site.scope, split.input[1], site.limits)
    if not isinstance(found, Constant):
        return obstacles.not_constant(split, "split", found)
    if found.shape:
        sizes = [int(n) for n in found.tensor.base.ravel()]
    else:
        one = max(1, int(found.tensor.base))
        sizes = [min(one, size - first) for first in range(0, size, one)]
    return sizes if sum(sizes) == size else obstacles.unknown_shape(split, split.input[0])

"""Operators over positions: Pad, Resize and Upsample, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import shapes
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import obstacles
from normsurgery.folding.arguments import int_list
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.table import Carried, Site, carrier
from normsurgery.nodes import attribute, int_attribute

if TYPE_CHECKING:
    from onnx import NodeProto


@carrier("Pad")
def pad(site: Site) -> Carried | Obstacle:
    """Padding with the image's own elements commutes with any map; with 0, with one without shift.

    Channels themselves must not be padded. Source: ONNX operator Pad (reflect, edge, wrap,
    constant), versions 1 to 25.
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    pads = _pads(site)
    if isinstance(pads, Obstacle):
        return pads
    if any(pads.get(site.axis, (0, 0))) and not site.affine.uniform:
        return obstacles.mixed_channels(node)
    mode = attribute(node, "mode")
    if mode is not None and mode.s in {b"reflect", b"edge", b"wrap"}:
        return site.through()
    if not any(any(pair) for pair in pads.values()):
        return site.through()
    if site.affine.shifts or not _pads_with_zero(site):
        return obstacles.shift_across(node)
    return site.through()


def _pads(site: Site) -> dict[int, tuple[int, int]] | Obstacle:
    """Return (before, after) by axis."""
    node = site.node
    rank = shapes.rank(site.scope, node.input[0])
    if rank is None:
        return obstacles.unknown_rank(node.input[0])
    name = "paddings" if attribute(node, "paddings") is not None else "pads"  # opset 1
    pads, axes = int_list(site, name, 1), int_list(site, "axes", 3)
    if isinstance(pads, Obstacle):
        return pads
    if isinstance(axes, Obstacle):
        return axes
    axes = [i % rank for i in axes] if axes is not None else list(range(rank))
    if pads is None or len(pads) != 2 * len(axes):
        return obstacles.unknown_shape(node, node.input[0])
    return {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}


def _pads_with_zero(site: Site) -> bool:
    value = attribute(site.node, "value")
    if value is not None:
        return bool(value.f == 0)
    if len(site.node.input) > 2 and site.node.input[2]:
        constant = constant_of(site.scope, site.node.input[2], site.limits)
        return isinstance(constant, Constant) and not constant.float64().any()
    return True


@carrier("Resize", "Upsample")
def resize(site: Site) -> Carried | Obstacle:
    """Interpolation weights sum to 1, so resizing positions commutes with a map per channel.

    The channels' axis must keep its positions. ``tf_crop_and_resize`` brings a constant in from
    outside. Source: ONNX operators Resize (nearest, linear, cubic), Upsample.
    """
    node = site.node
    if site.forwards and site.slot != 0:
        return obstacles.not_linear(node)
    how = attribute(node, "coordinate_transformation_mode")
    if how is not None and how.s == b"tf_crop_and_resize":
        return obstacles.shift_across(node)
    if site.affine.uniform:
        return site.through(axis=0)
    axes = attribute(node, "axes")
    before, after = (shapes.dims(site.scope, n) for n in (node.input[0], node.output[0]))
    if before is None:
        return obstacles.unknown_rank(node.input[0])
    resized = [i % len(before) for i in (range(len(before)) if axes is None else axes.ints)]
    if site.axis not in resized:
        return site.through()
    if how is not None and how.s == b"tf_half_pixel_for_nn" and not _rounds_down(node):
        return obstacles.mixed_channels(node)  # position i becomes i + 1/2, also at scale 1
    scales, size = _scales(site), before[site.axis]
    if scales is not None and scales.size == len(resized):
        # at another scale than 1 channels move, also where their number stays as it was
        one = scales[resized.index(site.axis)] == 1
        return site.through() if one else obstacles.mixed_channels(node)
    policy = attribute(node, "keep_aspect_ratio_policy")
    stretch = policy is None or policy.s == b"stretch"  # else all axes have one scale
    if stretch and size is not None and after is not None and size == after[site.axis]:
        return site.through()
    return obstacles.unknown_shape(node, node.output[0])


def _rounds_down(node: NodeProto) -> bool:
    """Whether a position halfway between two is the first of them."""
    mode, nearest = attribute(node, "mode"), attribute(node, "nearest_mode")
    if mode is not None and mode.s != b"nearest":
        return False
    return nearest is None or nearest.s in {b"floor", b"round_prefer_floor"}


def _scales(site: Site) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
    """Return the constant scales by axis, if the operator is given any."""
    node = site.node
    old = attribute(node, "scales")
    if old is not None:
        return np.array(old.floats, np.float64)
    slot = 1 if node.op_type == "Upsample" or site.scope.opset < 11 else 2
    if len(node.input) <= slot or not node.input[slot]:
        return None
    constant = constant_of(site.scope, node.input[slot], site.limits)
    return constant.float64().ravel() if isinstance(constant, Constant) else None


@carrier("DepthToSpace")
def depth_to_space(site: Site) -> Carried | Obstacle:
    """Output channel c is made of blocksize² input channels: ``k·C + c`` (DCR), ``c·k² + i`` (CRD).

    Backwards each of them gets the map of c; forwards they must all have the same one.
    Source: ONNX operator DepthToSpace.
    """
    blocks = int_attribute(site.node, "blocksize", 0) ** 2
    mode = attribute(site.node, "mode")
    rows_are_blocks = mode is None or mode.s != b"CRD"
    return _deepen(site, blocks, rows_are_blocks, deep_is_near=site.forwards)


@carrier("SpaceToDepth")
def space_to_depth(site: Site) -> Carried | Obstacle:
    """Output channel ``k·C + c`` holds every blocksize²-th position of input channel c.

    Forwards each of them gets the map of c; backwards they must all have the same one.
    Source: ONNX operator SpaceToDepth.
    """
    blocks = int_attribute(site.node, "blocksize", 0) ** 2
    return _deepen(site, blocks, True, deep_is_near=not site.forwards)


def _deepen(
    site: Site, blocks: int, rows_are_blocks: bool, *, deep_is_near: bool
) -> Carried | Obstacle:
    affine = site.affine
    if affine.uniform:
        return site.through()
    if site.axis != 1 or blocks < 1:
        return obstacles.mixed_channels(site.node)
    if not deep_is_near:
        index = np.arange(affine.channels)
        spread = np.tile(index, blocks) if rows_are_blocks else np.repeat(index, blocks)
        return site.through(affine.spread(spread))
    if affine.channels % blocks:
        return obstacles.mixed_channels(site.node)
    shape = (blocks, -1) if rows_are_blocks else (-1, blocks)
    a, b = (
        v.reshape(shape) if rows_are_blocks else v.reshape(shape).T for v in (affine.a, affine.b)
    )
    if np.any(a != a[0]) or np.any(b != b[0]):
        return obstacles.mixed_channels(site.node)
    return site.through(ChannelAffine(np.ascontiguousarray(a[0]), np.ascontiguousarray(b[0])))

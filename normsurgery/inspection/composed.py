"""Find norms over samples that an exporter took apart, by what computes their statistics.

Two things make one: the arithmetic ``(x − μ)/√(v + ε)`` or ``x/√(mean of x² + ε)``, which
``adain.statistics`` reads; or an operator between two Reshapes, which makes a group of channels one
channel (``conversion.sample_norms``). What scales and shifts the result per channel is part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, shapes
from normsurgery.adain.sites import Core, standardised
from normsurgery.adain.statistics import Reader
from normsurgery.constants import Constant, constant_of
from normsurgery.conversion import sample_norms
from normsurgery.inspection.trailing import Factor, Trail, beside, follow
from normsurgery.nodes import float_attribute, int_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope

_ROUNDING = 1e-6  # of a factor n/(n − 1) that is stored in float32
GROUPED = frozenset({"InstanceNormalization", "LayerNormalization"})


@dataclass(frozen=True)
class Composed:
    """One norm of several nodes.

    kind: the operator that it would be. core: the node that normalizes. nodes: all, in the order
    of the graph. axes: of what it normalizes. unbiased: the variance is Σ/(n − 1).
    """

    kind: str
    core: NodeProto
    nodes: tuple[NodeProto, ...]
    axes: tuple[int, ...]
    num_groups: int | None
    channels: int | None
    epsilon: float
    scale: Factor | None
    bias: Factor | None
    unbiased: bool = False

    @property
    def last(self) -> NodeProto:
        """The node that makes its result."""
        return self.nodes[-1]


def find(scope: Scope, limits: Limits) -> Iterator[Composed]:
    """Yield the norms over samples of several nodes, in no order."""
    for raw in (False, True):
        reader = Reader(scope, limits, casts=True, raw=raw)
        for core in standardised(reader):
            found = _of_arithmetic(reader, core)
            if found is not None:
                yield found
    for node in scope.live():
        if node.op_type in GROUPED and scope.is_onnx(node):
            grouped = _of_operator(scope, node, limits)
            if grouped is not None:
                yield grouped


def _of_arithmetic(reader: Reader, core: Core) -> Composed | None:
    """Return the norm around what is standardised.

    None for constants, which are weights; for statistics along axis 0, those of a batch; for a
    variance that is neither the mean of squares nor Σ/(n − 1), such as the squared length of L2
    normalization; for a product with something else than a scale in front of the division.
    """
    scope, limits, std = reader.scope, reader.limits, core.std
    sizes = shapes.sizes(scope, core.x)
    if sizes is None or isinstance(constant_of(scope, core.x, limits), Constant):
        return None
    rank = len(sizes)
    axes = tuple(range(2, rank)) if std.axes is None else std.axes
    count = shapes.Size.of(sizes[i] for i in axes).fixed
    if 0 in axes or axes[-1] >= rank:
        return None
    unbiased = not isclose(std.factor, 1, rel_tol=_ROUNDING)
    if unbiased:
        less = (count or 0) - 1
        if std.raw or less < 1 or not isclose(std.factor, (less + 1) / less, rel_tol=_ROUNDING):
            return None
    value, inside = _inside(reader, core)
    if axes == tuple(range(2, rank)) and not std.raw and core.reader is core.node:
        around = _regrouped(scope, value, core.node.output[0], core.x)
        if around is not None:
            return _group(scope, around, core.node, inside, std.epsilon / std.factor, limits)
    rest = [i for i in range(1, rank) if i not in axes]
    allowed = [frozenset(axes)]
    if len(rest) == 1 and not std.raw:
        allowed.append(frozenset(rest))
    scale = None
    if core.reader is not core.node:
        scale = beside(scope, core.reader, core.slot, core.x, limits)
        if scale is None:
            return None
    trail = follow(scope, core.node.output[0], value, allowed, limits, scale)
    if trail is None:
        return None
    if std.raw:
        kind = "RMSNormalization"
    elif trail.along is None:  # either could be meant: they are the same without scale and bias
        both = len(allowed) > 1 and len(axes) > 1
        kind = "InstanceNormalization" if both else "LayerNormalization"
    else:
        kind = "LayerNormalization" if trail.along == allowed[0] else "InstanceNormalization"
    where = rest if kind == "InstanceNormalization" else axes
    channels = shapes.Size.of(sizes[i] for i in where).fixed
    nodes = _in_order(scope, (*inside, *trail.nodes))
    return Composed(
        kind, core.node, nodes, axes, None, channels, std.epsilon / std.factor,
        trail.scale, trail.bias, unbiased,
    )  # fmt: skip


def _inside(reader: Reader, core: Core) -> tuple[str, list[NodeProto]]:
    """Return the value that a core normalizes, before Casts, and the nodes from there on."""
    scope, std, value = reader.scope, core.std, core.x
    nodes = {id(node): node for node in (core.reader, core.node)}
    while (maker := scope.producer.get(value)) is not None and maker.op_type == "Cast":
        if reader.elements_of(value, std.axes) != reader.elements_of(maker.input[0], std.axes):
            break
        nodes[id(maker)] = maker
        value = maker.input[0]
    waiting = [core.reader, core.node]
    while waiting:
        for name in waiting.pop().input:
            maker = scope.producer.get(name)
            if maker is None or name == value or id(maker) in nodes:
                continue
            same = name != std.of and reader.elements_of(name, std.axes) == std.of
            if reader.of(name) is None and not same:
                continue
            nodes[id(maker)] = maker
            waiting.append(maker)
    return value, list(nodes.values())


@dataclass(frozen=True)
class _Around:
    """Reshapes around a norm: of (N, C, …) to (N, groups, …), and back. value: before the first."""

    value: str
    first: NodeProto
    last: NodeProto
    groups: int
    channels: int
    casts: tuple[NodeProto, ...] = ()


def _regrouped(scope: Scope, before: str, after: str, x: str) -> _Around | None:
    """Return the Reshapes in front of ``before`` and behind ``after``, if they make groups.

    That is so if the samples stay apart, and a number of groups that divides C takes its place:
    the elements of a group are those of C/groups channels in a row then.
    """
    casts = []
    while scope.only_reader(after):
        (reader,) = scope.value_readers(after)
        if reader.op_type != "Cast" or not scope.is_onnx(reader):
            break
        casts.append(reader)
        after = reader.output[0]
    around = sample_norms.reshaped(scope, before, after)
    if around is None:
        return None
    value, last = around
    whole, apart, back = (shapes.sizes(scope, n) for n in (value, x, last.output[0]))
    if whole is None or apart is None or back != whole or len(whole) < 2 or len(apart) < 3:
        return None
    channels, groups = whole[1].fixed, apart[1].fixed
    if whole[0] != apart[0] or not channels or not groups or channels % groups:
        return None
    return _Around(value, scope.producer[before], last, groups, channels, tuple(casts))


def _of_operator(scope: Scope, node: NodeProto, limits: Limits) -> Composed | None:
    """Return the group norm that an operator between two Reshapes is.

    InstanceNormalization, or LayerNormalization over all positions with one scale for all. An
    InstanceNormalization of the same channels in another shape is one operator, unless its scale
    or bias stands apart.
    """
    if any(scope.is_read(name) for name in node.output[1:]):
        return None
    given, casts = node.input[0], []
    while (maker := scope.producer.get(given)) is not None and maker.op_type == "Cast":
        casts.append(maker)
        given = maker.input[0]
    around = _regrouped(scope, given, node.output[0], given)
    rank = shapes.rank(scope, given)
    if around is None or rank is None:
        return None
    if node.op_type == "InstanceNormalization":
        inner = [_vector(scope, node.input[slot], around.groups, limits) for slot in (1, 2)]
    else:
        if int_attribute(node, "axis", -1) % rank != 2:
            return None
        inner = []
        for slot in range(1, len(node.input)):
            number = _one_number(scope, node.input[slot], limits) if node.input[slot] else 0.0
            if number is None:
                return None
            inner.append(np.full(around.groups, number))
        inner += [np.zeros(around.groups)] * (2 - len(inner))
    epsilon = float_attribute(node, "epsilon", 1e-5)
    return _group(scope, around, node, [*casts, node], epsilon, limits, inner)


def _group(
    scope: Scope,
    around: _Around,
    core: NodeProto,
    inside: list[NodeProto],
    epsilon: float,
    limits: Limits,
    inner: list[dtypes.Float64 | None] | None = None,
) -> Composed | None:
    """Return the norm of groups of channels; inner: its scale and bias of each group, if any."""
    C, G = around.channels, around.groups
    trail = follow(scope, around.last.output[0], around.value, [frozenset({1})], limits, None)
    alone = core.op_type == "InstanceNormalization" and G == C
    if trail is None or (alone and not trail.nodes):
        return None
    scale, bias = trail.scale, trail.bias
    if inner is not None:
        scale, bias = _together(inner, trail, C // G)
    rank = shapes.rank(scope, around.value) or 2
    nodes = _in_order(scope, (around.first, *inside, *around.casts, around.last, *trail.nodes))
    kind = "GroupNormalization" if G < C else "InstanceNormalization"
    axes = tuple(range(1 if G < C else 2, rank))
    return Composed(kind, core, nodes, axes, G if G < C else None, C, epsilon, scale, bias)


def _together(
    inner: list[dtypes.Float64 | None], trail: Trail, repeated: int
) -> tuple[Factor | None, Factor | None]:
    """Return scale and bias of each channel: ``s·(s_g·x̂ + b_g) + b``.

    None for one that is 1, or 0, for lack of it.
    """
    s, b = trail.scale, trail.bias
    per_group, shift = inner
    if per_group is not None and np.all(per_group == 1) and shift is not None and not shift.any():
        return s, b
    values = None if per_group is None else np.repeat(per_group, repeated)
    added = None if shift is None else np.repeat(shift, repeated)
    if s is not None:
        values = None if values is None or s.values is None else values * s.values.ravel()
        added = None if added is None or s.values is None else added * s.values.ravel()
    if b is not None:
        added = None if added is None or b.values is None else added + b.values.ravel()
    return (
        Factor(values, None if s is None else s.node),
        Factor(added, None if b is None else b.node),
    )


def _vector(scope: Scope, name: str, size: int, limits: Limits) -> dtypes.Float64 | None:
    found = constant_of(scope, name, limits)
    if not isinstance(found, Constant) or found.elem_type not in dtypes.FLOATS:
        return None
    values = found.float64()
    return values if values.shape == (size,) else None


def _one_number(scope: Scope, name: str, limits: Limits) -> float | None:
    """Return the number that all elements of a value are, also of one that is expanded."""
    node = scope.producer.get(name)
    if node is not None and node.op_type == "Expand" and scope.is_onnx(node):
        name = node.input[0]
    found = constant_of(scope, name, limits)
    if not isinstance(found, Constant) or found.elem_type not in dtypes.FLOATS:
        return None
    values = found.float64()
    return float(values.ravel()[0]) if values.size and np.all(values == values.flat[0]) else None


def _in_order(scope: Scope, nodes: tuple[NodeProto, ...]) -> tuple[NodeProto, ...]:
    wanted = {id(node) for node in nodes}
    return tuple(node for node in scope.nodes if id(node) in wanted)

"""Parallel linear branches that meet in an Add collapse into one Conv.

RepVGG trains ``BN(conv3×3(x)) + BN(conv1×1(x)) + BN(x)``; ACNet, MobileOne and DBB are alike. Once
the BNs are folded, each branch is a convolution of the same x, and a sum of convolutions is the
convolution with the sum of the kernels, each laid where its taps fall. Source: RepVGG
(https://arxiv.org/abs/2101.03697), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery import edits
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import representable, table
from normsurgery.folding.geometry import Geometry, geometry_of, placed, united, write
from normsurgery.folding.plan import refuse_foreign
from normsurgery.folding.sinks.parts import bias_name, derived, has_input, slabs
from normsurgery.folding.table import Edit, Source
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.affine import ChannelAffine
    from normsurgery.constants import Limits
    from normsurgery.dtypes import Float64
    from normsurgery.graph import Scope


@dataclass(frozen=True)
class Branch:
    """One operand of the Add, as a convolution of ``value``.

    weight: (C_out, C_in/group, …) or None for a map per channel (``affine``; None is identity).
    sign: −1 for what a Sub takes away.
    """

    value: str
    node: NodeProto | None
    geometry: Geometry | None = None
    weight: Constant | None = None
    bias: Constant | None = None
    affine: ChannelAffine | None = None
    sign: float = 1.0


@dataclass(frozen=True)
class Union:
    """What became of two branches.

    conv: the node that computes both. tensors: the names of its new constants.
    norm: the output of a BatchNormalization that was one of them, else empty.
    """

    conv: NodeProto
    tensors: tuple[str, ...]
    norm: str


def merge(scope: Scope, node: NodeProto, limits: Limits) -> Union | None:
    """Merge the two operands of the Add ``node`` into one Conv, if they are branches of one value.

    Return None, and change nothing, where that is not exact, or would make the kernel larger than
    those it replaces.
    """
    if node.op_type not in {"Add", "Sub", "Sum"} or len(node.input) != 2:
        return None
    if node.input[0] == node.input[1] or refuse_foreign(scope, node) is not None:
        return None
    pairs = _pairs(scope, node, limits)
    found = next(((c, o) for c, o in pairs if c.value == o.value), None)
    if found is None:
        return None
    conv, other = found
    union = _union(conv, other)
    if union is None or conv.weight is None or conv.node is None:
        return None
    kernel = _kernel(conv, other, union)
    bias = _bias(conv, other)
    changes = [Edit(conv.node, 1, kernel, derived(conv.weight.name))]
    if bias is not None:
        old = conv.bias.name if conv.bias is not None else None
        wanted = derived(old) if old else bias_name(conv.weight.name)
        changes.append(Edit(conv.node, 2, bias, wanted))
    if representable.check(changes) is not None:
        return None
    write(conv.node, union)
    norm = other.node
    merged = norm.output[0] if norm is not None and norm.op_type == "BatchNormalization" else ""
    names = [edits.set_constant(scope, e.node, e.slot, e.wanted, e.tensor) for e in changes]
    edits.bypass(scope, node, list(node.input).index(conv.node.output[0]))
    return Union(conv.node, tuple(names), merged)


def _pairs(scope: Scope, node: NodeProto, limits: Limits) -> list[tuple[Branch, Branch]]:
    """Return the ways to read the operands as a Conv and something to add to it."""
    pairs = []
    signs = (1.0, -1.0) if node.op_type == "Sub" else (1.0, 1.0)
    for i in (0, 1):
        conv = _conv(scope, node.input[i], limits)
        if conv is None:
            continue
        name = node.input[1 - i]
        others = [_conv(scope, name, limits), _affine(scope, name, limits), Branch(name, None)]
        conv = replace(conv, sign=signs[i])
        pairs += [(conv, replace(o, sign=signs[1 - i])) for o in others if o is not None]
    return pairs


def _conv(scope: Scope, name: str, limits: Limits) -> Branch | None:
    """Read the value as a Conv with constant weight and bias that nobody else reads."""
    node = scope.producer.get(name)
    if node is None or node.op_type != "Conv" or not scope.only_reader(name):
        return None
    if refuse_foreign(scope, node) is not None:
        return None
    W = constant_of(scope, node.input[1], limits)
    B = constant_of(scope, node.input[2], limits) if has_input(node, 2) else None
    if not isinstance(W, Constant) or not (B is None or isinstance(B, Constant)):
        return None
    geometry = geometry_of(node, W.shape)
    return None if geometry is None else Branch(node.input[0], node, geometry, W, B)


def _affine(scope: Scope, name: str, limits: Limits) -> Branch | None:
    """Read the value as a map per channel, such as RepVGG's identity branch with its BN."""
    node = scope.producer.get(name)
    recognise = None if node is None else table.load().sources.get(node.op_type)
    if node is None or recognise is None or not scope.only_reader(name):
        return None
    found = refuse_foreign(scope, node) or recognise(scope, node, limits)
    if not isinstance(found, Source) or not found.sure or found.reset:
        return None
    if found.axis != 1 and not found.affine.uniform:
        return None
    return Branch(found.value, node, affine=found.affine)


def _union(conv: Branch, other: Branch) -> Geometry | None:
    """Return the geometry of the sum of two branches, or None if there is none worth having."""
    a = conv.geometry
    if a is None or conv.weight is None:
        return None
    n = len(a.taps)
    b = other.geometry
    if b is None:  # a map per channel: one tap at offset 0, as many channels out as in
        channels = conv.weight.shape[0]
        if channels != conv.weight.shape[1] * a.group:
            return None
        if other.affine is not None and other.affine.of(channels) is None:
            return None
        b = Geometry((0,) * n, (1,) * n, (1,) * n, (1,) * n, (0,) * n, a.group)
        elem_types = {conv.weight.elem_type}
    else:
        assert other.weight is not None  # noqa: S101
        if other.weight.shape[:2] != conv.weight.shape[:2]:
            return None
        elem_types = {conv.weight.elem_type, other.weight.elem_type}
    union = united(a, b) if len(elem_types) == 1 else None
    before = np.prod(a.taps) + (np.prod(b.taps) if other.geometry is not None else 0)
    return union if union is not None and np.prod(union.taps) <= before else None


def _kernel(conv: Branch, other: Branch, union: Geometry) -> Computed:
    """Return the sum of the kernels in float64, kept in a temporary file as large ones can be."""
    import tempfile

    assert conv.weight is not None  # noqa: S101
    assert conv.geometry is not None  # noqa: S101
    shape = (*conv.weight.shape[:2], *union.taps)
    total = np.memmap(tempfile.TemporaryFile(), np.float64, "w+", shape=shape)  # noqa: SIM115
    for branch in (conv, other):
        if branch.weight is not None and branch.geometry is not None:
            where = placed(branch.geometry, union)
            for row, values in slabs(branch.weight.tensor):
                rows = slice(row, row + len(values))
                total[(rows, slice(None), *where)] += branch.sign * values
        else:
            affine = branch.affine
            a = np.ones(shape[0]) if affine is None else _vector(affine, shape[0])[0]
            channels = np.arange(shape[0])
            centre: Any = [-start // d for start, d in zip(union.first, union.step, strict=True)]
            total[(channels, channels % shape[1], *centre)] += branch.sign * a
    return Computed(total, (), conv.weight.elem_type)


def _bias(conv: Branch, other: Branch) -> Computed | None:
    assert conv.weight is not None  # noqa: S101
    channels = conv.weight.shape[0]
    parts: list[Float64] = [b.sign * b.bias.float64() for b in (conv, other) if b.bias is not None]
    if other.affine is not None:
        parts.append(other.sign * _vector(other.affine, channels)[1])
    return Computed(np.sum(parts, axis=0), (), conv.weight.elem_type) if parts else None


def _vector(affine: ChannelAffine, channels: int) -> tuple[Float64, Float64]:
    found = affine.of(channels)
    if found is None:
        raise AssertionError("a BN of another width than its input")
    return found.a, found.b

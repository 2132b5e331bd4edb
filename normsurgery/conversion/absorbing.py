"""Fold the affine map in front of a norm into the linear layers behind it, weights' norms kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, edits
from normsurgery.affine import ChannelAffine
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import apply, obstacles, plan
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import slabs
from normsurgery.folding.table import Source
from normsurgery.nodes import int_attribute, label

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.conversion.start import Start
    from normsurgery.dtypes import Float64
    from normsurgery.folding.plan import Plan
    from normsurgery.graph import Scope
    from normsurgery.payloads import Computed

BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
MOST_SUMS = 1 << 24  # elements of a matrix of sums over kernels: 128 MiB


@dataclass(frozen=True)
class Absorbed:
    """start: the norm that goes with the changed weights. into: labels of what took the map."""

    start: Start
    into: tuple[str, ...]
    k: float


def absorb(scope: Scope, node: NodeProto, start: Start, limits: Limits) -> Absorbed | Obstacle:
    """Replace ``node``, the map ``start.before``, by changes of the layers that make its input.

    With ``k = ‖W‖/‖a·W‖`` over the weights that take the map, ``k·before`` is folded, and the norm
    has epsilon ``k²·ε``: the same function, and weights of the same norm. Backwards only: forwards
    lies the norm. An obstacle, and nothing changed, where no complete path is found.
    """
    found = _plan(scope, node, start, limits)
    if isinstance(found, Obstacle):
        return found
    kept = start.stretched(_factor(scope, found, limits))
    again = _plan(scope, node, kept, limits)
    if isinstance(again, Obstacle):  # k takes a coefficient out of its type's range
        again, kept = found, start
    applied = apply.apply(scope, again)
    if isinstance(applied, Obstacle):
        return applied
    k = float(np.sqrt(kept.epsilon / start.epsilon)) if start.epsilon else 1.0
    return Absorbed(kept, tuple(label(one) for one in applied.into), k)


def sums(scope: Scope, value: str, channels: int, limits: Limits) -> Float64 | None:
    """Return the weights of the layer that makes ``value``, summed over the kernel, (C, I).

    None if its C is not ``channels``, if it is no Conv, ConvTranspose, Gemm or MatMul with a
    constant weight, or a huge one. Input channels that a grouped one does not read have weight 0.
    """
    node = scope.producer.get(value)
    if node is None or node.op_type not in {*BIASED, "MatMul"} or not scope.is_onnx(node):
        return None
    W = constant_of(scope, node.input[1], limits)
    if not isinstance(W, Constant) or W.elem_type not in dtypes.FLOATS or len(W.shape) < 2:
        return None
    group = int_attribute(node, "group", 1) if "Conv" in node.op_type else 1
    if W.shape[0] * W.shape[1] * max(1, group) > MOST_SUMS:
        return None
    found = _sums(node, W, group)
    return found if found is not None and len(found) == channels else None


def _sums(node: NodeProto, W: Constant, group: int) -> Float64 | None:
    flat = np.concatenate([rows.reshape(*rows.shape[:2], -1).sum(2) for _, rows in slabs(W.tensor)])
    if node.op_type == "MatMul":
        return np.asarray(flat.T) if len(W.shape) == 2 else None
    if node.op_type == "Gemm":
        return flat if int_attribute(node, "transB", 0) else np.asarray(flat.T)
    blocks = np.split(flat, group) if group >= 1 and len(flat) % group == 0 else []
    if node.op_type == "ConvTranspose":
        blocks = [block.T for block in blocks]
    return _diagonal(blocks) if blocks else None


def _diagonal(blocks: list[Float64]) -> Float64:
    """Return the matrix whose diagonal is these blocks."""
    rows, columns = blocks[0].shape
    found = np.zeros((len(blocks) * rows, len(blocks) * columns))
    for i, block in enumerate(blocks):
        found[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = block
    return found


def drop_shift(start: Start) -> Start:
    """Return ``start`` without the shift in front: a norm of single channels takes it away."""
    before = ChannelAffine(start.before.a, np.zeros_like(start.before.b))
    return replace(start, before=before)


def drop_bias(scope: Scope, value: str) -> str:
    """Remove the bias of the layer that makes ``value``, if it has one; return its name.

    For a value whose only reader is a norm of single channels, which subtracts their means: no
    bias per channel comes through. Only of the layer right in front.
    """
    node = scope.producer.get(value)
    if node is None or node.op_type not in BIASED or not scope.is_onnx(node):
        return ""
    if len(node.input) < 3 or not node.input[2] or not scope.only_reader(value):
        return ""
    name = node.input[2]
    edits.set_input(scope, node, 2, "")
    del node.input[2:]
    return name


def _plan(scope: Scope, node: NodeProto, start: Start, limits: Limits) -> Plan | Obstacle:
    source = Source(node, 0, start.before)
    found = plan.plan(scope, source, limits)
    if isinstance(found, Obstacle):
        return replace(found, text=found.text.split("; forwards")[0])
    return obstacles.not_linear(node) if found.forwards else found


def _factor(scope: Scope, found: Plan, limits: Limits) -> float:
    """Return ``‖W‖/‖a·W‖`` over the weights that are multiplied; 1 if there are none."""
    before = after = 0.0
    for edit in found.edits:
        old = (
            constant_of(scope, edit.node.input[edit.slot], limits) if edit.tensor.factors else None
        )
        if isinstance(old, Constant):
            before += _squares(old.tensor)
            after += _squares(edit.tensor)
    with np.errstate(all="ignore"):
        k = float(np.sqrt(np.float64(before) / np.float64(after)))
    return k if np.isfinite(k) and k > 0 else 1.0


def _squares(tensor: Computed) -> float:
    """Return the sum of the squares of a tensor's values, reading it in blocks."""
    return float(sum(np.square(block).sum() for block in tensor.blocks()))

"""The entry of each kind of norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normsurgery import shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.folding.elementwise import with_constant
from normsurgery.folding.obstacles import Obstacle
from normsurgery.inspection.report import Norm, Parts, Range
from normsurgery.nodes import float_attribute, int_attribute

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery import adain
    from normsurgery.constants import Limits
    from normsurgery.conversion.outlook import Outlook
    from normsurgery.graph import Scope
    from normsurgery.inspection.becoming import Folding
    from normsurgery.inspection.composed import Composed
    from normsurgery.inspection.trailing import Factor

# Input slots of (scale, mean, var, bias) for each normalization operator of the ONNX spec.
KINDS: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
    "BatchNormalization": (1, 3, 4, 2),
    "InstanceNormalization": (1, None, None, 2),
    "LayerNormalization": (1, None, None, 2),
    "GroupNormalization": (1, None, None, 2),
    "RMSNormalization": (1, None, None, None),
    "LpNormalization": (None, None, None, None),
    "MeanVarianceNormalization": (None, None, None, None),
    "LRN": (None, None, None, None),
}
WITHOUT_EPSILON = frozenset({"LpNormalization", "MeanVarianceNormalization", "LRN"})
MERGED = "Mul, Add"


def of_operator(folding: Folding, node: NodeProto) -> Norm:
    """Return the entry of one operator."""
    scope, kind = folding.scope, node.op_type
    slots = KINDS[kind]
    scale, mean, var, bias = (_vector(scope, node, slot, folding.limits) for slot in slots)
    outcome, detail = folding.of(node)
    warning = ""
    if kind == "GroupNormalization":
        warning = "onnxruntime's CPU provider has no kernel for it: slow, and less exact"
    return Norm(
        name_of(node),
        kind,
        None if scale is None else scale.size,
        None if kind in WITHOUT_EPSILON else float_attribute(node, "epsilon", 1e-5),
        int_attribute(node, "num_groups", 0) or None,
        _range(scale),
        _range(mean),
        _range(var),
        _dead(scale),
        outcome,
        detail,
        warning,
        bias=_range(bias),
        scale_constant=None if _input(node, slots[0]) is None else scale is not None,
        bias_constant=None if _input(node, slots[3]) is None else bias is not None,
        axes=_axes(scope, node),
    )


def of_composed(folding: Folding, norm: Composed) -> Norm:
    """Return the entry of a norm over samples that was taken apart."""
    scale, bias = _values(norm.scale), _values(norm.bias)
    outcome, detail = folding.of_composed(norm)
    if norm.unbiased:
        detail += "; its variance is that of n − 1 elements"
    return Norm(
        name_of(norm.last),
        f"decomposed {norm.kind}",
        norm.channels,
        norm.epsilon,
        norm.num_groups,
        _range(scale),
        None,
        None,
        _dead(scale),
        outcome,
        detail,
        convert_detail="convert takes BatchNormalization, and --to batch norms of one operator",
        bias=_range(bias),
        scale_constant=None if norm.scale is None else scale is not None,
        bias_constant=None if norm.bias is None else bias is not None,
        axes=norm.axes,
        parts=parts_of(*norm.nodes),
    )


def of_batch_norm(folding: Folding, told: Outlook) -> Norm:
    """Return the entry of a BatchNormalization that an exporter wrote as elementwise nodes.

    fold takes each of them by itself; the last tells of all.
    """
    node, bn = told.node, told.bn
    folds, detail = folding.of_elementwise(node)
    count = 2 if told.kind == MERGED else 4
    return Norm(
        name_of(node),
        told.kind,
        None if bn is None else bn.channels,
        None,
        None,
        None if bn is None else _range(bn.scale),
        None if bn is None else _range(bn.mean),
        None if bn is None else _range(bn.var),
        0 if bn is None else _dead(bn.scale),
        folds,
        detail,
        convert=told.outcome,
        convert_detail=told.detail,
        bias=None if bn is None else _range(bn.B),
        scale_constant=True,
        bias_constant=True,
        parts=Parts(name_of(_first(folding, node, count)), name_of(node), count),
    )


def of_adain(scope: Scope, site: adain.Site, apart: Composed | None) -> Norm:
    """Return the entry of an instance norm whose scale and bias are computed of other inputs.

    apart: the norm that it is, where it is written as arithmetic.
    """
    dims = shapes.dims(scope, site.x)
    epsilon = site.epsilon
    if epsilon is None:
        epsilon = float_attribute(site.node, "epsilon", 1e-5)
    styles = ", ".join(f"`{name}`" for name in site.styles)
    fix = " ".join(f"--fix {name}=FILE" for name in site.styles)
    return Norm(
        name_of(site.node),
        "AdaIN",
        None if dims is None or len(dims) < 2 else dims[1],
        epsilon,
        None,
        None,
        None,
        None,
        0,
        "data-dependent",
        f"scale and bias come from {styles}; fold {fix} makes them constants",
        convert="sample-norm",
        convert_detail="a norm of each sample already",
        parts=None if apart is None else parts_of(*apart.nodes),
    )


def name_of(node: NodeProto) -> str:
    """Return a node's name, or its first output's where it has none."""
    return node.name or next((name for name in node.output if name), "")


def parts_of(*nodes: NodeProto) -> Parts:
    """Return what tells which nodes these are, in the order of the graph."""
    return Parts(name_of(nodes[0]), name_of(nodes[-1]), len(nodes))


def _first(folding: Folding, node: NodeProto, count: int) -> NodeProto:
    """Return the first of ``count`` elementwise nodes, of which ``node`` is the last."""
    for _ in range(count - 1):
        found = with_constant(folding.scope, node, folding.limits)
        if isinstance(found, Obstacle):
            break
        node = folding.scope.producer[node.input[found.slot]]
    return node


def _axes(scope: Scope, node: NodeProto) -> tuple[int, ...] | None:
    """Return the axes that LayerNormalization and RMSNormalization normalize, if they are known."""
    rank = shapes.rank(scope, node.input[0])
    if rank is None or node.op_type not in {"LayerNormalization", "RMSNormalization"}:
        return None
    return tuple(range(int_attribute(node, "axis", -1) % rank, rank)) if rank else None


def _input(node: NodeProto, slot: int | None) -> str | None:
    if slot is None or slot >= len(node.input):
        return None
    return node.input[slot] or None


def _vector(scope: Scope, node: NodeProto, slot: int | None, limits: Limits) -> Any:
    name = _input(node, slot)
    found = None if name is None else constant_of(scope, name, limits)
    return found.float64() if isinstance(found, Constant) else None


def _values(factor: Factor | None) -> Any:
    return None if factor is None else factor.values


def _range(values: Any) -> Range | None:
    if values is None or not values.size:
        return None
    return Range(float(values.min()), float(values.max()))


def _dead(scale: Any) -> int:
    return 0 if scale is None else int((scale == 0).sum())

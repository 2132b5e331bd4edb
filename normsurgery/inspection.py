"""``normsurgery.inspect``: every normalization of a model, what fold and convert do with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from normsurgery import adain, inlining, models, shapes
from normsurgery.constants import Constant, Limits, constant_of
from normsurgery.conversion.outlook import Outlook, outlook
from normsurgery.folding import plan, table
from normsurgery.folding.api import fold
from normsurgery.folding.obstacles import Obstacle
from normsurgery.graph import Graph
from normsurgery.nodes import float_attribute, int_attribute
from normsurgery.report import Folded, Kept, Merged

if TYPE_CHECKING:
    import os

    from onnx import ModelProto, NodeProto

    from normsurgery.graph import Scope

# Input slots of (scale, mean, var) for each normalization operator of the ONNX spec.
KINDS: dict[str, tuple[int | None, int | None, int | None]] = {
    "BatchNormalization": (1, 3, 4),
    "InstanceNormalization": (1, None, None),
    "LayerNormalization": (1, None, None),
    "GroupNormalization": (1, None, None),
    "RMSNormalization": (1, None, None),
    "LpNormalization": (None, None, None),
    "MeanVarianceNormalization": (None, None, None),
    "LRN": (None, None, None),
}


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a parameter."""

    low: float
    high: float


@dataclass(frozen=True)
class Norm:
    """One normalization, a node or the last of several that it was taken apart into.

    op_type: the operator; *decomposed BatchNormalization*, or *Mul, Add*, what is left of one whose
    statistics were merged into two constants; *AdaIN*.
    channels: length of its scale, None if that is not constant. dead: channels whose scale is 0.
    outcome: "folds", or the slug of the reason why it stays; detail: into what, or the obstacle.
    convert: "converts", or the slug of the reason why ``convert`` leaves it; convert_detail: into
    what by default (target, number of groups, channels of one), or the reason.
    """

    node: str
    op_type: str
    channels: int | None
    epsilon: float | None
    num_groups: int | None
    scale: Range | None
    mean: Range | None
    var: Range | None
    dead: int
    outcome: str
    detail: str
    warning: str = ""
    convert: str = "no-target"
    convert_detail: str = "convert takes BatchNormalization"


@dataclass
class Inspection:
    """All normalizations of a model, in graph order, bodies and functions after the main graph.

    inlined: functions with norms; they are listed at each call, as fold and convert see them.
    """

    ir_version: int
    opset: int
    producer: str
    nodes: int
    norms: list[Norm] = field(default_factory=list)
    inlined: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain data, ready for JSON."""
        return asdict(self)


def inspect(
    model: str | os.PathLike[str] | ModelProto | Any,
    *,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
) -> Inspection:
    """List every normalization of ``model``: kind, statistics, what becomes of it and why.

    That is what ``fold`` and, to group normalization and without data, ``convert`` do with it.
    Arguments and errors are those of ``normsurgery.fold``; nothing is written.
    """
    content, _ = models.take(model)
    nodes = sum(len(scope.nodes) for scope in Graph(content, freeze_inputs=freeze_inputs).scopes)
    inlined = inlining.inline(content)
    result = fold(content, freeze_inputs=freeze_inputs, max_constant_bytes=max_constant_bytes)
    outcomes: dict[str, Folded | Kept | Merged] = {f.output: f for f in result.report.folded}
    outcomes.update({k.output: k for k in result.report.kept})
    outcomes.update({m.norm: m for m in result.report.merged})
    graph = Graph(content, freeze_inputs=freeze_inputs)
    producer = f"{content.proto.producer_name} {content.proto.producer_version}".strip()
    inspection = Inspection(
        content.proto.ir_version, graph.main.opset, producer, nodes, inlined=inlined
    )
    limits = Limits(max_constant_bytes)
    converts = outlook(graph, limits)
    for scope in graph.scopes:
        styled = {id(site.node): site for site in adain.sites(scope, limits)}
        for node in scope.nodes:
            told = converts.get(id(node))
            if id(node) in styled:
                inspection.norms.append(_adain(scope, styled[id(node)]))
            elif node.op_type in KINDS and scope.is_onnx(node):
                norm = _norm(scope, node, outcomes, limits)
                inspection.norms.append(norm if told is None else _with(norm, told))
            elif told is not None:
                inspection.norms.append(_taken_apart(scope, told, outcomes, limits))
    return inspection


def _with(norm: Norm, told: Outlook) -> Norm:
    return replace(norm, convert=told.outcome, convert_detail=told.detail)


def _taken_apart(
    scope: Scope, told: Outlook, outcomes: dict[str, Folded | Kept | Merged], limits: Limits
) -> Norm:
    """Return the entry of a BatchNormalization that an exporter wrote as elementwise nodes.

    fold takes each of them by itself, and lists those alone that go; the last tells of all.
    """
    node = told.node
    outcome = outcomes.get(node.output[0])
    if outcome is None:
        source = table.load().sources[node.op_type](scope, node, limits)
        found = (
            source
            if source is None or isinstance(source, Obstacle)
            else plan.plan(scope, source, limits)
        )
        if isinstance(found, Obstacle):
            outcome = Kept(node.name, node.op_type, found.reason, found.text, node.output[0])
    folds, detail = _outcome(outcome, node)
    bn = told.bn
    return Norm(
        node.name or node.output[0],
        told.kind,
        None if bn is None else bn.channels,
        None,
        None,
        None if bn is None else _range(bn.scale),
        None if bn is None else _range(bn.mean),
        None if bn is None else _range(bn.var),
        0 if bn is None else int((bn.scale == 0).sum()),
        folds,
        detail,
        convert=told.outcome,
        convert_detail=told.detail,
    )


def _adain(scope: Scope, site: adain.Site) -> Norm:
    """Return the entry of an instance norm whose scale and bias are computed of other inputs."""
    dims = shapes.dims(scope, site.x)
    epsilon = site.epsilon
    if epsilon is None:
        epsilon = float_attribute(site.node, "epsilon", 1e-5)
    styles = ", ".join(f"`{name}`" for name in site.styles)
    fix = " ".join(f"--fix {name}=FILE" for name in site.styles)
    return Norm(
        site.node.name or site.node.output[0],
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
    )


def _norm(
    scope: Scope, node: NodeProto, outcomes: dict[str, Folded | Kept | Merged], limits: Limits
) -> Norm:
    name = node.name or next((o for o in node.output if o), "")
    scale, mean, var = (_vector(scope, node, slot, limits) for slot in KINDS[node.op_type])
    outcome, detail = _outcome(outcomes.get(node.output[0]), node)
    groups = int_attribute(node, "num_groups", 0) or None
    warning = ""
    if node.op_type == "GroupNormalization":
        warning = "onnxruntime's CPU provider has no kernel for it: slow, and less exact"
    return Norm(
        name,
        node.op_type,
        None if scale is None else scale.size,
        float_attribute(node, "epsilon", 1e-5) if node.op_type != "LpNormalization" else None,
        groups,
        _range(scale),
        _range(mean),
        _range(var),
        0 if scale is None else int((scale == 0).sum()),
        outcome,
        detail,
        warning,
    )


def _outcome(outcome: Folded | Kept | Merged | None, node: NodeProto) -> tuple[str, str]:
    if isinstance(outcome, Kept):
        return outcome.slug, outcome.reason
    if isinstance(outcome, Merged):
        return "folds", f"into {outcome.into}, with the branches beside it"
    if isinstance(outcome, Folded):
        left = ", its shift as an Add" if outcome.shift_left else ""
        return "folds", "into " + ", ".join(outcome.into) + left
    return "data-dependent", f"{node.op_type} computes its statistics from the data"


def _vector(scope: Scope, node: NodeProto, slot: int | None, limits: Limits) -> Any:
    if slot is None or slot >= len(node.input) or not node.input[slot]:
        return None
    found = constant_of(scope, node.input[slot], limits)
    return found.float64() if isinstance(found, Constant) else None


def _range(values: Any) -> Range | None:
    return (
        Range(float(values.min()), float(values.max()))
        if values is not None and values.size
        else None
    )

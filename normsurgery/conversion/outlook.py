"""What ``convert`` would do with each norm of a graph, told without data and without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery import norms
from normsurgery.conversion import deciding, sample_norms, sites
from normsurgery.conversion.grouping import Grouping
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.report import Left
from normsurgery.conversion.selection import Selection
from normsurgery.conversion.sites import Site

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.conversion.start import BatchNorm
    from normsurgery.graph import Graph

TARGET = "group"


@dataclass(frozen=True)
class Outlook:
    """One norm, of which ``node`` is the only or the last node.

    kind: the operator; of a norm that was taken apart, what it is or what is left of it.
    outcome: *converts*, or the slug of the reason why it stays. detail: into what, or the reason.
    bn: its constants, where they are told.
    """

    node: NodeProto
    kind: str
    outcome: str
    detail: str
    bn: BatchNorm | None = None


def outlook(graph: Graph, limits: Limits) -> dict[int, Outlook]:
    """Return what ``convert`` with its defaults makes of each norm, by ``id`` of its node.

    Norms over samples stay, as convert takes BatchNormalization; whether ``--to batch`` would take
    them back is told. Nothing is changed. Raises ``GraphError`` for a norm that is none.
    """
    found = list(sites.find(graph, limits))
    there = [one for one in found if isinstance(one, Site)]
    wished = Layer("", "", 1, TARGET, 1)
    chosen = deciding.chosen(there, wished, Grouping(), Selection())
    told = {id(site.node): _of_site(site, layer) for site, layer in zip(there, chosen, strict=True)}
    for one in found:
        if not isinstance(one, Site):
            outcome, detail = one.obstacle.reason, one.obstacle.text
            told[id(one.node)] = Outlook(one.node, one.kind, outcome, detail)
    for other in sample_norms.find(graph):
        if isinstance(other, Left):
            continue
        detail = "a norm of each sample already; --to batch takes it back, with --data"
        told[id(other.node)] = Outlook(other.node, other.node.op_type, "sample-norm", detail)
    return told


def _of_site(site: Site, layer: Layer) -> Outlook:
    kind = site.node.op_type
    if kind != "BatchNormalization":
        kind = "decomposed BatchNormalization"
    if layer.to == KEEP:
        return Outlook(site.node, kind, deciding.slug(layer), layer.note, site.bn)
    detail = f"{layer.to}, {layer.groups} of {site.channels // layer.groups}"
    least = min(norms.load()[layer.to].encodings.values())
    if site.scope.graph.main.opset < least:
        detail += f"; the operator set has to be raised to {least}"
    return Outlook(site.node, kind, "converts", detail, site.bn)

"""Put one norm in the place of another, as its layer of the plan says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from normsurgery import edits, norms, shapes
from normsurgery.conversion import absorbing
from normsurgery.conversion.report import Converted
from normsurgery.conversion.sites import as_one_node
from normsurgery.conversion.start import Start, gauge_of, start, unsigned
from normsurgery.folding.obstacles import Obstacle
from normsurgery.norms import Norm, Writer
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.constants import Limits
    from normsurgery.conversion.layers import Layer
    from normsurgery.conversion.sites import Site
    from normsurgery.conversion.start import Gauge
    from normsurgery.norms import Encoding


@dataclass(frozen=True)
class Handed:
    """What the new norm gets: the value that it reads, and where it starts.

    affine: what became of the map in front: *fold*, *keep* or *none*.
    """

    value: str
    start: Start
    gauge: str
    affine: str
    into: tuple[str, ...] = ()
    k: float = 1.0
    unbiased: str = ""
    note: str = ""


def rewrite(site: Site, layer: Layer, limits: Limits) -> Converted:
    """Convert one norm in place: the affine map in front of it, then the norm itself.

    The value that it makes keeps its name. ``layer`` has been checked against ``site``.
    """
    was, name = site.node.op_type, site.name
    as_one_node(site)
    output = site.output
    between = _rename_output(site)
    if layer.to == "affine":
        edits.skip(site.scope, site.node)
        map_ = site.bn.affine
        plain = Start(map_, 1, map_.a, map_.b, 0.0)
        handed = Handed(site.value, plain, "none", "none", note=layer.note)
    else:
        handed = _hand_over(site, layer, between, limits)
    norm = Norm(handed.start.groups, handed.start.scale, handed.start.B, handed.start.epsilon)
    writer = Writer(site.scope, name, output, site.elem_type, site.dims)
    write = norms.load()[layer.to].write
    last = write(writer, handed.value, norm, cast("Encoding", layer.encoding))
    writer.close(last, site.node)
    return Converted(
        name, output, was, layer.to, site.channels, norm.groups, handed.gauge, norm.epsilon,
        handed.affine, layer.encoding, handed.into, handed.k, handed.unbiased, handed.note,
    )  # fmt: skip


def _rename_output(site: Site) -> str:
    """Give what the node makes a name of its own, so that the new norm can make the old name."""
    scope, output = site.scope, site.output
    name = scope.graph.unique_name(f"{output}/handed_over")
    site.node.output[0] = name
    del scope.producer[output]
    scope.producer[name] = site.node
    shapes.declare(scope, name, site.elem_type, site.dims)
    return name


def _hand_over(site: Site, layer: Layer, between: str, limits: Limits) -> Handed:
    """Fold the map in front of the norm, keep it, or leave it out."""
    gauge = gauge_of(layer.gauge)
    affine = "none" if gauge == "none" else layer.affine
    sums = None
    if gauge == "balance":
        sums = absorbing.sums(site.scope, site.value, site.channels, limits)
    begun = start(site.bn, layer.groups, gauge, layer.epsilon, sums)
    single = layer.groups == site.channels
    unbiased = absorbing.drop_bias(site.scope, site.value) if single else ""
    note = layer.note
    if affine in {"auto", "fold"}:
        wanted = absorbing.drop_shift(begun) if single else begun
        found = absorbing.absorb(site.scope, site.node, wanted, limits)
        if isinstance(found, Obstacle) and found.reason == "negative-scale" and gauge == "balance":
            wanted = unsigned(wanted)  # a maximum lies between: it lets positive scales pass alone
            found = absorbing.absorb(site.scope, site.node, wanted, limits)
        if not isinstance(found, Obstacle):
            return Handed(between, found.start, gauge, "fold", found.into, found.k, unbiased, note)
        note = "; ".join(part for part in (note, found.text) if part)
        affine = "keep" if affine == "auto" else "none"
    if affine == "keep":
        _keep_as_frozen(site, begun, gauge)
        return Handed(between, begun, gauge, "keep", unbiased=unbiased, note=note)
    begun = start(site.bn, layer.groups, "none", layer.epsilon)
    edits.skip(site.scope, site.node)
    return Handed(site.value, begun, "none", "none", unbiased=unbiased, note=note)


def _keep_as_frozen(site: Site, begun: Start, gauge: Gauge) -> None:
    """Make the BatchNormalization the map in front: its scale and bias are the gauge's."""
    u, v, _ = site.bn.gauged(gauge)
    turned = np.where(np.sign(begun.before.a) == -np.sign(u), -1.0, 1.0)  # by gauge *balance*
    for slot, what, values in ((1, "scale", turned * u), (2, "bias", v)):
        constant = Computed(values, (), site.vector_type)
        edits.set_constant(site.scope, site.node, slot, f"{site.name}.{what}_before", constant)

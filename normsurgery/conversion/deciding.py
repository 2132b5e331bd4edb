"""What becomes of each norm: by the options, or by a plan that was read back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from normsurgery import norms
from normsurgery.conversion import sample_norms
from normsurgery.conversion.layers import KEEP, Layer
from normsurgery.conversion.selection import Candidate, Selection
from normsurgery.errors import UsageError
from normsurgery.nodes import label

if TYPE_CHECKING:
    from normsurgery.conversion.grouping import Grouping
    from normsurgery.conversion.sites import Site

ERASED = "the norm would erase the data"
IN_FRONT = "which normalizes it already"


def chosen(
    there: list[Site], wished: Layer, grouping: Grouping, selection: Selection
) -> list[Layer]:
    """Return a layer for each site, from the options."""
    candidates = [Candidate(site.name, site.output, site.channels) for site in there]
    target = norms.load()[wished.to]
    made = []
    for site, skipped in zip(there, selection.skipped(candidates), strict=True):
        groups, note = grouping.of(site.channels)
        if target.grouped is not None:
            groups, note = target.grouped(site.channels), ""
        layer = replace(
            wished,
            output=site.output, node=site.name, channels=site.channels, groups=groups, note=note,
        )  # fmt: skip
        refused = skipped or _refused(site, layer)
        made.append(replace(layer, to=KEEP, note=refused) if refused else layer)
    return made


def slug(layer: Layer) -> str:
    """Return the slug of why a norm is kept: a selection or the plan says so, or it cannot be."""
    slugs = {ERASED: "one-element", IN_FRONT: "in-front-of-norm"}
    return next((slug for end, slug in slugs.items() if layer.note.endswith(end)), "selection")


def _refused(site: Site, layer: Layer) -> str:
    """Return why a norm would be none, or one too many.

    A group of one element is its own mean. A BatchNormalization right in front of a norm over
    samples is the map that an earlier conversion kept there, or as good as one.
    """
    if layer.to == "affine":
        return ""
    behind = sample_norms.behind(site.scope, site.output)
    if behind is not None:
        return f"it hands its output to {label(behind)}, {IN_FRONT}"
    if site.positions is None or site.channels // layer.groups * site.positions > 1:
        return ""
    return f"{layer.groups} groups of one element each: {ERASED}"


def planned(there: list[Site], wanted: list[Layer]) -> list[Layer]:
    """Return a layer for each site, from a plan; what the plan leaves out is kept.

    Raises ``UsageError`` for an entry that is of no norm here, or whose norm would be none.
    """
    by_output = {layer.output: layer for layer in wanted}
    unknown = by_output.keys() - {site.output for site in there}
    if unknown:
        raise UsageError(f"the plan has an entry for `{min(unknown)}`, which no norm here makes")
    made = []
    for site in there:
        layer = by_output.get(site.output)
        if layer is None:
            made.append(Layer(site.output, site.name, site.channels, KEEP, note="not in the plan"))
            continue
        if layer.channels != site.channels:
            raise UsageError(
                f"the plan's entry for `{site.output}` has {layer.channels} channels, "
                f"the norm {site.channels}; write the plan anew"
            )
        refused = _refused(site, layer) if layer.to != KEEP else ""
        if refused:
            raise UsageError(f"the plan's entry for `{site.output}`: {refused}")
        made.append(layer)
    return made

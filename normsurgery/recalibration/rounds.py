"""In which order BatchNormalizations are measured: those that wait for the same others together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normsurgery.graph import Scope
    from normsurgery.recalibration.sites import Site


def rounds(scope: Scope, sites: list[Site]) -> list[list[Site]]:
    """Return the sites by depth: how many others lie at most on a path from an input to one.

    The statistics of a norm's input depend on the statistics of those before it, and on no others.
    """
    wanted = {id(site.node) for site in sites}
    depth: dict[str, int] = {}  # by value: how many of the sites are before it, itself included
    for site in sites:
        waiting = [site.node.output[0]]
        while waiting:
            name = waiting[-1]
            maker = scope.producer.get(name)
            if name in depth or maker is None:
                depth.setdefault(name, 0)
                waiting.pop()
                continue
            missing = [one for one in scope.reads(maker) if one not in depth]
            if missing:
                waiting += missing
                continue
            before = max((depth[one] for one in scope.reads(maker)), default=0)
            depth.update(dict.fromkeys(maker.output, before + (id(maker) in wanted)))
            waiting.pop()
    grouped: dict[int, list[Site]] = {}
    for site in sites:
        grouped.setdefault(depth[site.node.output[0]], []).append(site)
    return [grouped[one] for one in sorted(grouped)]

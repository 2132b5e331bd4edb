"""Identity, and Dropout at inference time."""

from __future__ import annotations

from normsurgery.folding.table import Carried, Site, carrier


@carrier("Identity")
def identity(site: Site) -> Carried:
    """``y = x``: the map moves on as it is."""
    return Carried((), ((site.node.input[0], site.affine, site.axis),))

"""BatchNormalization absorbs a map into its scale and bias: BN over BN."""

from __future__ import annotations

import numpy as np

from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import check_channels, derived, weight
from normsurgery.folding.sources.batch_normalization import inference_mode
from normsurgery.folding.table import Edit, Site, sink
from normsurgery.payloads import Computed


@sink("BatchNormalization")
def batch_normalization(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``a·(scale·x̂ + B) + b = (a·scale)·x̂ + (a·B + b)``, x̂ the standardised input.

    Statistics stay as they are, so this also works where they are large or tiny.
    Source: ONNX operator BatchNormalization, versions 1 to 15.
    """
    refused = inference_mode(site.scope, site.node)
    if refused is not None:
        return refused
    if site.axis != 1:
        return obstacles.no_channel(site.node, f"the map acts on axis {site.axis}, not on channels")
    scale, B = weight(site, 1, "scale"), weight(site, 2, "B")
    if isinstance(scale, Obstacle):
        return scale
    if isinstance(B, Obstacle):
        return B
    check_channels(site, int(np.prod(scale.shape)))
    a, b = site.affine.a, site.affine.b
    return (
        Edit(site.node, 1, Computed(a * scale.float64(), (), scale.elem_type), derived(scale.name)),
        Edit(site.node, 2, Computed(a * B.float64() + b, (), B.elem_type), derived(B.name)),
    )

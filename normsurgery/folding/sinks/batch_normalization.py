"""BatchNormalization absorbs a map into its scale and bias: BN over BN."""

from __future__ import annotations

import numpy as np

from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle
from normsurgery.folding.sinks.parts import acts_on, affine_of, derived, weight
from normsurgery.folding.sources.batch_normalization import PARAMETERS, epsilon, inference_mode
from normsurgery.folding.table import Edit, Site, forward_sink, sink
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
    if not acts_on(site, 1):
        return obstacles.no_channel(site.node, f"the map acts on axis {site.axis}, not on channels")
    scale, B = weight(site, 1, "scale"), weight(site, 2, "B")
    if isinstance(scale, Obstacle):
        return scale
    if isinstance(B, Obstacle):
        return B
    affine = affine_of(site, int(np.prod(scale.shape)))
    if isinstance(affine, Obstacle):
        return affine
    a, b = affine.a, affine.b
    new_scale = Computed(a * scale.float64(), (), scale.elem_type)
    return (
        Edit(site.node, 1, new_scale, derived(scale.name), product=True),
        Edit(site.node, 2, Computed(a * B.float64() + b, (), B.elem_type), derived(B.name)),
    )


@forward_sink("BatchNormalization")
def batch_normalization_of_affine(site: Site) -> tuple[Edit, ...] | Obstacle:
    """``s·(a·x + b − mean) + B = (s·a)·(x − mean) + (B + s·(a·mean + b − mean))``.

    Here ``s = scale/√(var + epsilon)``; the statistics stay, so that nothing is divided by a.
    Source: ONNX operator BatchNormalization, versions 1 to 15.
    """
    refused = inference_mode(site.scope, site.node)
    if refused is not None:
        return refused
    if site.source.op_type == "BatchNormalization" and site.value == site.source.output[0]:
        # the later of two merges into the earlier, whose statistics are those of its input
        return obstacles.not_linear(site.node)
    if not acts_on(site, 1) or site.slot != 0:
        return obstacles.no_channel(site.node, f"the map acts on axis {site.axis}, not on channels")
    found = [weight(site, slot, name) for slot, name in enumerate(PARAMETERS, start=1)]
    constants = [c for c in found if not isinstance(c, Obstacle)]
    if len(constants) < len(found):
        return next(c for c in found if isinstance(c, Obstacle))
    scale, B, mean, var = (c.float64() for c in constants)
    affine = affine_of(site, scale.size)
    if isinstance(affine, Obstacle):
        return affine
    s = scale / np.sqrt(var + epsilon(site.node))
    if not np.all(np.isfinite(s)):
        return obstacles.not_finite(site.node, int(np.argmin(np.isfinite(s))))
    new_scale = Computed(scale * affine.a, (), constants[0].elem_type)
    shift = s * (affine.a * mean + affine.b - mean)
    new_B = Computed(B + shift, (), constants[1].elem_type)
    return (
        Edit(site.node, 1, new_scale, derived(constants[0].name), product=True),
        Edit(site.node, 2, new_B, derived(constants[1].name)),
    )

"""``normsurgery.pytorch.distill``: a converted model taught by the original, without labels.

A converted norm starts where the running statistics put it. What a sample's own statistics do
besides can be learned away from a few dozen samples: scale and bias of the converted norms alone
are trained to give the original's outputs. All other weights stay as they are.

The loss is, over the outputs, the mean of ``mean((y − t)²) / var(t)``: t the original's output, its
variance over all samples in use. Samples that are not trained on say when to stop.
"""

from __future__ import annotations

from normsurgery.pytorch.distilling.api import DistillReport, DistillResult, distill

__all__ = ["DistillReport", "DistillResult", "distill"]

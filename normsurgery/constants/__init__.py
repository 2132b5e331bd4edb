"""What is constant in a graph, and its value: tensors, and cones of operators over them.

Exporters write constants in many ways: initializers, Constant nodes, Identity of either, and
*cones*, small computations over constants (torch's dynamo exporter writes a missing bias as
``Shape → Expand → CastLike → Expand``; weight norm and spectral norm are cones). ``constant_of``
sees through all of them. A stored tensor is not read, only mapped; a cone's floats are computed in
float64 and rounded where a Cast says so, once more when they are written.
"""

from __future__ import annotations

from normsurgery.constants.values import Constant, Limits, NotConstant, constant_of

__all__ = ["Constant", "Limits", "NotConstant", "constant_of"]

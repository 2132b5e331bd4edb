"""Write weights that a model computes from constants at every run as the constants that they are.

torch's dynamo exporter computes a missing bias, weight norm and spectral norm are computed
weights, caffe2 wrote whole initialisation nets. Where such a cone feeds a linear layer or a
normalization, its value takes its place; runtimes that do not fold it run the layer much slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery import dtypes, edits
from normsurgery.constants import Constant, constant_of
from normsurgery.folding import representable
from normsurgery.folding.sinks.parts import derived
from normsurgery.folding.table import Edit

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope

LAYERS = frozenset(
    {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization",
        "GroupNormalization", "LayerNormalization",
    }
)  # fmt: skip


def bake(scope: Scope, node: NodeProto, limits: Limits) -> list[str]:
    """Replace the computed constants among the node's inputs; return the new tensors' names.

    Values are computed in float64 and rounded once, so they may differ from those of the run in
    their last place. A Constant node, or the Identity of an initializer, is no computation.
    """
    if node.op_type not in LAYERS or not scope.is_onnx(node):
        return []
    names = []
    for slot, name in enumerate(node.input):
        if not _is_computed(scope, name):
            continue
        constant = constant_of(scope, name, limits)
        if not isinstance(constant, Constant) or constant.elem_type not in dtypes.FLOATS:
            continue
        edit = Edit(node, slot, constant.tensor, derived(name))
        if representable.check([edit]) is None:
            names.append(edits.set_constant(scope, node, slot, edit.wanted, edit.tensor))
    return names


def _is_computed(scope: Scope, name: str) -> bool:
    """Whether a node other than Constant and Identity makes the value."""
    while (maker := scope.producer.get(name)) is not None:
        if maker.op_type != "Identity":
            return maker.op_type != "Constant"
        name = maker.input[0]
    return False

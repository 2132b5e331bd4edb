"""The factor k that gives a layer's weights the norm of freshly drawn ones, as a power of two.

Folding BatchNormalization into a layer multiplies its weights by scale/σ, and what norm they had
in training is lost. In front of a norm their scale does not matter to the function, but a gradient
step turns them in proportion to 1/‖W‖², so it matters to training. ``√(2·C_out)`` is the norm that
He's initialization draws: C_out · fan_in weights of variance 2/fan_in (He et al. 2015,
https://arxiv.org/abs/1502.01852). The nearest power of two comes within √2 of it, and multiplies
without a rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, edits
from normsurgery.constants import Constant, constant_of
from normsurgery.nodes import int_attribute
from normsurgery.payloads import Computed, blocks_of

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.graph import Scope

_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True)
class Scaling:
    """A layer's weights and bias times k: by slot, the wanted name and the new value."""

    k: float
    tensors: dict[int, tuple[str, Computed]]


UNSCALED = Scaling(1.0, {})


def to_drawn_norm(scope: Scope, node: NodeProto, elem_type: int) -> Scaling:
    """Return the layer's weights times k; ``UNSCALED`` where that cannot be done exactly.

    That is where weights or bias are computed at run time, quantized or shared with another node,
    in float16 (where k·x may overflow), and where a product would not be exact.
    """
    if elem_type not in {dtypes.FLOAT, dtypes.DOUBLE} or not _is_own(scope, node.input[1]):
        return UNSCALED
    found: dict[int, Constant] = {}
    for slot in (1, _BIAS.get(node.op_type, 1)):
        if slot >= len(node.input) or not node.input[slot]:
            continue
        constant = constant_of(scope, node.input[slot])
        if not isinstance(constant, Constant) or constant.elem_type != elem_type:
            return UNSCALED
        found[slot] = constant
    weight = found[1].tensor
    norm = np.sqrt(sum(float(np.square(block).sum()) for block in weight.blocks()))
    channels = _outputs(node, weight.base.shape)
    if not np.isfinite(norm) or norm == 0 or not channels:
        return UNSCALED
    k = float(2.0 ** np.rint(np.log2(np.sqrt(2 * channels) / norm)))
    if k == 1 or not all(_is_exact(one.tensor, k) for one in found.values()):
        return UNSCALED
    factor = np.array(k)
    return Scaling(
        k,
        {slot: (f"{one.name}_unfolded", one.tensor.scaled(factor)) for slot, one in found.items()},
    )


def apply(scope: Scope, node: NodeProto, scaling: Scaling) -> None:
    """Give the layer its new weights and bias."""
    for slot, (wanted, tensor) in scaling.tensors.items():
        edits.set_constant(scope, node, slot, wanted, tensor)


def _is_own(scope: Scope, name: str) -> bool:
    """Whether ``name`` is stored as it is, for one reader only: neither quantized nor tied."""
    maker = scope.producer.get(name)
    stored = name in scope.initializers or (maker is not None and maker.op_type == "Constant")
    return stored and scope.only_reader(name)


def _outputs(node: NodeProto, shape: tuple[int, ...]) -> int:
    """Return the number of output channels that weights of ``shape`` make."""
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * int_attribute(node, "group", 1)
    return shape[0] if int_attribute(node, "transB", 0) else shape[-1]


def _is_exact(tensor: Computed, k: float) -> bool:
    """Whether every product with k is a normal number of the tensor's type, or 0."""
    tiny, largest = dtypes.tiny(tensor.elem_type), dtypes.largest(tensor.elem_type)
    for block in blocks_of(tensor.base) if not tensor.factors else tensor.blocks():
        sizes = np.abs(np.asarray(block, np.float64)) * k
        if np.any((sizes > largest) | ((sizes < tiny) & (sizes > 0))):
            return False
    return True

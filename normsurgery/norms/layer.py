"""Layer normalization over channels and positions: one group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery.norms.group import ENCODINGS, group
from normsurgery.norms.table import Encoding, Norm, target

if TYPE_CHECKING:
    from normsurgery.norms.writing import Writer


@target("layer", {**ENCODINGS, "native": 17}, grouped=lambda _: 1)
def layer(writer: Writer, value: str, norm: Norm, encoding: Encoding) -> str:
    """Normalize a sample (C, H, W) as a whole: group normalization with one group.

    *native* is LayerNormalization from axis 1 on, whose scale and bias (C, 1, 1) broadcast over
    the positions: its statistics are those of one group; PyTorch's ``LayerNorm([C, H, W])`` has a
    scale for each element in place of one for each channel.
    """
    if encoding != "native":
        return group(writer, value, norm, encoding)
    scale = writer.per_channel("scale", norm.scale)
    B = writer.per_channel("bias", norm.B)
    return writer.add("LayerNormalization", value, scale, B, axis=1, epsilon=norm.epsilon)

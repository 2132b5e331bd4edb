"""Instance normalization, https://arxiv.org/abs/1607.08022: each channel of a sample by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery.norms.group import ENCODINGS, group
from normsurgery.norms.table import Encoding, Norm, target

if TYPE_CHECKING:
    from normsurgery.norms.writing import Writer


@target("instance", {**ENCODINGS, "native": 7}, grouped=lambda channels: channels)
def instance(writer: Writer, value: str, norm: Norm, encoding: Encoding) -> str:
    """Normalize each channel over its positions: group normalization with as many groups.

    *native* and *instance* are one InstanceNormalization; *layer* is that of group normalization.
    """
    return group(writer, value, norm, "instance" if encoding == "native" else encoding)

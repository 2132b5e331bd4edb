"""The affine map that an inference-mode BatchNormalization is, for good: frozen BN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery.norms.group import scaled
from normsurgery.norms.table import Encoding, Norm, target

if TYPE_CHECKING:
    from normsurgery.norms.writing import Writer


@target("affine", {"native": 7}, grouped=lambda _: 1)
def affine(writer: Writer, value: str, norm: Norm, encoding: Encoding) -> str:
    """``y = scale·x + B`` as Mul and Add: no statistics, so that nothing can start to move them.

    The function stays the same. Training tools turn a BatchNormalization back on; they leave these
    two alone, or train both constants.
    """
    return scaled(writer, value, norm)

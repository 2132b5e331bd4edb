"""Whether folded coefficients survive the one rounding to their tensor's type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery import dtypes
from normsurgery.folding import obstacles
from normsurgery.payloads import BLOCK, blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from normsurgery.folding.obstacles import Obstacle
    from normsurgery.folding.table import Edit
    from normsurgery.payloads import Computed


def check(edits: Iterable[Edit]) -> Obstacle | None:
    """Return the first edit that overflows, underflows or was not finite to begin with.

    Let W be the coefficients that share a factor f, and p = max |W|. The rounded f·W are finite if
    ``|f|·p`` is at most the type's largest number. They keep their accuracy relative to the
    largest of them (error at most half an ulp of it) unless ``0 < |f|·p`` is below the type's
    smallest normal number. Even that is no harm in a dead channel: where a constant is added next
    to which the whole sum of products is under half an ulp, whatever finite the input is
    (``_vanishes``).
    """
    for edit in edits:
        elem_type = edit.tensor.elem_type
        if elem_type not in dtypes.FLOATS:  # integers are made to fit
            continue
        peaks = np.abs(edit.tensor.float64()) if edit.product else peak(edit.tensor)
        if not np.all(np.isfinite(peaks)):
            return obstacles.weight_not_finite(edit.node, edit.wanted)
        over = np.argwhere(peaks > dtypes.largest(elem_type))
        if over.size:
            return obstacles.overflow(edit.node, edit.wanted, _channel(over[0], peaks), elem_type)
        if (
            not edit.tensor.factors and not edit.product
        ):  # a sum, as a bias is: small means small next to the rest
            continue
        under = np.argwhere(
            (peaks > 0) & (peaks < dtypes.tiny(elem_type)) & ~_vanishes(edit, peaks)
        )
        if under.size:
            return obstacles.underflow(edit.node, edit.wanted, _channel(under[0], peaks), elem_type)
    return None


def _vanishes(edit: Edit, peaks: dtypes.Float64) -> Any:
    """Whether ``Σ w·x`` is under half an ulp of what is added to it, for every |x| up to a reach.

    The reach is the type's largest number, or 2**64 where that is less: networks whose activations
    are larger have long overflowed elsewhere.
    """
    if edit.beside is None:
        return np.zeros(peaks.shape, bool)
    elem_type = edit.tensor.elem_type
    reach = min(dtypes.largest(elem_type), 2.0**64)
    return peaks * reach * edit.terms <= np.abs(edit.beside) * dtypes.half_ulp(elem_type)


def peak(tensor: Computed) -> dtypes.Float64:
    """Return the largest magnitude of the unrounded values that share each factor."""
    if not tensor.factors:
        if tensor.base.size <= BLOCK:
            return np.abs(tensor.float64())
        return np.array([np.abs(block).max() for block in tensor.blocks()])
    shape = np.broadcast_shapes(*(f.shape for f in tensor.factors))
    result = _peak_of_base(tensor, shape)
    with np.errstate(over="ignore", invalid="ignore"):
        for factor in tensor.factors:
            result = result * np.abs(factor)
    return result


def _peak_of_base(tensor: Computed, shape: tuple[int, ...]) -> dtypes.Float64:
    """Return max |base| over every axis along which ``shape`` is 1, reading it in blocks."""
    base = tensor.base
    if base.size == 0:
        return np.zeros(shape)
    axes = tuple(i for i, d in enumerate(shape) if d == 1)
    if shape[0] == 1:
        parts = [_reduce(part, axes) for part in blocks_of(base)]
        return np.asarray(np.maximum.reduce(parts))
    return np.concatenate([_reduce(part, axes) for part in blocks_of(base)])


def _reduce(part: dtypes.Array, axes: tuple[int, ...]) -> dtypes.Float64:
    if part.dtype.itemsize < 4:  # NumPy is slow at half precision
        part = part.astype(np.float32)
    return np.asarray(np.abs(part).max(axis=axes, keepdims=True), np.float64)


def _channel(index: dtypes.Array, peaks: dtypes.Float64) -> int:
    """Return the position along the longest axis, which is the channel's."""
    return int(index[int(np.argmax(peaks.shape))])

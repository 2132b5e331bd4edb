"""``normsurgery.fold``: the verb as a library function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normsurgery import arguments, folding, inlining, models
from normsurgery.constants import Limits

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from onnx import ModelProto

    from normsurgery.folding import FoldResult
    from normsurgery.report import Kept


def fold(
    model: str | os.PathLike[str] | ModelProto | Any,
    *,
    fixed: Mapping[str, Any] | None = None,
    freeze_inputs: bool = False,
    max_constant_bytes: int = Limits.nbytes,
    max_inlined_nodes: int = inlining.MOST_NODES,
) -> FoldResult:
    """Fold every affine map per channel that algebra allows into the linear layers around it.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed. A file's
    weights are read when they are needed: replace it while the result is in use (as ``save`` does),
    but do not write into it.
    fixed: values for inputs of the graph, by name, that the folded model no longer has; arrays of
    the input's type and shape (float64 is rounded to a narrower float type).
    freeze_inputs: fold initializers that are graph inputs too, which a caller could override.
    max_constant_bytes: what evaluating one constant may take; models can ask for any size.
    max_inlined_nodes: local functions with norms or linear layers are put where they are called,
    unless the main graph would have more nodes than this.

    The function computed stays the same: coefficients are formed in float64 and rounded once to
    their tensor's type. What stays is in ``result.report.kept``, each with its first obstacle.

    Raises ``UsageError`` for values that fit no input or arguments of a wrong type,
    ``InvalidModelError``, ``GraphError``, ``UnsafeModelError`` or ``ModelIOError``.
    """
    arguments.mappings(arguments.given(fixed=fixed))
    arguments.whole(
        {"max_constant_bytes": max_constant_bytes, "max_inlined_nodes": max_inlined_nodes}
    )
    limits = Limits(max_constant_bytes)
    content, form = models.take(model)
    restored: list[str] = []
    left: list[Kept] = []
    if fixed:
        from normsurgery.fixing.computing import fix

        restored, left = fix(content, fixed, limits)
    result = folding.fold(
        content,
        freeze_inputs=freeze_inputs,
        max_constant_bytes=max_constant_bytes,
        max_inlined_nodes=max_inlined_nodes,
    )
    result.form = form
    result.report.fixed = sorted(fixed or ())
    result.report.restored = restored
    result.report.kept += left
    return result

"""Which BatchNormalizations can get new statistics, and what they have now."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes, edits
from normsurgery.constants import Constant, NotConstant, constant_of
from normsurgery.errors import GraphError, UsageError
from normsurgery.folding.sources.batch_normalization import epsilon, inference_mode
from normsurgery.nodes import label
from normsurgery.payloads import Computed
from normsurgery.recalibration.report import Left, Recalibrated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto

    from normsurgery.graph import Graph, Scope
    from normsurgery.moments import Moments

MEAN, VAR = 3, 4  # input slots of the operator


@dataclass(frozen=True)
class Site:
    """An inference-mode BatchNormalization of the main graph; mean and var as they are."""

    node: NodeProto
    name: str
    mean: Constant
    var: Constant

    @property
    def value(self) -> str:
        """The name of its input, whose statistics it wants."""
        return self.node.input[0]

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.mean.shape[0]


def find(graph: Graph, only: Sequence[str], skip: Sequence[str]) -> tuple[list[Site], list[Left]]:
    """Return what gets new statistics, and what does not with the reason.

    only, skip: shell patterns for the names of nodes; one without a name goes by its output.
    """
    found: list[Site] = []
    left: list[Left] = []
    for scope in graph.scopes:
        for node in scope.nodes:
            if node.op_type != "BatchNormalization" or not scope.is_onnx(node):
                continue
            name = node.name or node.output[0]
            one = _site(scope, node, name, only, skip)
            if isinstance(one, Left):
                left.append(one)
            else:
                found.append(one)
    return found, left


def _site(
    scope: Scope, node: NodeProto, name: str, only: Sequence[str], skip: Sequence[str]
) -> Site | Left:
    if (only and not _matches(name, only)) or _matches(name, skip):
        return Left(name, "not-selected", "not selected")
    if scope is not scope.graph.main:
        return Left(name, "in-body", "in a body or a function, whose values cannot be looked at")
    refused = inference_mode(scope, node)
    if refused is not None:
        return Left(name, refused.reason, refused.text)
    if len(node.input) != 5:
        raise GraphError(f"{label(node)} has {len(node.input)} inputs in place of 5")
    mean, var = (constant_of(scope, node.input[slot]) for slot in (MEAN, VAR))
    for which, one in (("mean", mean), ("var", var)):
        if isinstance(one, NotConstant):
            hint = "; --freeze-inputs takes it as it is" if one.kind == "overridable" else ""
            return Left(name, "not-constant", f"its {which} `{one.name}` is {one.detail}{hint}")
        if len(one.shape) != 1 or one.elem_type not in dtypes.FLOATS:
            raise GraphError(f"{label(node)}: {which} `{one.name}` is no vector of floats")
    if not (isinstance(mean, Constant) and isinstance(var, Constant)) or mean.shape != var.shape:
        raise GraphError(f"{label(node)}: mean and var differ in length")
    return Site(node, name, mean, var)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def replace(scope: Scope, site: Site, moments: Moments) -> Recalibrated:
    """Give the node the mean and the population variance of ``moments``, rounded once.

    Raises ``UsageError`` for statistics that are not finite, or not so in the node's type.
    """
    new = {MEAN: moments.mean, VAR: moments.var}
    for slot, old in ((MEAN, site.mean), (VAR, site.var)):
        rounded = dtypes.round_to(new[slot], old.elem_type).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(rounded))
        if bad.size:
            what = "mean" if slot == MEAN else "variance"
            raise UsageError(
                f"{label(site.node)}: the {what} of channel {bad[0]} of `{site.value}` is not "
                f"finite in {dtypes.name_of(old.elem_type)} on these data; leave the node out "
                "(--skip) or look at the data"
            )
    for slot, old in ((MEAN, site.mean), (VAR, site.var)):
        tensor = Computed(new[slot], (), old.elem_type)
        edits.set_constant(scope, site.node, slot, f"{old.name}_recalibrated", tensor)
    eps = epsilon(site.node)
    deviation = np.sqrt(site.var.float64() + eps)
    with np.errstate(all="ignore"):
        shift = np.abs(moments.mean - site.mean.float64()) / deviation
        ratio = np.sqrt(moments.var + eps) / deviation
    return Recalibrated(
        site.name,
        site.node.output[0],
        site.channels,
        moments.count,
        float(shift.max()),
        (float(ratio.min()), float(ratio.max())),
        int(np.sum(moments.M2 == 0)),
    )

"""What fold does with a norm: in its own words, or by asking for the plan that it did not find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery.folding import obstacles, plan, table
from normsurgery.folding.obstacles import Obstacle
from normsurgery.nodes import label
from normsurgery.report import Folded, Kept, Merged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope
    from normsurgery.inspection.composed import Composed

FOLDS = "folds"
DATA = "data-dependent"


@dataclass(frozen=True)
class Folding:
    """The outcomes of fold in one scope, by the value that a node makes."""

    scope: Scope
    outcomes: Mapping[str, Folded | Kept | Merged]
    limits: Limits

    def of(self, node: NodeProto) -> tuple[str, str]:
        """Return *folds* or the slug of the reason, and into what or the reason."""
        return _told(self.outcomes.get(node.output[0]), node)

    def of_elementwise(self, node: NodeProto) -> tuple[str, str]:
        """Return the same of a Mul or an Add, of which fold lists those alone that go."""
        outcome = self.outcomes.get(node.output[0])
        if outcome is not None:
            return _told(outcome, node)
        source = table.load().sources[node.op_type](self.scope, node, self.limits)
        found: object = source
        if source is None:
            found = obstacles.no_channel(node, "no constant along one axis")
        elif not isinstance(source, Obstacle):
            found = plan.plan(self.scope, source, self.limits)
        if isinstance(found, Obstacle):
            return found.reason, found.text
        return _told(None, node)

    def of_composed(self, norm: Composed) -> tuple[str, str]:
        """Return what becomes of scale and bias of a norm that stays itself."""
        both = (("scale", norm.scale), ("bias", norm.bias))
        told = [
            (what, *self.of_elementwise(one.node))
            for what, one in both
            if one is not None and one.node is not None
        ]
        stay = [slug for _, slug, _ in told if slug != FOLDS]
        if not told:
            return DATA, f"{norm.kind} computes its statistics from the data"
        if len(told) == 2:  # a scale that goes through the bias changes it on its way
            assert norm.bias is not None and norm.bias.node is not None  # noqa: S101, PT018
            here = label(norm.bias.node)
            passed = told[0][2].replace(f"{here}, ", "")
            if passed == f"into {here}" and told[1][1] == FOLDS:
                passed = told[1][2]
            told[0] = (*told[0][:2], passed)
        if len({detail for _, _, detail in told}) == 1:
            text = f"{' and '.join(what for what, _, _ in told)}: {told[0][2]}"
        else:
            text = "; ".join(f"{what}: {detail}" for what, _, detail in told)
        return stay[0] if stay else FOLDS, text


def _told(outcome: Folded | Kept | Merged | None, node: NodeProto) -> tuple[str, str]:
    if isinstance(outcome, Kept):
        return outcome.slug, outcome.reason
    if isinstance(outcome, Merged):
        return FOLDS, f"into {outcome.into}, with the branches beside it"
    if isinstance(outcome, Folded):
        left = ", its shift as an Add" if outcome.shift_left else ""
        return FOLDS, "into " + ", ".join(outcome.into) + left
    return DATA, f"{node.op_type} computes its statistics from the data"

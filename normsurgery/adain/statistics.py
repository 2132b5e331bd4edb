"""Read values as statistics: mean, variance, deviation of every sample and channel of a value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING

from normsurgery import shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.nodes import attribute, int_attribute
from normsurgery.shapes import Size

if TYPE_CHECKING:
    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope

LAYOUT = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Expand", "Flatten", "Identity"})
ARITHMETIC = frozenset({"Add", "Div", "Mul", "Pow", "Reciprocal", "Sqrt"})
_DEEPEST = 64  # nodes of one statistic, one behind the other


@dataclass(frozen=True)
class Statistic:
    """What a value is of the elements of ``of``, a value (N, C, …), along all axes from 2 on.

    kind: "mean"; "centred", the elements less their mean; "squares" of those; "var"; "std", the
    square root of ``factor·var + epsilon``; "inverse" of that. var with a factor f and epsilon e
    is ``f·var + e``, var the mean of the squares. A factor that depends on a number of positions
    which is not fixed, such as n/(n − 1), is NaN.
    """

    kind: str
    of: str
    factor: float = 1.0
    epsilon: float = 0.0


class Reader:
    """Reads the values of one scope; what was read is kept."""

    def __init__(self, scope: Scope, limits: Limits) -> None:
        self.scope, self.limits = scope, limits
        self.known: dict[str, Statistic | None] = {}
        self.depth = 0

    def of(self, name: str) -> Statistic | None:
        """Return the statistic that a value is, if it is one."""
        if name not in self.known:
            if self.depth >= _DEEPEST:
                return None
            self.depth += 1
            self.known[name] = None
            self.known[name] = self._read(name)
            self.depth -= 1
        return self.known[name]

    def _read(self, name: str) -> Statistic | None:
        node = self.scope.producer.get(name)
        if node is None or not self.scope.is_onnx(node) or node.output[0] != name or not node.input:
            return None
        if any(a.ref_attr_name for a in node.attribute):
            return None
        if node.op_type in {"ReduceMean", "ReduceSum"}:
            return self._reduced(node)
        if node.op_type in LAYOUT:
            found = self.of(node.input[0])
            reduced = found is not None and found.kind not in {"centred", "squares"}
            return found if found and reduced and self.aligned(name, found.of) else None
        if node.op_type == "Sub":
            of, mean = self.elements_of(node.input[0]), self.of(node.input[1])
            fits = mean == Statistic("mean", of) and self.broadcasts(node.input[1], node.input[0])
            return Statistic("centred", of) if fits else None
        return self._computed(node)

    def _computed(self, node: NodeProto) -> Statistic | None:
        """Read arithmetic on one statistic."""
        if node.op_type not in ARITHMETIC:
            return None
        first = self.of(node.input[0])
        other = node.input[1] if len(node.input) > 1 else ""
        if node.op_type == "Mul" and first is not None and other == node.input[0]:
            return replace(first, kind="squares") if first.kind == "centred" else None
        if first is None and node.op_type in {"Add", "Mul"} and other:
            first, other = self.of(other), node.input[0]
        if first is None:
            return None
        number = self.number(other) if other else None
        if node.op_type == "Pow" and first.kind == "centred" and number == 2:
            return replace(first, kind="squares")
        if first.kind == "var":
            if node.op_type == "Sqrt" or (node.op_type == "Pow" and number == 0.5):
                return replace(first, kind="std")
            return _of_variance(node.op_type, first, number)
        if first.kind == "std" and node.op_type == "Reciprocal":
            return replace(first, kind="inverse")
        return None

    def _reduced(self, node: NodeProto) -> Statistic | None:
        sizes = shapes.sizes(self.scope, node.input[0])
        axes = self._axes(node)
        if sizes is None or axes is None or len(sizes) < 3:
            return None
        if sorted(i % len(sizes) for i in axes) != list(range(2, len(sizes))):
            return None
        found = self.of(node.input[0])
        if found is not None and found.kind == "squares":
            if node.op_type == "ReduceMean":
                return replace(found, kind="var")
            count = Size.of(sizes[2:]).fixed
            return None if not count else replace(found, kind="var", factor=float(count))
        if found is not None or node.op_type == "ReduceSum":
            return None
        return Statistic("mean", self.elements_of(node.input[0]))

    def _axes(self, node: NodeProto) -> list[int] | None:
        old = attribute(node, "axes")
        if old is not None:
            return list(old.ints)
        if len(node.input) < 2 or not node.input[1]:
            return None
        found = constant_of(self.scope, node.input[1], self.limits)
        return [int(i) for i in found.tensor.base.ravel()] if isinstance(found, Constant) else None

    def elements_of(self, name: str) -> str:
        """Return the value whose elements ``name`` holds, positions on one axis or on several."""
        node = self.scope.producer.get(name)
        while node is not None and node.op_type in {"Reshape", "Identity"}:
            before, after = (shapes.sizes(self.scope, n) for n in (node.input[0], name))
            if before is None or after is None or len(before) < 3 or len(after) < 3:
                break
            told = shapes.target(self.scope, node) if node.op_type == "Reshape" else None
            if told is not None and None not in told:
                after = tuple(t for t in told if t is not None)
            if before[:2] != after[:2]:
                break
            name = node.input[0]
            node = self.scope.producer.get(name)
        return name

    def aligned(self, name: str, other: str) -> bool:
        """Whether a reduced value (N, C, 1 …) is repeated for each sample and channel of other."""
        own, whole = (shapes.sizes(self.scope, n) for n in (name, other))
        node = self.scope.producer.get(name)
        if node is not None and node.op_type == "Reshape":
            told = shapes.target(self.scope, node)
            if told is not None and None not in told:
                own = tuple(t for t in told if t is not None)
        if own is None or whole is None or len(own) < 2 or own[:2] != whole[:2]:
            return False
        if all(size == Size(1) for size in own[2:]):
            return True
        return len(own) == len(whole) and all(
            a in (Size(1), b) for a, b in zip(own[2:], whole[2:], strict=True)
        )

    def broadcasts(self, name: str, other: str) -> bool:
        """Whether elementwise operators repeat a reduced value as ``aligned`` has it."""
        ranks = [shapes.sizes(self.scope, n) for n in (name, other)]
        same = all(r is not None for r in ranks) and len({len(r or ()) for r in ranks}) == 1
        return same and self.aligned(name, other)

    def number(self, name: str) -> float | None:
        """Return one number, also one computed of dimensions; NaN if these are not fixed."""
        if (found := constant_of(self.scope, name, self.limits)) and isinstance(found, Constant):
            return float(found.float64().item()) if found.float64().size == 1 else None
        node = self.scope.producer.get(name)
        if node is None or not self.scope.is_onnx(node):
            return None
        if node.op_type == "Cast" and int_attribute(node, "to", 0) in {1, 10, 11, 16}:
            counted = shapes.integers(self.scope, node.input[0])
            one = counted[0] if counted is not None and len(counted) == 1 else None
            return None if one is None else float(one) if isinstance(one, int) else nan
        if node.op_type in {"Add", "Sub"}:
            x, y = (self.number(n) for n in node.input)
            return None if x is None or y is None else x + y if node.op_type == "Add" else x - y
        return None


def _of_variance(op_type: str, var: Statistic, number: float | None) -> Statistic | None:
    if number is None:
        return None
    if op_type == "Add" and number >= 0:
        return replace(var, epsilon=var.epsilon + number)
    if op_type == "Div" and number != 0:
        number = 1 / number
    elif op_type != "Mul":
        return None
    if number <= 0:
        return None
    return replace(var, factor=var.factor * number, epsilon=var.epsilon * number)

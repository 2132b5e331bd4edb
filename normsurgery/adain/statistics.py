"""Read values as statistics: mean, variance, deviation of a value along some of its axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING

from normsurgery import dtypes, shapes
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
    """What a value is of the elements of ``of``, along ``axes``.

    axes: None for all from 2 on, those of the positions of (N, C, …), whatever their number.
    kind: "mean"; "centred", the elements less their mean; "squares" of those; "var"; "std", the
    square root of ``factor·var + epsilon``; "inverse" of that. var with a factor f and epsilon e
    is ``f·var + e``, var the mean of the squares. A factor that depends on a number of positions
    which is not fixed, such as n/(n − 1), is NaN.
    raw: nothing was subtracted: var is the mean of the squares of the elements themselves. Such
    squares have no axes yet.
    """

    kind: str
    of: str
    factor: float = 1.0
    epsilon: float = 0.0
    axes: tuple[int, ...] | None = None
    raw: bool = False


class Reader:
    """Reads the values of one scope; what was read is kept.

    casts: look through Casts between floating-point types, with which exporters compute statistics
    of a narrow type in a wider one. raw: take the mean of the squares of any value for a variance
    from which nothing was subtracted, in place of the mean of a value that is made of squares.
    """

    def __init__(
        self, scope: Scope, limits: Limits, *, casts: bool = False, raw: bool = False
    ) -> None:
        self.scope, self.limits, self.casts, self.raw = scope, limits, casts, raw
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
        if self._is_cast(node):
            return self.of(node.input[0])
        if node.op_type in LAYOUT:
            found = self.of(node.input[0])
            reduced = found is not None and found.kind not in {"centred", "squares"}
            return found if found and reduced and self.aligned(name, found) else None
        if node.op_type == "Sub":
            mean = self.of(node.input[1])
            if mean is None or mean != Statistic("mean", mean.of, axes=mean.axes):
                return None
            fits = self.broadcasts(node.input[1], node.input[0], mean)
            fits &= mean.of == self.elements_of(node.input[0], mean.axes)
            return replace(mean, kind="centred") if fits else None
        return self._computed(node)

    def _is_cast(self, node: NodeProto) -> bool:
        """Whether a node casts one floating-point type to another, and such are looked through."""
        if not self.casts or node.op_type != "Cast":
            return False
        return int_attribute(node, "to", 0) in dtypes.FLOATS and (
            shapes.elem_type(self.scope, node.input[0]) in dtypes.FLOATS
        )

    def _computed(self, node: NodeProto) -> Statistic | None:
        """Read arithmetic on one statistic."""
        if node.op_type not in ARITHMETIC:
            return None
        first = self.of(node.input[0])
        other = node.input[1] if len(node.input) > 1 else ""
        squared = node.op_type == "Mul" and other == node.input[0]
        squared |= node.op_type == "Pow" and bool(other) and self.number(other) == 2
        if squared and first is None:
            return Statistic("squares", node.input[0], raw=True) if self.raw else None
        if squared and first is not None:
            return replace(first, kind="squares") if first.kind == "centred" else None
        if first is None and node.op_type == "Div" and other:
            below = self.of(other)
            whole = below is not None and below.kind == "std" and self.number(node.input[0]) == 1
            return replace(below, kind="inverse") if below is not None and whole else None
        if first is None and node.op_type in {"Add", "Mul"} and other:
            first, other = self.of(other), node.input[0]
        if first is None:
            return None
        number = self.number(other) if other else None
        if first.kind == "var":
            if node.op_type == "Sqrt" or (node.op_type == "Pow" and number == 0.5):
                return replace(first, kind="std")
            if node.op_type == "Pow" and number == -0.5:
                return replace(first, kind="inverse")
            return _of_variance(node.op_type, first, number)
        if first.kind == "std" and node.op_type == "Reciprocal":
            return replace(first, kind="inverse")
        return None

    def _reduced(self, node: NodeProto) -> Statistic | None:
        sizes = shapes.sizes(self.scope, node.input[0])
        told = self._axes(node)
        if sizes is None or not told or not all(-len(sizes) <= i < len(sizes) for i in told):
            return None
        along = sorted({i % len(sizes) for i in told})
        axes = None if along == list(range(2, len(sizes))) else tuple(along)
        found = self.of(node.input[0])
        if found is not None and found.kind == "squares":
            if found.raw:
                found = replace(found, of=self.elements_of(found.of, axes), axes=axes)
            if found.axes != axes:
                return None
            if node.op_type == "ReduceMean":
                return replace(found, kind="var")
            count = Size.of(sizes[i] for i in along).fixed
            return None if not count else replace(found, kind="var", factor=float(count))
        if found is not None or node.op_type == "ReduceSum":
            return None
        return Statistic("mean", self.elements_of(node.input[0], axes), axes=axes)

    def _axes(self, node: NodeProto) -> list[int] | None:
        old = attribute(node, "axes")
        if old is not None:
            return list(old.ints)
        if len(node.input) < 2 or not node.input[1]:
            return None
        found = constant_of(self.scope, node.input[1], self.limits)
        return [int(i) for i in found.tensor.base.ravel()] if isinstance(found, Constant) else None

    def elements_of(self, name: str, axes: tuple[int, ...] | None = None) -> str:
        """Return the value whose elements ``name`` holds.

        Where ``axes`` are those of all positions, also one that has them on another number of axes.
        """
        node = self.scope.producer.get(name)
        while node is not None and self.scope.is_onnx(node):
            if node.op_type == "Reshape" and axes is None:
                before, after = (shapes.sizes(self.scope, n) for n in (node.input[0], name))
                if before is None or after is None or len(before) < 3 or len(after) < 3:
                    break
                told = shapes.target(self.scope, node)
                if told is not None and None not in told:
                    after = tuple(t for t in told if t is not None)
                if before[:2] != after[:2]:
                    break
            elif node.op_type != "Identity" and not self._is_cast(node):
                break
            name = node.input[0]
            node = self.scope.producer.get(name)
        return name

    def aligned(self, name: str, statistic: Statistic) -> bool:
        """Whether a reduced value has size 1, or is repeated, along the axes of its statistic.

        And is as the elements are along all others: (N, C) and (N, C, 1 …) for all positions.
        """
        own, whole = (shapes.sizes(self.scope, n) for n in (name, statistic.of))
        node = self.scope.producer.get(name)
        if node is not None and node.op_type == "Reshape":
            told = shapes.target(self.scope, node)
            if told is not None and None not in told:
                own = tuple(t for t in told if t is not None)
        if own is None or whole is None:
            return False
        if statistic.axes is None:
            if len(own) < 2 or own[:2] != whole[:2]:
                return False
            if all(size == Size(1) for size in own[2:]):
                return True
        return len(own) == len(whole) and all(
            a == b or (a == Size(1) and self._is_along(i, statistic))
            for i, (a, b) in enumerate(zip(own, whole, strict=True))
        )

    @staticmethod
    def _is_along(axis: int, statistic: Statistic) -> bool:
        return axis >= 2 if statistic.axes is None else axis in statistic.axes

    def broadcasts(self, name: str, other: str, statistic: Statistic) -> bool:
        """Whether elementwise operators repeat a reduced value as ``aligned`` has it."""
        ranks = [shapes.sizes(self.scope, n) for n in (name, other)]
        same = all(r is not None for r in ranks) and len({len(r or ()) for r in ranks}) == 1
        return same and self.aligned(name, statistic)

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

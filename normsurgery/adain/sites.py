"""Find where a value is standardised, and where another input scales and shifts it (AdaIN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normsurgery.adain.statistics import Reader, Statistic
from normsurgery.constants import Constant, constant_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from normsurgery.constants import Limits
    from normsurgery.graph import Scope


@dataclass(frozen=True)
class Core:
    """``(x − μ)/σ`` taken apart: ``node`` divides, and ``reader`` reads x − μ in input ``slot``.

    x: the value whose mean is subtracted; of ``x/√(mean of x²)`` it is what ``reader`` reads.
    std: what is known of the deviation.
    """

    node: NodeProto
    divided: int
    reader: NodeProto
    slot: int
    x: str
    std: Statistic


@dataclass(frozen=True)
class Site:
    """One AdaIN: the node that standardises x, and the inputs of the graph behind its style."""

    node: NodeProto
    x: str
    styles: tuple[str, ...]
    epsilon: float | None


def cores(scope: Scope, limits: Limits) -> Iterator[Core]:
    """Yield what is standardised for each sample and channel, written as arithmetic."""
    for core in standardised(Reader(scope, limits)):
        if core.std.axes is None:
            yield core


def standardised(reader: Reader) -> Iterator[Core]:
    """Yield what is divided by its deviation along any axes, or else by the root of its squares.

    That of squares where ``reader`` is one of *raw* values.
    """
    for node in reader.scope.live():
        if node.op_type in {"Div", "Mul"} and len(node.input) == 2 and reader.scope.is_onnx(node):
            found = _core(reader, node)
            if found is not None:
                yield found


def _core(reader: Reader, node: NodeProto) -> Core | None:
    for divided in (0,) if node.op_type == "Div" else (0, 1):
        std = reader.of(node.input[1 - divided])
        if std is None or std.raw is not reader.raw:
            continue
        if std.kind != ("std" if node.op_type == "Div" else "inverse"):
            continue
        found = _elements(reader, node, divided, std)
        if found is None:
            continue
        one, slot = found
        x = one.input[slot] if std.raw else _minuend(reader, one.input[slot])
        if reader.broadcasts(node.input[1 - divided], x, std):
            return Core(node, divided, one, slot, x, std)
    return None


def _minuend(reader: Reader, name: str) -> str:
    """Return the x of x − μ, through the Casts behind it that ``reader`` looks through."""
    node = reader.scope.producer[name]
    while node.op_type == "Cast":
        node = reader.scope.producer[node.input[0]]
    return node.input[0]


def _elements(
    reader: Reader, node: NodeProto, slot: int, std: Statistic
) -> tuple[NodeProto, int] | None:
    """Return where x − μ, or x, is read, behind products with other factors if there are any."""
    name, scope = node.input[slot], reader.scope

    def is_it(name: str) -> bool:
        if std.raw:
            return reader.elements_of(name, std.axes) == std.of
        return reader.of(name) == Statistic("centred", std.of, axes=std.axes)

    if is_it(name):
        return node, slot
    maker = scope.producer.get(name)
    if maker is None or maker.op_type != "Mul" or not scope.only_reader(name):
        return None
    both = [i for i in (0, 1) if is_it(maker.input[i])]
    return (maker, both[0]) if len(both) == 1 else None


def sites(scope: Scope, limits: Limits) -> Iterator[Site]:
    """Yield the instance norms whose scale and bias can be fixed without fixing their x."""
    for core in cores(scope, limits):
        beside = []
        if core.reader is not core.node:
            beside.append(core.reader.input[1 - core.slot])
        styles = _styles(scope, core.x, core.node.output[0], beside, limits)
        if styles:
            yield Site(core.node, core.x, styles, core.std.epsilon / core.std.factor)
    for node in scope.live():
        if node.op_type == "InstanceNormalization" and scope.is_onnx(node):
            styles = _styles(scope, node.input[0], node.output[0], list(node.input[1:]), limits)
            if styles:
                yield Site(node, node.input[0], styles, None)


def _styles(
    scope: Scope, x: str, standardised: str, beside: list[str], limits: Limits
) -> tuple[str, ...]:
    """Return the inputs behind scale and bias; none unless x depends on others as well."""
    value, factors = standardised, list(beside)
    for op_type in ("Mul", "Add"):  # either may be missing
        readers = scope.value_readers(value)
        if len(readers) == 1 and readers[0].op_type == op_type:
            factors += [name for name in readers[0].input if name != value]
            value = readers[0].output[0]
    computed = [n for n in factors if not isinstance(constant_of(scope, n, limits), Constant)]
    styles = inputs_behind(scope, computed)
    return tuple(sorted(styles)) if inputs_behind(scope, [x]) - styles else ()


def inputs_behind(scope: Scope, names: list[str]) -> set[str]:
    """Return the inputs of the graph that values are computed of, by more than their shapes."""
    seen, waiting, found = set(names), list(names), set()
    while waiting:
        name = waiting.pop()
        if name in scope.inputs and name not in scope.initializers:
            found.add(name)
        node = scope.producer.get(name)
        if node is None or node.op_type in {"Shape", "Size"}:
            continue
        for read in scope.reads(node):
            if read not in seen:
                seen.add(read)
                waiting.append(read)
    return found

"""Pair the values of two graphs that should be the same graph, whatever their names.

Both are walked down from their outputs at once: inputs of a node are positions, not names, so
renamed values, reordered nodes, Identities, attributes at their default, and constants in a node
in place of an initializer make no difference. Everything else does, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, numpy_helper

from normsurgery.nodes import label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normsurgery.graph import Graph, Scope

Value = tuple["Scope", str]
Leaf = tuple[TensorProto, TensorProto]


@dataclass
class Pairing:
    """What goes with what.

    Attributes:
        names: the values of the main graph, those of `expected` to those of `found`.
        leaves: the constants, in pairs; their data lie in the stores of the two graphs.
        mismatch: the first thing that the two do not share, or empty.

    """

    names: dict[str, str] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)
    mismatch: str = ""


class _UnlikeError(Exception):
    """The graphs differ, and where."""


def pair(expected: Graph, found: Graph) -> Pairing:
    """Walk both graphs, local functions and bodies too."""
    walk = _Walk()
    try:
        walk.interface(expected.main, found.main)
        theirs = {_key(s.proto): s for s in found.scopes if isinstance(s.proto, FunctionProto)}
        for scope in expected.scopes:
            if isinstance(scope.proto, FunctionProto):
                other = theirs.get(_key(scope.proto))
                if other is None:
                    raise _UnlikeError(f"function {scope.proto.name!r} is not there")
                walk.positions(scope, other)
        walk.run()
    except _UnlikeError as failure:
        walk.result.mismatch = str(failure)
    for (key, name), (_, mate) in walk.seen.items():
        if key == id(expected.main):
            walk.result.names[name] = mate
    return walk.result


@dataclass
class _Walk:
    result: Pairing = field(default_factory=Pairing)
    seen: dict[tuple[int, str], tuple[int, str]] = field(default_factory=dict)
    waiting: list[tuple[Value, Value]] = field(default_factory=list)

    def interface(self, expected: Scope, found: Scope) -> None:
        """Seed with the main graphs: their inputs and outputs are known by name."""
        for kind, ours, theirs in (
            ("output", expected.outputs, found.outputs),
            ("input", _fed(expected), _fed(found)),
        ):
            if ours != theirs:
                raise _UnlikeError(f"{kind} {min(ours ^ theirs)!r} is in one model alone")
        for name in _fed(expected):
            self.seen[id(expected), name] = (id(found), name)
        self.waiting += [((expected, name), (found, name)) for name in sorted(expected.outputs)]

    def positions(self, expected: Scope, found: Scope) -> None:
        """Seed with two bodies or functions: there, inputs and outputs are positions."""
        for kind in ("input", "output"):
            ours, theirs = (_names(scope, kind) for scope in (expected, found))
            if len(ours) != len(theirs):
                raise _UnlikeError(f"a body has {len(theirs)} {kind}s in place of {len(ours)}")
            if kind == "output":
                pairs = zip(ours, theirs, strict=True)
                self.waiting += [((expected, a), (found, b)) for a, b in pairs]
            else:
                for a, b in zip(ours, theirs, strict=True):
                    self.seen[id(expected), a] = (id(found), b)

    def run(self) -> None:
        """Go on until nothing waits; without recursion, so that a deep graph is no problem."""
        while self.waiting:
            (scope, name), (other, theirs) = self.waiting.pop()
            scope, name = _resolve(scope, name)
            other, theirs = _resolve(other, theirs)
            known = self.seen.get((id(scope), name))
            if known is not None:
                if known != (id(other), theirs):
                    raise _UnlikeError(f"{theirs!r} is read where {name!r} was")
                continue
            self.seen[id(scope), name] = (id(other), theirs)
            leaf, mate = _leaf(scope, name), _leaf(other, theirs)
            if leaf is not None and mate is not None:
                self.result.leaves.append((leaf, mate))
            elif leaf is not None or mate is not None:
                raise _UnlikeError(f"{name!r} is a constant in one model alone")
            else:
                self.nodes((scope, name), (other, theirs))

    def nodes(self, value: Value, mate: Value) -> None:
        """Compare what makes the two values, and put its inputs on the list."""
        scope, other = value[0], mate[0]
        node, twin = scope.producer.get(value[1]), other.producer.get(mate[1])
        if node is None or twin is None:
            raise _UnlikeError(
                f"{value[1]!r} and {mate[1]!r} are made by a node in one model alone"
            )
        if _kind(node) != _kind(twin):
            raise _UnlikeError(f"{label(twin)} stands where {label(node)} did")
        if list(node.output).index(value[1]) != list(twin.output).index(mate[1]):
            raise _UnlikeError(f"another output of {label(twin)} is read than of {label(node)}")
        inputs, theirs = _inputs(node), _inputs(twin)
        if [bool(name) for name in inputs] != [bool(name) for name in theirs]:
            raise _UnlikeError(f"{label(twin)} has other inputs than {label(node)}")
        pairs = zip(inputs, theirs, strict=True)
        self.waiting += [((scope, a), (other, b)) for a, b in pairs if a]
        ours, attributes = _attributes(scope, node), _attributes(other, twin)
        if ours.keys() != attributes.keys():
            odd = min(ours.keys() ^ attributes.keys())
            raise _UnlikeError(
                f"attribute {odd!r} is on one of {label(node)} and {label(twin)} alone"
            )
        for name, attribute in ours.items():
            self.attribute(f"{name!r} of {label(twin)}", scope, attribute, other, attributes[name])

    def attribute(
        self, what: str, scope: Scope, ours: AttributeProto, other: Scope, theirs: AttributeProto
    ) -> None:
        """Compare two attributes; tensors become leaves, bodies are walked."""
        if ours.type == theirs.type == AttributeProto.TENSOR:
            self.result.leaves.append((ours.t, theirs.t))
        elif ours.type == theirs.type == AttributeProto.GRAPH:
            self.positions(_body(scope, ours.g), _body(other, theirs.g))
        elif _bare(ours) != _bare(theirs):
            raise _UnlikeError(f"{what} is another one")


def _fed(scope: Scope) -> set[str]:
    return scope.inputs - scope.initializers.keys()


def _key(function: FunctionProto) -> tuple[str, str]:
    return function.domain, function.name


def _names(scope: Scope, kind: str) -> list[str]:
    return [v if isinstance(v, str) else v.name for v in getattr(scope.proto, kind)]


def _resolve(scope: Scope, name: str) -> Value:
    """Return the scope that makes a value, and its name without Identities."""
    here: Scope = scope
    while True:
        while here.parent is not None and not _holds(here, name):
            here = here.parent
        node = here.producer.get(name)
        if node is None or node.op_type != "Identity" or not here.is_onnx(node):
            return here, name
        name = node.input[0]


def _holds(scope: Scope, name: str) -> bool:
    known = name in scope.producer or name in scope.inputs
    return known or name in scope.initializers or name in scope.sparse


def _leaf(scope: Scope, name: str) -> TensorProto | None:
    """Return a constant as a tensor: an initializer, or a Constant of whatever spelling."""
    tensor = scope.initializers.get(name)
    node = scope.producer.get(name)
    if tensor is not None or node is None or node.op_type != "Constant" or not scope.is_onnx(node):
        return tensor
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
            return attribute.t
        if attribute.name.startswith("value_") and not attribute.ref_attr_name:
            kind = {"i": np.int64, "f": np.float32}.get(attribute.name[6])
            if kind is not None:
                held = onnx.helper.get_attribute_value(attribute)
                return numpy_helper.from_array(np.asarray(held, kind), name)
    return None


def _kind(node: NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def _inputs(node: NodeProto) -> list[str]:
    names = list(node.input)
    while names and not names[-1]:
        names.pop()
    return names


def _attributes(scope: Scope, node: NodeProto) -> dict[str, AttributeProto]:
    """Return the attributes that say anything: those at the operator's default do not."""
    defaults = dict(_defaults(scope, node))
    return {a.name: a for a in node.attribute if _bare(a) != defaults.get(a.name)}


def _defaults(scope: Scope, node: NodeProto) -> Iterator[tuple[str, bytes]]:
    domain = _kind(node)[0]
    version = scope.opset if not domain else scope.opsets.get(domain, 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:  # a custom operator, or a local function
        return
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            yield name, _bare(attribute.default_value)


def _bare(attribute: AttributeProto) -> bytes:
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    copy.ClearField("doc_string")
    return copy.SerializeToString(deterministic=True)


def _body(scope: Scope, graph: GraphProto) -> Scope:
    return next(one for one in scope.graph.scopes if one.proto is graph)

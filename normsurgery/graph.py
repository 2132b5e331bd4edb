"""An index of a skeleton: who makes and who reads each value; edits that keep it true.

A Scope is one graph with its own names: the main graph, a body of If, Loop or Scan, a function.
Bodies see the values of the scopes around them; a value that a body captures counts as read by
the node that owns the body.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx import (
    FunctionProto,
    GraphProto,
    NodeProto,
    TensorProto,
    TypeProto,
)

from normsurgery.errors import GraphError
from normsurgery.nodes import bodies, captured, is_blind, label, lacks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normsurgery.constants import NotConstant
    from normsurgery.io import Model
    from normsurgery.shapes import Size
    from normsurgery.tensors import TensorStore

ONNX_DOMAINS = ("", "ai.onnx")


class Graph:
    """All scopes of a model, and what they share: names, operator sets, tensors."""

    def __init__(self, model: Model, *, freeze_inputs: bool = False) -> None:
        """Index ``model``. Raises ``GraphError`` where its graph breaks a rule of the ONNX spec.

        freeze_inputs: treat initializers that a caller may override (IR ≥ 4) as constants.
        """
        self.proto = model.proto
        self.store: TensorStore = model.store
        self.freeze_inputs = freeze_inputs
        # before IR 4 every initializer had to be listed as an input
        self.inputs_are_constants = freeze_inputs or model.proto.ir_version < 4
        self.scopes: list[Scope] = []
        self.inferred: dict[tuple[int, str], TypeProto] | None = None  # filled by ``shapes``
        self.sizes: dict[str, Size] = {}  # by the names that ``shapes`` gave to products
        self.names: set[str] = set()
        self._taken: dict[str, int] = {}  # how many names derived from a wanted one are in use
        self.shadowed = {(f.domain, f.name) for f in self.proto.functions}
        opsets = {o.domain: o.version for o in self.proto.opset_import}
        main = self._index(self.proto.graph, None, None, opsets)
        self.main = main
        for function in self.proto.functions:
            opsets = {o.domain: o.version for o in function.opset_import}
            self._index(function, None, None, opsets)
        self._pin_other_uses()

    def _index(
        self,
        proto: GraphProto | FunctionProto,
        parent: Scope | None,
        owner: NodeProto | None,
        opsets: dict[str, int],
    ) -> Scope:
        scope = Scope(self, proto, parent, owner, opsets)
        self.scopes.append(scope)
        for node in scope.nodes:
            for body in bodies(node):
                self._index(body, scope, node, opsets)
        scope.check()
        self.names.update(scope.producer, scope.initializers, scope.inputs)
        self.names.update(node.name for node in scope.nodes)  # new nodes get unique names too
        return scope

    def _pin_other_uses(self) -> None:
        """Keep what only training_info or a quantization annotation reads."""
        main = self.main
        for info in self.proto.training_info:
            bound = (*info.initialization_binding, *info.update_binding)
            main.pinned.update(name for entry in bound for name in (entry.key, entry.value))
            for graph in (info.initialization, info.algorithm):
                main.pinned.update(name for node in graph.node for name in node.input)
        for annotation in self.proto.graph.quantization_annotation:
            main.pinned.update(e.value for e in annotation.quant_parameter_tensor_names)

    def unique_name(self, wanted: str) -> str:
        """Return ``wanted``, or ``wanted_1`` … if the model has a value or node of that name."""
        name = wanted
        while name in self.names:
            self._taken[wanted] = self._taken.get(wanted, 0) + 1
            name = f"{wanted}_{self._taken[wanted]}"
        self.names.add(name)
        return name


@dataclass
class Scope:
    """One graph with its own names."""

    graph: Graph
    proto: GraphProto | FunctionProto
    parent: Scope | None
    owner: NodeProto | None
    opsets: dict[str, int]
    nodes: list[NodeProto] = field(init=False)
    producer: dict[str, NodeProto] = field(init=False)
    readers: dict[str, list[NodeProto]] = field(init=False, default_factory=dict)
    initializers: dict[str, TensorProto] = field(init=False, default_factory=dict)
    sparse: set[str] = field(init=False, default_factory=set)
    inputs: set[str] = field(init=False)
    outputs: set[str] = field(init=False)
    pinned: set[str] = field(init=False, default_factory=set)
    captures: dict[int, list[str]] = field(init=False)
    types: dict[str, TypeProto] | None = field(init=False, default=None)  # filled by ``shapes``
    not_constant: dict[str, NotConstant] = field(init=False, default_factory=dict)  # by constants
    dead: set[int] = field(init=False, default_factory=set)  # id() of nodes; ``nodes`` holds them
    gone: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        """Index the proto."""
        self.nodes = list(self.proto.node)
        if isinstance(self.proto, FunctionProto):
            self.inputs, self.outputs = set(self.proto.input), set(self.proto.output)
        else:
            self.inputs = {value.name for value in self.proto.input}
            self.outputs = {value.name for value in self.proto.output}
            self.initializers = {tensor.name: tensor for tensor in self.proto.initializer}
            self.sparse = {sparse.values.name for sparse in self.proto.sparse_initializer}
        self.producer = {}
        for node in self.nodes:
            for name in node.output:
                if name and (name in self.producer or name in self.initializers):
                    raise GraphError(
                        f"value {name!r} is made twice, by {label(node)} the second time"
                    )
                if name:
                    self.producer[name] = node
        self.captures = {id(n): list(captured(n)) for n in self.nodes if any(bodies(n))}
        for node in self.nodes:
            for name in self.reads(node):
                self.readers.setdefault(name, []).append(node)

    def check(self) -> None:
        """Raise ``GraphError`` for a value that nobody makes, too few of them, or a cycle."""
        opset = self.opset
        for node in self.nodes:
            short = lacks(node, opset) if self.is_onnx(node) else None
            if short is not None:
                raise GraphError(f"{label(node)} {short}")
        for name, readers in self.readers.items():
            if not self.knows(name):
                raise GraphError(f"{label(readers[0])} reads {name!r}, which nothing makes")
        for name in self.outputs:
            if not self.knows(name):
                raise GraphError(f"the graph's output {name!r} is made by no node")
        waiting = {
            id(n): Counter(x for x in self.reads(n) if x in self.producer) for n in self.nodes
        }
        ready = [n for n in self.nodes if not waiting[id(n)]]
        done = 0
        while ready:
            node = ready.pop()
            done += 1
            for name in node.output:
                for reader in self.readers.get(name, ()):
                    left = waiting[id(reader)]
                    if left.pop(name, None) and not left:
                        ready += [reader]
        if done < len(self.nodes):
            stuck = next(n for n in self.nodes if waiting[id(n)])
            raise GraphError(f"the graph has a cycle through {label(stuck)}; export it again")

    def reads(self, node: NodeProto) -> list[str]:
        """Return every value that the node or a body of it reads, with repetitions."""
        return [name for name in node.input if name] + self.captures.get(id(node), [])

    def knows(self, name: str) -> bool:
        """Whether the value exists here or in a scope around."""
        here = name in self.producer or name in self.inputs
        if here or name in self.initializers or name in self.sparse:
            return True
        return self.parent is not None and self.parent.knows(name)

    def is_onnx(self, node: NodeProto) -> bool:
        """Whether the node is an operator of the ONNX spec, not a custom one or a function."""
        shadowed = any((d, node.op_type) in self.graph.shadowed for d in ONNX_DOMAINS)
        return node.domain in ONNX_DOMAINS and not shadowed

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set; models before IR 3 had version 1."""
        return max((self.opsets[d] for d in ONNX_DOMAINS if d in self.opsets), default=1)

    def lookup(self, name: str) -> Scope | None:
        """Return the scope, this one or one around, that holds initializer ``name``."""
        if name in self.initializers:
            return self
        if name in self.producer or name in self.inputs or name in self.sparse:
            return None
        return self.parent.lookup(name) if self.parent else None

    def value_readers(self, name: str) -> list[NodeProto]:
        """Return the nodes that read the *numbers* of a value, once for each input slot.

        Shape, Size and the second input of CastLike see only its type and shape.
        """
        return [node for node in self.readers.get(name, ()) if not is_blind(node, name)]

    def is_read(self, name: str) -> bool:
        """Whether anything sees the numbers of a value; an output left out has no name."""
        if not name:
            return False
        kept = name in self.outputs or name in self.pinned
        return kept or bool(self.value_readers(name))

    def only_reader(self, name: str) -> bool:
        """Whether one input slot of one node is all that reads the numbers of a value."""
        kept = name in self.outputs or name in self.pinned
        return not kept and len(self.value_readers(name)) == 1

    def live(self) -> Iterator[NodeProto]:
        """Yield the nodes that have not been removed."""
        return (node for node in self.nodes if id(node) not in self.dead)

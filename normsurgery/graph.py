"""An index of a skeleton: who makes and who reads each value; edits that keep it true.

A Scope is one graph with its own names: the main graph, a body of If, Loop or Scan, a function.
Bodies see the values of the scopes around them; a value that a body captures counts as read by
the node that owns the body.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    NodeProto,
    TensorProto,
    TypeProto,
    helper,
)

from normsurgery.errors import GraphError
from normsurgery.nodes import bodies, captured, is_blind, label
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from normsurgery.io import Model
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
        self.names: set[str] = set()
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
        """Return ``wanted``, or ``wanted_1`` … if the model has a value of that name."""
        name, i = wanted, 0
        while name in self.names:
            i += 1
            name = f"{wanted}_{i}"
        self.names.add(name)
        return name

    def finish(self) -> None:
        """Write the removals of all scopes into the skeleton."""
        for scope in self.scopes:
            scope.finish()


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
        """Raise ``GraphError`` for a value that nobody makes, or a cycle."""
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

    def only_reader(self, name: str) -> bool:
        """Whether one input slot of one node is all that reads the numbers of a value."""
        kept = name in self.outputs or name in self.pinned
        return not kept and len(self.value_readers(name)) == 1

    def live(self) -> Iterator[NodeProto]:
        """Yield the nodes that have not been removed."""
        return (node for node in self.nodes if id(node) not in self.dead)

    # -- edits -------------------------------------------------------------------------------

    def add_constant(self, wanted: str, value: Computed) -> str:
        """Add a computed tensor under a unique name derived from ``wanted``; return the name."""
        name = self.graph.unique_name(wanted)
        dims = value.base.shape
        tensor = TensorProto(name=name, data_type=value.elem_type, dims=dims)
        self.graph.store.put(tensor, value)
        if isinstance(self.proto, FunctionProto):  # functions have no initializers
            node = helper.make_node("Constant", [], [name], name=name)
            node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
            self.proto.node.insert(0, node)
            self.nodes.insert(0, self.proto.node[0])
            self.producer[name] = self.nodes[0]
            return name
        self.proto.initializer.append(tensor)
        self.initializers[name] = self.proto.initializer[-1]
        if self.graph.proto.ir_version < 4 and self.parent is None:
            self.proto.input.append(helper.make_tensor_value_info(name, value.elem_type, dims))
            self.inputs.add(name)
        return name

    def set_constant(self, node: NodeProto, slot: int, wanted: str, value: Computed) -> str:
        """Make input ``slot`` of ``node`` the constant ``value``; return its name.

        In place where the input is a computed tensor of this node alone; else under a new name
        derived from ``wanted``.
        """
        old = node.input[slot] if slot < len(node.input) else ""
        if self._replace_computed(old, value):
            return old
        name = self.add_constant(wanted, value)
        self.set_input(node, slot, name)
        return name

    def _replace_computed(self, name: str, value: Computed) -> bool:
        tensor = self.initializers.get(name)
        payload = tensor and self.graph.store.payload(tensor)
        if tensor is None or not isinstance(payload, Computed) or not self.only_reader(name):
            return False
        self.graph.store.put(tensor, value)
        del tensor.dims[:]
        tensor.dims.extend(value.base.shape)
        return True

    def set_input(self, node: NodeProto, slot: int, name: str) -> None:
        """Make input ``slot`` of ``node`` read ``name``; drop what nobody reads any more."""
        while len(node.input) <= slot:
            node.input.append("")
        old = node.input[slot]
        node.input[slot] = name
        if name:
            self.readers.setdefault(name, []).append(node)
        self._forget(old, node)

    def bypass(self, node: NodeProto, slot: int = 0) -> None:
        """Remove ``node``, the only reader of its input ``slot``, keeping its output's name.

        The node that made the input makes the output from now on.
        """
        source, result = node.input[slot], node.output[0]
        maker = self.producer[source]
        maker.output[list(maker.output).index(source)] = result
        del self.producer[source]
        self.producer[result] = maker
        for blind in self.readers.pop(source):
            if blind is not node:
                for i, name in enumerate(blind.input):
                    if name == source:
                        blind.input[i] = result
                self.readers.setdefault(result, []).append(blind)
        self.gone.add(source)
        self.dead.add(id(node))
        for i, name in enumerate(node.input):
            if i != slot:
                self._forget(name, node)

    def skip(self, node: NodeProto, slot: int = 0) -> None:
        """Remove ``node``; what read its output reads its input ``slot`` from now on."""
        source, result = node.input[slot], node.output[0]
        self.readers[source] = [one for one in self.readers[source] if one is not node]
        for reader in self.readers.pop(result, []):
            for i, name in enumerate(reader.input):
                if name == result:
                    reader.input[i] = source
            self.readers[source].append(reader)
        del self.producer[result]
        self.gone.add(result)
        self.dead.add(id(node))
        for i, name in enumerate(node.input):
            if i != slot:
                self._forget(name, node)

    def _forget(self, name: str, reader: NodeProto) -> None:
        """Take one use of ``name`` away; remove what has none left, and so on upwards."""
        waiting: list[tuple[Scope, str, NodeProto]] = [(self, name, reader)]
        while waiting:
            scope, name, reader = waiting.pop()
            readers = scope.readers.get(name, [])
            here = next((i for i, one in enumerate(readers) if one is reader), None)
            if here is not None:
                del readers[here]
            if readers or not name or name in scope.outputs or name in scope.pinned:
                continue
            maker = scope.producer.get(name)
            if name in scope.initializers:
                scope.gone.add(name)
            elif maker is not None:
                if not any(scope.readers.get(o) or o in scope.outputs for o in maker.output):
                    scope.dead.add(id(maker))
                    waiting += ((scope, other, maker) for other in scope.reads(maker))
            elif scope.parent is not None and scope.owner is not None and name not in scope.inputs:
                waiting.append((scope.parent, name, scope.owner))

    def finish(self) -> None:
        """Take removed nodes, initializers and stale annotations out of the proto."""
        for i in range(len(self.nodes) - 1, -1, -1):
            if id(self.nodes[i]) in self.dead:
                del self.proto.node[i]
        _drop(getattr(self.proto, "value_info", []), self.gone)
        if isinstance(self.proto, GraphProto):
            _drop(self.proto.initializer, self.gone)
            if self.graph.inputs_are_constants and self.parent is None:
                _drop(self.proto.input, self.gone)
            _drop(self.proto.quantization_annotation, self.gone, key="tensor_name")
        self.nodes = list(self.live())
        self.gone.clear()
        self.dead.clear()


def _drop(entries: Any, names: Iterable[str], key: str = "name") -> None:
    """Delete the entries of a repeated field whose ``key`` is among ``names``."""
    names = set(names)
    for i in range(len(entries) - 1, -1, -1):
        if names and getattr(entries[i], key) in names:
            del entries[i]

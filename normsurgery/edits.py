"""Changes to a scope that keep its index true; ``finish`` writes removals into the proto."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper

from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from normsurgery.graph import Scope


def add_constant(scope: Scope, wanted: str, value: Computed) -> str:
    """Add a computed tensor under a unique name derived from ``wanted``; return the name."""
    name = scope.graph.unique_name(wanted)
    dims = value.base.shape
    tensor = TensorProto(name=name, data_type=value.elem_type, dims=dims)
    scope.graph.store.put(tensor, value)
    if isinstance(scope.proto, FunctionProto):  # functions have no initializers
        node = helper.make_node("Constant", [], [name], name=name)
        node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
        insert_first(scope, node)
        return name
    scope.proto.initializer.append(tensor)
    scope.initializers[name] = scope.proto.initializer[-1]
    if scope.graph.proto.ir_version < 4 and scope.parent is None:
        scope.proto.input.append(helper.make_tensor_value_info(name, value.elem_type, dims))
        scope.inputs.add(name)
    return name


def insert_first(scope: Scope, node: NodeProto) -> None:
    """Add a copy of ``node``, which reads constants alone, before all others."""
    scope.proto.node.insert(0, node)
    made = scope.proto.node[0]
    scope.nodes.insert(0, made)
    for name in made.output:
        scope.producer[name] = made
    for name in made.input:
        scope.readers.setdefault(name, []).append(made)


def insert_after(scope: Scope, node: NodeProto, more: Iterable[NodeProto]) -> None:
    """Add copies of the nodes ``more``, in their order, right behind ``node``."""
    at = next(i for i, one in enumerate(scope.nodes) if one is node) + 1
    for i, new in enumerate(more, start=at):
        scope.proto.node.insert(i, new)
        made = scope.proto.node[i]
        scope.nodes.insert(i, made)
        for name in made.output:
            scope.producer[name] = made
        for name in made.input:
            scope.readers.setdefault(name, []).append(made)


def set_constant(scope: Scope, node: NodeProto, slot: int, wanted: str, value: Computed) -> str:
    """Make input ``slot`` of ``node`` the constant ``value``; return its name.

    In place where the input is a computed tensor of this node alone; else under a new name
    derived from ``wanted``.
    """
    old = node.input[slot] if slot < len(node.input) else ""
    if _replace_computed(scope, old, value):
        return old
    name = add_constant(scope, wanted, value)
    set_input(scope, node, slot, name)
    return name


def _replace_computed(scope: Scope, name: str, value: Computed) -> bool:
    tensor = scope.initializers.get(name)
    payload = tensor and scope.graph.store.payload(tensor)
    if tensor is None or not isinstance(payload, Computed) or not scope.only_reader(name):
        return False
    scope.graph.store.put(tensor, value)
    del tensor.dims[:]
    tensor.dims.extend(value.base.shape)
    return True


def set_input(scope: Scope, node: NodeProto, slot: int, name: str) -> None:
    """Make input ``slot`` of ``node`` read ``name``; drop what nobody reads any more."""
    while len(node.input) <= slot:
        node.input.append("")
    old = node.input[slot]
    node.input[slot] = name
    if name:
        scope.readers.setdefault(name, []).append(node)
    _forget(scope, old, node)


def bypass(scope: Scope, node: NodeProto, slot: int = 0) -> None:
    """Remove ``node``, the only reader of its input ``slot``, keeping its output's name.

    The node that made the input makes the output from now on.
    """
    source, result = node.input[slot], node.output[0]
    maker = scope.producer[source]
    maker.output[list(maker.output).index(source)] = result
    del scope.producer[source]
    scope.producer[result] = maker
    for blind in scope.readers.pop(source):
        if blind is not node:
            for i, name in enumerate(blind.input):
                if name == source:
                    blind.input[i] = result
            scope.readers.setdefault(result, []).append(blind)
    scope.gone.add(source)
    scope.dead.add(id(node))
    for i, name in enumerate(node.input):
        if i != slot:
            _forget(scope, name, node)


def skip(scope: Scope, node: NodeProto, slot: int = 0) -> None:
    """Remove ``node``; what read its output reads its input ``slot`` from now on."""
    source, result = node.input[slot], node.output[0]
    scope.readers[source] = [one for one in scope.readers[source] if one is not node]
    for reader in scope.readers.pop(result, []):
        for i, name in enumerate(reader.input):
            if name == result:
                reader.input[i] = source
        scope.readers[source].append(reader)
    del scope.producer[result]
    scope.gone.add(result)
    scope.dead.add(id(node))
    for i, name in enumerate(node.input):
        if i != slot:
            _forget(scope, name, node)


def _forget(scope: Scope, name: str, reader: NodeProto) -> None:
    """Take one use of ``name`` away; remove what has none left, and so on upwards."""
    waiting: list[tuple[Scope, str, NodeProto]] = [(scope, name, reader)]
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


def finish(scope: Scope) -> None:
    """Take removed nodes, initializers and stale annotations out of the proto."""
    for i in range(len(scope.nodes) - 1, -1, -1):
        if id(scope.nodes[i]) in scope.dead:
            del scope.proto.node[i]
    _drop(getattr(scope.proto, "value_info", []), scope.gone)
    if isinstance(scope.proto, GraphProto):
        _drop(scope.proto.initializer, scope.gone)
        if scope.graph.inputs_are_constants and scope.parent is None:
            _drop(scope.proto.input, scope.gone)
        _drop(scope.proto.quantization_annotation, scope.gone, key="tensor_name")
    scope.nodes = list(scope.live())
    scope.gone.clear()
    scope.dead.clear()


def _drop(entries: Any, names: Iterable[str], key: str = "name") -> None:
    """Delete the entries of a repeated field whose ``key`` is among ``names``."""
    names = set(names)
    for i in range(len(entries) - 1, -1, -1):
        if names and getattr(entries[i], key) in names:
            del entries[i]

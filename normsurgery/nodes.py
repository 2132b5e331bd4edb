"""Small questions to ask of one NodeProto."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, defs

if TYPE_CHECKING:
    from collections.abc import Iterator


def label(node: NodeProto) -> str:
    """Return how messages name a node: ``Conv `conv1```, or by its first output if unnamed."""
    if node.name:
        return f"{node.op_type} `{node.name}`"
    made = next((name for name in node.output if name), "nothing")
    return f"{node.op_type} (makes `{made}`)"


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured(node: NodeProto) -> Iterator[str]:
    """Yield each value of the scopes around that the bodies of ``node`` read, with repetitions."""
    for body in bodies(node):
        own = {value.name for value in body.input} | {t.name for t in body.initializer}
        own.update(name for inner in body.node for name in inner.output)
        own.update(sparse.values.name for sparse in body.sparse_initializer)
        for inner in body.node:
            for name in (*inner.input, *captured(inner)):
                if name and name not in own:
                    yield name
        for value in body.output:
            if value.name not in own:
                yield value.name


def is_blind(node: NodeProto, name: str) -> bool:
    """Whether ``node`` reads only type and shape of the value called ``name``."""
    if node.op_type in {"Shape", "Size"}:
        return True
    return node.op_type == "CastLike" and node.input[0] != name


def lacks(node: NodeProto, opset: int) -> str | None:
    """Return what an operator of the ONNX spec is short of: ``has 1 input in place of 2``.

    None if it has all that its version needs, or if there is no such operator.
    """
    try:
        schema = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        return None
    for what, names, least, most in (
        ("input", node.input, schema.min_input, schema.max_input),
        ("output", node.output, schema.min_output, schema.max_output),
    ):
        if len(names) < least:
            wanted = f"{least}" if least == most else f"at least {least}"
            return f"has {len(names)} {what}{'' if len(names) == 1 else 's'} in place of {wanted}"
    single = defs.OpSchema.FormalParameterOption.Single
    for name, formal in zip(node.input, schema.inputs, strict=False):
        if not name and formal.option == single:
            return f"has no input {formal.name!r}, which it needs"
    return None


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """Return an attribute by name."""
    return next((a for a in node.attribute if a.name == name), None)


def int_attribute(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute, or ``default``."""
    found = attribute(node, name)
    return default if found is None else found.i


def float_attribute(node: NodeProto, name: str, default: float) -> float:
    """Return a float attribute as the float32 that it is, or ``default`` rounded to one."""
    found = attribute(node, name)
    return float(np.float32(default if found is None else found.f))


def remove_attribute(node: NodeProto, name: str) -> None:
    """Remove an attribute, so that its default holds."""
    for i, one in enumerate(node.attribute):
        if one.name == name:
            del node.attribute[i]
            return

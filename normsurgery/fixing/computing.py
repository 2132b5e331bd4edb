"""Compute once what a model computes of fixed inputs alone.

A style encoder and the statistics of its features, for example. In float64, by the oracle of
``validation``: a convolutional encoder is no matter of the small evaluator of constants. The nodes
that computed it go, their last values become constants, rounded once when they are written. AdaIN
is then an InstanceNormalization with a constant scale and bias beside it, which fold puts into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from normsurgery import adain, edits, shapes
from normsurgery.errors import UsageError
from normsurgery.fixing.binding import bind
from normsurgery.graph import Graph
from normsurgery.nodes import label
from normsurgery.payloads import Computed
from normsurgery.report import Kept

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normsurgery import io
    from normsurgery.constants import Limits
    from normsurgery.graph import Scope

WHY = "no InstanceNormalization: its channels, or n of a variance over n - 1, are not fixed"
SECONDS = 600.0  # that computing the values may take
MULTIPLY_ADDS = 1e13


def fix(
    content: io.Model, fixed: Mapping[str, Any], limits: Limits
) -> tuple[list[str], list[Kept]]:
    """Fix inputs in place; return the nodes whose arithmetic became an InstanceNormalization.

    And, apart from them, those whose arithmetic is one of another size at every run.

    Raises ``UsageError`` where the values behind the inputs cannot be computed, or are too large.
    """
    bind(content, fixed)
    graph = Graph(content)
    scope = graph.main
    nodes, wanted = _behind(scope, set(fixed))
    _replace(scope, nodes, _computed(content, scope, nodes, wanted, limits))
    edits.finish(scope)
    restored, left = adain.restore(scope, limits)
    edits.finish(scope)
    return restored, [
        Kept(node.name or node.output[0], "AdaIN", "unknown-shape", f"{label(node)}: {WHY}", o)
        for node in left
        for o in node.output[:1]
    ]


_RANDOM = frozenset(
    {
        "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    }
)  # fmt: skip


def _behind(scope: Scope, fixed: set[str]) -> tuple[list[Any], list[str]]:
    """Return, of what is computed of fixed inputs and constants alone: nodes, and values wanted.

    Wanted is what other nodes or outputs of the graph read; the nodes, in order, compute that.
    """
    overridable = scope.inputs if not scope.graph.inputs_are_constants else set()
    constant = {n for n in scope.initializers if n not in overridable or n in fixed}
    depends, known, nodes = set(fixed), constant | fixed, []
    for node in _in_order(scope):
        plain = scope.is_onnx(node) and node.op_type not in _RANDOM
        if plain and all(name in known for name in scope.reads(node)):
            nodes.append(node)
            known.update(node.output)
            if any(name in depends for name in scope.reads(node)):
                depends.update(node.output)
    inside = {id(n) for n in nodes if any(o in depends for o in n.output)}
    wanted = [
        name
        for name in sorted(depends)
        if name
        and (
            name in scope.outputs
            or any(id(reader) not in inside for reader in scope.readers.get(name, ()))
        )
    ]
    read = set(wanted)
    needed = []
    for node in reversed(nodes):
        if any(name in read for name in node.output):
            read.update(scope.reads(node))
            needed.append(node)
    return needed[::-1], wanted


def _in_order(scope: Scope) -> list[Any]:
    """Return the nodes, each behind those that make what it reads."""
    done: set[int] = set()
    order: list[Any] = []
    for start in scope.nodes:
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                order.append(node)
                continue
            stack.append((node, True))
            makers = (scope.producer.get(name) for name in scope.reads(node))
            stack += [(m, False) for m in makers if m is not None and id(m) not in done]
    return order


def _computed(
    content: io.Model, scope: Scope, nodes: list[Any], wanted: list[str], limits: Limits
) -> dict[str, Computed]:
    """Return the wanted values: in float64, with the type that they have in the model."""
    from normsurgery.validation.budget import Budget, NoOracleError
    from normsurgery.validation.double import to_double
    from normsurgery.validation.evaluator import evaluator

    types = {name: shapes.elem_type(scope, name) for name in wanted}
    unknown = next((name for name, kind in types.items() if kind is None), None)
    if unknown is not None:
        raise UsageError(f"the type of {unknown!r}, behind the fixed inputs, is not known")
    read = {name for node in nodes for name in scope.reads(node)} | set(wanted)
    stored = [t for n, t in scope.initializers.items() if n in read]
    tensors = [numpy_helper.from_array(np.asarray(content.store.array(t)), t.name) for t in stored]
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = helper.make_graph(nodes, "fixed", [], outputs, tensors)
    part = helper.make_model(graph, opset_imports=content.proto.opset_import)
    part.ir_version = content.proto.ir_version
    to_double(part)
    budget = Budget(MULTIPLY_ADDS, SECONDS)
    try:
        budget.restart()
        results = evaluator(part, budget).run(None, {})
    except NoOracleError as error:
        raise UsageError(f"what the fixed inputs lead to cannot be computed: {error}") from error
    found, size = {}, 0
    for name, value in zip(wanted, results, strict=True):
        array = np.asarray(value)
        kind = types[name] or 0
        size += array.nbytes
        if size > limits.nbytes:
            raise UsageError(f"what the fixed inputs lead to is over {limits.nbytes >> 20} MiB")
        found[name] = Computed(array, (), kind)
    return found


def _replace(scope: Scope, nodes: list[Any], values: dict[str, Computed]) -> None:
    """Let the nodes behind read constants in the place of values; what nobody reads then goes.

    A body of If or Loop, or an output of the graph, has its value computed as before.
    """
    own = {id(node) for node in nodes}  # each is of constants alone, so it needs none of them
    for name, value in values.items():
        outside = [r for r in scope.readers.get(name, ()) if id(r) not in own and name in r.input]
        if not outside or name in scope.initializers:
            continue
        made = edits.add_constant(scope, f"{name}_fixed", value)
        for reader in {id(r): r for r in outside}.values():
            for slot, read in enumerate(reader.input):
                if read == name:
                    edits.set_input(scope, reader, slot, made)

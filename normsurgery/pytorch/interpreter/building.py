"""From a graph to a program: operators resolved, constants known, values numbered.

A node whose inputs are all known before the model runs is *static*: it is evaluated here, so that
entries of the table see its value (the shape of a Reshape, the scales of a Resize), and goes to
the prelude, which runs again only when the module changes type or device. Values that come of
shapes alone stay on the CPU and in the model's own types, wherever the module is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from normsurgery import shapes
from normsurgery.errors import GraphError, UnsupportedModelError
from normsurgery.nodes import captured, label
from normsurgery.pytorch.interpreter import program, table
from normsurgery.pytorch.interpreter.call import Call, Operand
from normsurgery.pytorch.interpreter.elements import from_proto
from normsurgery.pytorch.interpreter.program import (
    ABSENT,
    CONTEXT,
    NATIVE,
    Context,
    Key,
    Program,
    Step,
)
from normsurgery.pytorch.interpreter.stored import PARAMETER

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from normsurgery.graph import Scope
    from normsurgery.pytorch.interpreter.stored import Stored
    from normsurgery.pytorch.interpreter.table import Kernel

_MOST_STATIC = 1 << 26  # elements of a result that is worth keeping from run to run


class Builder:
    """Makes the program of one graph; bodies have a builder of their own."""

    def __init__(
        self, scope: Scope, stored: dict[int, dict[str, Stored]], parent: Builder | None = None
    ) -> None:
        """``stored``: the tensors that each scope holds, by the scope's ``id``."""
        self.scope = scope
        self.all_stored = stored
        self.stored = stored[id(scope)]
        self.parent = parent
        self.program = Program()
        self.operands: dict[str | Key, Operand] = {}
        self.natives: dict[int, int] = {}  # a constant on the CPU, by the index of the value
        self.moves: dict[int, int] = {}  # a host value where the module is, by its index
        self.static: list[Step] = []
        self.context = Context()

    def build(self, inputs: list[str], outputs: list[str]) -> Program:
        """Return the program of the graph."""
        made = self.program
        for name in inputs:
            self.operands[name] = self._declared(name, self._new())
            made.inputs.append(self.operands[name].index)
        needed = self._needed(outputs)
        for node in self.scope.nodes:
            if id(node) in needed:
                self._add(node)
        for name in outputs:
            operand = self._operand(name)
            if operand is None:
                raise GraphError(f"the graph's output {name!r} is made by no node")
            made.outputs.append(self._on_device(operand))
        self._finish()
        return made

    def _finish(self) -> None:
        """Keep the static steps that something reads; drop values after their last use."""
        made = self.program
        wanted = {i for step in made.steps for i in step[1]} | set(made.outputs)
        prelude: list[Step] = []
        for step in reversed(self.static):
            writes = (step[2],) if isinstance(step[2], int) else step[2]
            if wanted & set(writes):
                prelude.append(step)
                wanted.update(step[1])
        prelude.reverse()
        made.stored = {n: i for n, i in made.stored.items() if i in wanted}
        made.captured = {n: i for n, i in made.captured.items() if i in wanted}
        made.known = {i: t for i, t in made.known.items() if i in wanted}
        kept = {*made.outputs, *made.stored.values(), *made.known}
        if self.parent is None:
            for step in prelude:
                kept.update((step[2],) if isinstance(step[2], int) else step[2])
            made.prelude = prelude
        else:
            made.steps = prelude + made.steps
        made.steps = program.with_drops(made.steps, kept)

    def _needed(self, outputs: list[str]) -> set[int]:
        """Return the nodes that an output depends on, by ``id``."""
        producer = self.scope.producer
        waiting, needed = list(outputs), set()
        while waiting:
            node = producer.get(waiting.pop())
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                waiting += self.scope.reads(node)
        return needed

    def _new(self) -> int:
        self.program.size += 1
        return self.program.size - 1

    def _declared(self, name: str, index: int) -> Operand:
        dims, elem_type = shapes.dims(self.scope, name), shapes.elem_type(self.scope, name)
        return Operand(index, dims=dims, elem_type=elem_type)

    def _operand(self, name: str | Key) -> Operand | None:
        """Return what is known of a value; stored and captured ones are set up when first asked.

        Raises ``GraphError`` if nothing before the reader makes it.
        """
        if not name:
            return None
        if name not in self.operands:
            if isinstance(name, str) and name in self.stored:
                key = (id(self.scope), self.stored[name].name)
                self.operands[name] = self._lookup(key)
            else:
                self.operands[name] = self._lookup(name)
        return self.operands[name]

    def _lookup(self, name: str | Key) -> Operand:
        """Set up a tensor that the module holds, or a value of the graph around."""
        if name in self.operands:  # a stored tensor under another name
            return self.operands[name]
        if self.parent is not None:
            outer = self.parent._operand(name)  # noqa: SLF001  its own class
            assert outer is not None  # noqa: S101  it has a name
            made = replace(outer, index=self._new())
            self.program.captured[name] = made.index
        elif isinstance(name, str):
            raise GraphError(f"{name!r} is read before anything makes it; sort the graph's nodes")
        else:
            found = self.all_stored[name[0]][name[1]]
            const = None
            if found.kind != PARAMETER:
                const = from_proto(found.tensor, self.scope.graph.store)
            tensor = found.tensor
            made = Operand(
                self._new(), const, False, tuple(tensor.dims), tensor.data_type, found.name
            )
            self.program.stored[name] = made.index
        self.operands[name] = made
        return made

    def _add(self, node: NodeProto) -> None:
        if node.output[0] in self.stored:  # a Constant, or an Identity of a stored tensor
            return
        operands = tuple(self._operand(name) for name in node.input)
        domain = "" if self.scope.is_onnx(node) else node.domain
        entry = table.load().get((domain, node.op_type))
        if entry is None:
            raise UnsupportedModelError(
                f"{label(node)}: the interpreter has no operator "
                f"{node.op_type}{f' of {domain!r}' if domain else ''}"
            )
        opset = self.scope.opset if not domain else self.scope.opsets.get(domain, 1)

        def read(tensor: Any) -> torch.Tensor:
            return from_proto(tensor, self.scope.graph.store)

        def build(body: GraphProto) -> tuple[Program, list[str | Key]]:
            return self._body(body)

        call = Call(node, opset, operands, read, build)
        kernel = entry(call)
        if not isinstance(kernel, table.Kernel):
            kernel = table.Kernel(kernel)
        unknown = call.unknown_attribute()
        if unknown is not None:
            raise call.refuse(f"attribute {unknown!r} is not known")
        self._step(node, kernel, operands)

    def _body(self, body: GraphProto) -> tuple[Program, list[str | Key]]:
        """Return the program of a body, and the names of the values that it captures, in order."""
        scope = next(s for s in self.scope.graph.scopes if s.proto is body or s.proto == body)
        inner = Builder(scope, self.all_stored, self)
        made = inner.build([i.name for i in body.input], [o.name for o in body.output])
        if made.random:
            self.program.random = made.random
        return made, list(made.captured)

    def _step(self, node: NodeProto, kernel: Kernel, operands: tuple[Operand | None, ...]) -> None:
        slots = range(len(operands)) if kernel.reads is None else kernel.reads
        read = [(s, operands[s] if s < len(operands) else None) for s in slots]
        around = [self._operand(name) for name in kernel.captured]
        if kernel.random:
            self.program.random = self.program.random or label(node)
        fixed = not kernel.random and not kernel.captured and not any(captured(node))
        dynamic = [o for _, o in read if o is not None and o.const is None]
        static = fixed and not dynamic
        host = kernel.to_host or (fixed and bool(dynamic) and all(o.host for o in dynamic))
        reads = []
        if kernel.context:
            reads.append(NATIVE if host else CONTEXT)
        for slot, operand in read:
            if operand is None:
                reads.append(ABSENT)
            elif static or kernel.to_host or slot in kernel.lists:
                reads.append(operand.index)
            elif host:
                reads.append(self._native(operand))
            else:
                reads.append(self._on_device(operand))
        reads += (o.index for o in around if o is not None)
        outputs = [self._new() for _ in node.output]
        write = tuple(outputs) if kernel.several else outputs[0]
        step: Step = (kernel.function, tuple(reads), write, (), label(node))
        results: list[Any] = [None] * len(outputs)
        if static:
            results = self._evaluate(node, kernel, [o for _, o in read])
        kept = static and all(
            isinstance(r, torch.Tensor) and r.numel() <= _MOST_STATIC for r in results
        )
        (self.static if kept else self.program.steps).append(step)
        for i, name in zip(outputs, node.output, strict=True):
            if name:
                const = results[outputs.index(i)] if kept else None
                found = self._declared(name, i)
                dims = tuple(const.shape) if const is not None else found.dims
                self.program.names[i] = name
                self.operands[name] = Operand(i, const, host, dims, found.elem_type)

    def _evaluate(
        self, node: NodeProto, kernel: Kernel, operands: list[Operand | None]
    ) -> list[Any]:
        """Return the outputs of a node whose inputs are known."""
        arguments: list[Any] = [None if o is None else o.const for o in operands]
        if kernel.context:
            arguments.insert(0, self.context)
        try:
            with torch.no_grad():
                made = kernel.function(*arguments)
        except (RuntimeError, ValueError, IndexError, TypeError) as failure:
            line = next(iter(str(failure).splitlines()), "")
            raise GraphError(f"{label(node)} fails on its constant inputs: {line}") from failure
        return list(made) if kernel.several else [made]

    def _native(self, operand: Operand) -> int:
        """Return where a constant is on the CPU, in the model's own type."""
        if operand.const is None:
            return operand.index
        if operand.index not in self.natives:
            self.natives[operand.index] = self._new()
            self.program.known[self.natives[operand.index]] = operand.const
        return self.natives[operand.index]

    def _on_device(self, operand: Operand) -> int:
        """Return where a value is on the module's device and in its types."""
        if not operand.host or operand.const is not None:
            return operand.index
        if operand.index not in self.moves:
            self.moves[operand.index] = self._new()
            move = (_move, (CONTEXT, operand.index), self.moves[operand.index], (), "a move")
            self.program.steps.append(move)
        return self.moves[operand.index]


def _move(context: Context, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(context.device, context.real(value.dtype))

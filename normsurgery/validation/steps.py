"""Run a model a few nodes at a time, so that every value can be looked at and none is kept.

Marking every value as an output would hold all of them at once. Here the nodes that a wanted value
needs, and that have not run yet, become a small model of their own: its inputs are values that
earlier pieces left, and what no later node reads is dropped. Weights are read from the model's file
for the piece that needs them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, helper

from normsurgery import io
from normsurgery.errors import InvalidModelError
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import NodeProto

    Feeds = Mapping[str, Any]
    Runner = Callable[[Path, Feeds], Mapping[str, Any]]


class CannotStepError(Exception):
    """The model cannot be run in pieces, and why. Private to `normsurgery.validation`."""


class Stepper:
    """One model on one set of inputs, somewhere between its first node and its last."""

    def __init__(self, model: io.Model, feeds: Feeds, run: Runner) -> None:
        """``run`` runs the model file of a piece on its inputs and gives its outputs by name."""
        self.graph = Graph(model)
        self.model = model
        self.values = dict(feeds)
        self.run = run
        self.order = ordered(self.graph)
        self.done: set[int] = set()
        self.watched: set[str] = set()
        self.readers: dict[str, int] = {}
        for node in self.order:
            for name in set(self.graph.main.reads(node)):
                self.readers[name] = self.readers.get(name, 0) + 1

    def advance(self, wanted: Sequence[str]) -> dict[str, Any]:
        """Run what ``wanted`` still needs, and return those values.

        A value can be asked for in the call that makes it, while a node that has not run reads it,
        or once if it is among ``watched``. Raises ``CannotStepError``, and what ``run`` raises.
        """
        nodes = self._needed(wanted)
        made = {name for node in nodes for name in node.output if name}
        within = Counter(name for node in nodes for name in set(self.graph.main.reads(node)))
        kept = {n for n in made if self.readers.get(n, 0) > within[n]} | made.intersection(wanted)
        kept |= made & self.watched
        if nodes:
            piece = self._piece(nodes, sorted(kept))
            fed = {value.name: self.values[value.name] for value in piece.proto.graph.input}
            with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
                path = Path(folder, "piece.onnx")
                with path.open("wb") as target:  # for this process alone: no need to sync it
                    io.write(piece, target)
                try:
                    self.values |= self.run(path, fed)
                except InvalidModelError as failure:  # of a file that nobody has seen
                    raise InvalidModelError(str(failure).removeprefix(f"{path}: ")) from None
        for node in nodes:
            self.done.add(id(node))
            for name in set(self.graph.main.reads(node)):
                self.readers[name] -= 1
        lost = [name for name in wanted if name not in self.values]
        if lost:
            raise CannotStepError(f"value {lost[0]!r} is gone")
        found = {name: self.values[name] for name in wanted}
        self.watched.difference_update(wanted)
        self.values = {
            n: v for n, v in self.values.items() if self.readers.get(n) or n in self.watched
        }
        return found

    def _needed(self, wanted: Iterable[str]) -> list[NodeProto]:
        main = self.graph.main
        needed, waiting = set(), [name for name in wanted if name not in self.values]
        while waiting:
            node = main.producer.get(waiting.pop())
            if node is None or id(node) in needed or id(node) in self.done:
                continue
            needed.add(id(node))
            waiting += (name for name in main.reads(node) if name not in self.values)
        return [node for node in self.order if id(node) in needed]

    def _piece(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> io.Model:
        main, whole = self.graph.main, self.model.proto
        proto = ModelProto(ir_version=max(whole.ir_version, 4))
        proto.opset_import.extend(whole.opset_import)
        proto.functions.extend(whole.functions)
        graph = proto.graph
        graph.name = "piece"
        graph.node.extend(nodes)
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in main.reads(node))
        for name in (name for name in read if name not in made):
            if name in self.values:
                graph.input.append(_declared(name, self.values[name]))
            elif name in main.initializers:
                graph.initializer.append(main.initializers[name])
            elif name in main.sparse:
                sparse = whole.graph.sparse_initializer
                graph.sparse_initializer.extend(s for s in sparse if s.values.name == name)
            else:
                raise CannotStepError(f"value {name!r} is no input and was not kept")
        for name in outputs:
            graph.output.add(name=name)  # whoever runs it infers the type
        return replace(self.model, proto=proto, trailer=bytes)


def ordered(graph: Graph) -> list[NodeProto]:
    """Return the nodes of the main graph that its outputs need, operands first."""
    main = graph.main
    seen: set[int] = set()
    result: list[NodeProto] = []
    for output in main.proto.output:
        name = output if isinstance(output, str) else output.name
        stack = [(main.producer.get(name), False)]
        while stack:
            node, ready = stack.pop()
            if node is None or (id(node) in seen and not ready):
                continue
            if ready:
                result.append(node)
                continue
            seen.add(id(node))
            stack.append((node, True))
            stack += [(main.producer.get(x), False) for x in reversed(main.reads(node))]
    return result


def _declared(name: str, value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise CannotStepError(f"value {name!r} is no tensor")
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)

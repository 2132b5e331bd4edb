"""Where the nodes of a session ran: the proof that a CUDA verdict is about CUDA.

onnxruntime hands every node that a provider lacks to the CPU, with a warning at most. It records
who got what; here that record is held against the graph. Shape arithmetic is put on the CPU on
purpose, next to the memory that needs it, and is no fall back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from normsurgery.nodes import bodies
from normsurgery.providers import CPU, short_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import onnx

# What onnxruntime adds by itself to move data and types about.
_MOVES = frozenset({"MemcpyFromHost", "MemcpyToHost"})


@dataclass(frozen=True)
class Placement:
    """The nodes of one session by provider.

    Attributes:
        provider: which was asked for.
        nodes: how many each provider runs, by its short name.
        fell_back: the nodes that run elsewhere, as ``operator name``, and were not allowed to.
        allowed: those that were allowed to, by name or operator.
        shapes: how many nodes of shape arithmetic run on the CPU, as they should.

    """

    provider: str
    nodes: dict[str, int]
    fell_back: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    shapes: int = 0

    @property
    def ok(self) -> bool:
        """Everything ran where it was asked to, or was allowed not to; and something did run."""
        return not self.fell_back and self.nodes.get(short_name(self.provider), 0) > 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return {"ok": self.ok, **asdict(self)}

    def line(self) -> str:
        """One line for a terminal."""
        counts = ", ".join(f"{count} on {name}" for name, count in sorted(self.nodes.items()))
        line = f"nodes: {counts or 'none'}"
        if self.shapes:
            line += f" ({self.shapes} of shape arithmetic)"
        if self.allowed:
            line += f"; allowed to fall back: {_some(self.allowed)}"
        if self.fell_back:
            line += f"; FELL BACK: {_some(self.fell_back)} (--allow-fallback NAME accepts one)"
        return line


def place(
    record: Sequence[tuple[str, str, str]],
    provider: str,
    model: onnx.ModelProto,
    allow: Collection[str] = (),
) -> Placement:
    """Read onnxruntime's record of a session on `provider`.

    Args:
        record: (provider, operator, name) per node, from ``runtime.assigned``.
        provider: the full name of the one that was asked for.
        model: the graph that was run; weights need not be loaded.
        allow: names of nodes, or operators, that may run elsewhere.

    """
    on_purpose = _shape_arithmetic(model.graph)
    fell_back, allowed, shapes = [], [], 0
    for where, op_type, name in record:
        if where == provider or op_type in _MOVES:
            continue
        if name in allow or op_type in allow:
            allowed.append(f"{op_type} {name}".strip())
        elif where == CPU and (op_type, name) in on_purpose:
            shapes += 1
        else:
            fell_back.append(f"{op_type} {name}".strip())
    counts = Counter(short_name(where) for where, _, _ in record)
    return Placement(provider, dict(counts), _unique(fell_back), _unique(allowed), shapes)


def _shape_arithmetic(graph: onnx.GraphProto) -> set[tuple[str, str]]:
    """(operator, name) of the nodes that compute with nothing but shapes and constants.

    Nodes that share both are told apart by nothing in the record, so all of them must.
    """
    known = {tensor.name for tensor in graph.initializer}
    inside, outside = set(), set()
    for key, reads, makes in _flat(graph):
        if key[0] in {"Shape", "Size"} or all(name in known for name in reads if name):
            inside.add(key)
            known.update(makes)
        else:
            outside.add(key)
    return inside - outside


def _flat(
    graph: onnx.GraphProto,
) -> Iterator[tuple[tuple[str, str], Sequence[str], Sequence[str]]]:
    """Key, inputs and outputs of every node, bodies after the node that holds them."""
    for node in graph.node:
        yield (node.op_type, node.name), node.input, node.output
        for body in bodies(node):
            yield from _flat(body)


def _unique(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels once each, with how often where that is more than once."""
    return tuple(f"{label} ×{n}" if n > 1 else label for label, n in Counter(labels).items())


def _some(labels: Sequence[str], most: int = 6) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more

"""The nodes of a graph in an order in which they can be run.

ONNX asks for it, onnxruntime does not insist, and there are files that do not have it: the float16
converter of onnxruntime appends its Casts at the end.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from normsurgery.nodes import bodies, captured

if TYPE_CHECKING:
    import onnx


def sort(graph: onnx.GraphProto) -> None:
    """Put the nodes of `graph` and of its bodies in order, in place; those that are stay put.

    A cycle is left as it is: whoever runs the graph will find it.
    """
    nodes = list(graph.node)
    maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    waits: list[set[int]] = []
    readers: dict[int, list[int]] = {}
    for at, node in enumerate(nodes):
        for body in bodies(node):
            sort(body)
        before = {maker[name] for name in (*node.input, *captured(node)) if name in maker} - {at}
        waits.append(before)
        for one in before:
            readers.setdefault(one, []).append(at)
    if all(max(before, default=-1) < at for at, before in enumerate(waits)):
        return
    ready = [at for at, before in enumerate(waits) if not before]
    heapq.heapify(ready)  # the earliest in the file first
    found = []
    while ready:
        at = heapq.heappop(ready)
        found.append(at)
        for reader in readers.get(at, ()):
            waits[reader].discard(at)
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(found) == len(nodes):
        ordered = [nodes[at] for at in found]
        del graph.node[:]
        graph.node.extend(ordered)

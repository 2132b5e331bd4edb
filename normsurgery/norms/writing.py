"""Writer: ONNX nodes in a row, in the place of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from normsurgery import dtypes, edits, shapes
from normsurgery.payloads import Computed

if TYPE_CHECKING:
    from normsurgery.graph import Scope


class Writer:
    """Collects nodes that turn a value of type ``elem_type`` and rank ``rank`` into ``result``.

    dims: of the value, as far as they are known. stem: what names of nodes and tensors begin with.
    Constants are rounded once from float64. ``close`` puts the nodes into the scope.
    """

    def __init__(
        self, scope: Scope, stem: str, result: str, elem_type: int, dims: shapes.Dims
    ) -> None:
        self.scope, self.stem, self.result = scope, stem, result
        self.elem_type, self.dims = elem_type, dims
        self.nodes: list[Any] = []

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set."""
        return self.scope.opset

    @property
    def rank(self) -> int:
        """Number of dimensions of the value."""
        return len(self.dims)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node with one output; return the output's name."""
        name = self.scope.graph.unique_name(f"{self.stem}/{op_type}")
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def floats(self, what: str, values: dtypes.Float64, elem_type: int | None = None) -> str:
        """Add a constant of the value's type, or of ``elem_type``; return its name."""
        computed = Computed(np.asarray(values, np.float64), (), elem_type or self.elem_type)
        return edits.add_constant(self.scope, f"{self.stem}.{what}", computed)

    def per_channel(self, what: str, values: dtypes.Float64) -> str:
        """Add a constant (C, 1, …, 1) that broadcasts along the channels of the value."""
        return self.floats(what, values.reshape((-1,) + (1,) * (self.rank - 2)))

    def integers(self, what: str, values: list[int]) -> str:
        """Add an int64 vector; return its name."""
        computed = Computed(np.asarray(values, np.int64), (), dtypes.INT64)
        return edits.add_constant(self.scope, f"{self.stem}.{what}", computed)

    def close(self, last: str, after: Any) -> None:
        """Make the node that makes ``last`` make ``result``, and insert all behind ``after``."""
        for node in self.nodes:
            if last in node.output:
                node.output[0] = self.result
        edits.insert_after(self.scope, after, self.nodes)
        for node in self.nodes:
            for name in node.output:
                if name != self.result and node.op_type != "Shape":
                    shapes.declare(self.scope, name, self.elem_type)

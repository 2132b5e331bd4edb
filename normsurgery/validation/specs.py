"""Which inputs a model wants fed, and what it tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto, shape_inference

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

_PASSING = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class InputSpec:
    """One graph input that somebody has to feed.

    Attributes:
        name: of the graph input.
        elem_type: its ``TensorProto`` type.
        shape: a size, or the name of a dynamic dimension ("" for an anonymous one), per axis.
        channels: the size of axis 1 that a convolution reading it expects, if any does.
        rows: how many rows the least table or value holds that it indexes (Gather), if it does
            and that number is fixed.

    """

    name: str
    elem_type: int
    shape: tuple[int | str, ...]
    channels: int | None = None
    rows: int | None = None


def specs(model: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """The inputs of `model`, without those that an initializer gives a default.

    Args:
        model: weights need not be loaded; only the shapes of initializers are read.

    Raises:
        UsageError: an input is not a tensor of known rank, or is of a type nobody can invent.

    """
    graph = model.graph
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    rows = _Rows(model, dims)
    made = []
    for info in graph.input:
        if info.name in dims:
            continue
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or tensor.elem_type == TensorProto.STRING:
            raise UsageError(f"input {info.name!r} is not a tensor of numbers: give inputs for it")
        if not tensor.HasField("shape"):
            raise UsageError(f"input {info.name!r} has no declared rank: give inputs for it")
        shape = tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in tensor.shape.dim
        )
        readers = [node for node in graph.node if info.name in node.input[:2]]
        made.append(
            InputSpec(
                info.name,
                tensor.elem_type,
                shape,
                channels=next(_channels(info.name, readers, dims), None),
                rows=min(rows(info.name), default=None) if is_index(tensor.elem_type) else None,
            )
        )
    return tuple(made)


def _channels(
    name: str, readers: Sequence[onnx.NodeProto], dims: Mapping[str, tuple[int, ...]]
) -> Iterator[int]:
    for node in readers:
        weight = dims.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type == "Conv" and node.input[0] == name and weight:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            yield weight[1] * group
        elif node.op_type == "BatchNormalization" and weight:
            yield weight[0]


def is_index(elem_type: int) -> bool:
    """Whether a type is one that indices have."""
    return elem_type in {TensorProto.INT32, TensorProto.INT64}


class _Rows:
    """The sizes of what an input indexes, behind nodes that leave its numbers as they are."""

    def __init__(self, model: onnx.ModelProto, dims: Mapping[str, tuple[int, ...]]) -> None:
        self.model, self.dims = model, dims
        self.inferred: dict[str, tuple[int, ...]] | None = None  # asked for where no table is read

    def __call__(self, name: str) -> list[int]:
        found: list[int] = []
        waiting = [name]
        for value in waiting:
            for node in self.model.graph.node:
                read = list(node.input)
                if node.op_type == "Gather" and read[1:] == [value]:
                    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                    shape = self._shape(read[0])
                    found += shape[axis : axis + 1] if axis != -1 else shape[-1:]
                elif node.op_type in _PASSING and read[:1] == [value]:
                    waiting += [made for made in node.output if made not in waiting]
        return [size for size in found if size > 0]

    def _shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a value, 0 for one that is not fixed; () if nothing tells them."""
        if name in self.dims:
            return self.dims[name]
        if self.inferred is None:
            try:
                graph = shape_inference.infer_shapes(self.model, data_prop=True).graph
            except Exception:  # noqa: BLE001  a C++ library on an arbitrary model, or one over 2 GB
                graph = self.model.graph
            self.inferred = {
                info.name: tuple(max(d.dim_value, 0) for d in info.type.tensor_type.shape.dim)
                for info in (*graph.input, *graph.value_info, *graph.output)
            }
        return self.inferred.get(name, ())

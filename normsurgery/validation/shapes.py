"""Which inputs a model wants fed, and in which shapes it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto, shape_inference

from normsurgery.errors import NormSurgeryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx

LADDER = (64, 32, 224, 16, 8, 128, 1)
"""Sizes tried for the dynamic dimensions other than the batch, until the model runs."""

_PASSING = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_VOLUME_LADDER = (32, 16, 64, 8, 1)


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
                rows=min(rows(info.name), default=None) if _is_index(tensor.elem_type) else None,
            )
        )
    return tuple(made)


def resolve(
    wanted: Sequence[InputSpec],
    *,
    batch: int = 1,
    size: int = 64,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """A concrete shape per input: `batch` for a dynamic first axis, `size` for the others.

    A dimension name means one size everywhere. `shapes` overrides whole shapes by input name
    and decides the named dimensions that it covers for the other inputs.

    Raises:
        UsageError: `shapes` names no input, or is of another rank or at odds with a fixed size.

    """
    given = dict(shapes or {})
    unknown = sorted(set(given) - {spec.name for spec in wanted})
    if unknown:
        raise UsageError(f"the model has no input {unknown[0]!r} to give a shape")
    known: dict[str, int] = {}
    for spec in wanted:
        if spec.name in given:
            _learn(spec, tuple(given[spec.name]), known)
    resolved = {}
    for spec in wanted:
        shape = []
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            default = batch if axis == 0 else size
            if axis == 1 and spec.channels:
                default = spec.channels
            elif axis == 1 and len(spec.shape) > 3 and not isinstance(spec.shape[-1], int):
                default = 3  # an image of unknown channels; with a fixed last axis it is NHWC
            shape.append(known.setdefault(dim, default) if dim else default)
        resolved[spec.name] = tuple(given.get(spec.name, shape))
    return resolved


def fit(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, tuple[int, ...]]], object],
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The first shapes of the ladder in which `attempt`, a run of the model, succeeds.

    Raises:
        NormSurgeryError: as `attempt` raises it for the first shapes, if none are taken.

    """
    volume = any(len(spec.shape) > 4 for spec in wanted)
    first: NormSurgeryError | None = None
    tried = []
    for size in _VOLUME_LADDER if volume else LADDER:
        candidate = resolve(wanted, batch=batch, size=size, shapes=shapes)
        if candidate in tried:
            continue
        tried.append(candidate)
        try:
            attempt(candidate)
        except NormSurgeryError as failure:
            first = first or failure
        else:
            return candidate
    raise first or UsageError("the model has no shapes to try")


def smaller(
    wanted: Sequence[InputSpec],
    attempt: Callable[[dict[str, tuple[int, ...]]], object],
    found: Mapping[str, tuple[int, ...]],
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shapes of other dynamic dimensions than those of `found`, in which `attempt` succeeds too.

    Smaller ones, since a float64 run may have to follow, but not tiny; `found` if there are none.
    Where height and width are free, the width stays as it is: two axes that somebody swapped look
    alike in a square.
    """
    most = _elements(found)
    for size in LADDER:
        candidate = resolve(wanted, batch=batch, size=size, shapes=shapes)
        if not most / 20 <= _elements(candidate) < most:
            continue
        try:
            attempt(candidate)
        except NormSurgeryError:
            continue
        uneven = _as_wide_as(wanted, candidate, found)
        try:
            attempt(uneven)
        except NormSurgeryError:
            return candidate
        return uneven
    return dict(found)


def _as_wide_as(
    wanted: Sequence[InputSpec],
    shapes: Mapping[str, tuple[int, ...]],
    other: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """`shapes` with the last axis of `other`, where it and the one before are free and unlike."""
    made, known = {}, dict[str, int]()
    for spec in wanted:
        shape = shapes[spec.name]
        last = spec.shape[-1:]
        if len(shape) > 3 and not isinstance(spec.shape[-2], int) and not isinstance(last[0], int):
            shape = (*shape[:-1], other[spec.name][-1])
        made[spec.name] = shape
        for dim, size in zip(spec.shape, shape, strict=True):
            if dim and isinstance(dim, str) and known.setdefault(dim, size) != size:
                return dict(shapes)  # one name, which stands for one size
    return made


def _elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _learn(spec: InputSpec, shape: tuple[int, ...], known: dict[str, int]) -> None:
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, shape, strict=True)
    )
    if not fits or min(shape, default=1) < 1:
        raise UsageError(f"input {spec.name!r} is {spec.shape}, which {shape} does not fit")
    named = zip(spec.shape, shape, strict=True)
    known |= {dim: size for dim, size in named if isinstance(dim, str) and dim}


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


def _is_index(elem_type: int) -> bool:
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

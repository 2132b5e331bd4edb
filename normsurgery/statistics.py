"""Moments of a model's values over data, reduced inside the graph by onnxruntime.

The values asked for get reductions of their own in a copy of the graph, and only those are its
outputs, so that no activation leaves onnxruntime or outlives its last reader. For a value x of N
samples, and of M elements a sample and channel, in float64::

    m[n, c] = Σ x / M,    s[n, c] = Σ (x − m[n, c])²

A sample's two passes need no second run, have no cancellation (unlike E[x²] − E[x]²), and do not
depend on which samples share its batch. Batches merge exactly (``Moments``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from normsurgery import io, models, runtime, shapes
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.moments import Moments

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from normsurgery.graph import Scope

    Feeds = Mapping[str, NDArray[Any]]

OLDEST = 7  # operator set: onnxruntime has no kernels for what was before
_AXES_ARE_INPUT = 18  # operator set from which on reductions take their axes as an input


def moments(
    model: str | os.PathLike[str] | ModelProto | io.Model | Any,
    values: Sequence[str] | Mapping[str, int],
    batches: Iterable[Feeds],
    *,
    threads: int | None = None,
) -> dict[str, Moments]:
    """Return the moments of each channel of ``values`` over all ``batches``, by value.

    model: a path, ``onnx.ModelProto`` or ``onnx_ir.Model``; it is not changed.
    values: names of values of the main graph, with the axis that channels lie on (1 by default).
    batches: feeds by input name; an iterable that is read once.

    Raises ``UsageError`` where a value is not there or has no such axis, or for no batches;
    ``InvalidModelError`` where onnxruntime does not run the model.
    """
    content, _ = models.take(model)
    found: dict[str, Moments] = {}
    for part in per_batch(content, values, batches, threads=threads):
        found = {name: found[name].merge(one) if found else one for name, one in part.items()}
    if not found:
        raise UsageError("there are no samples to take statistics of")
    return found


def per_batch(
    content: io.Model,
    values: Sequence[str] | Mapping[str, int],
    batches: Iterable[Feeds],
    *,
    threads: int | None = None,
) -> Iterator[dict[str, Moments]]:
    """Yield the moments of each batch for itself; arguments and errors as for ``moments``."""
    axes = dict(values) if isinstance(values, Mapping) else dict.fromkeys(values, 1)
    probed, outputs = probe(content, axes)
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder) / "probed.onnx"
        io.save(probed, path)
        session = runtime.session(path, threads=threads, in_order=True)
        wanted = {one.name for one in session.get_inputs()}
        for feeds in batches:
            given = {name: array for name, array in feeds.items() if name in wanted}
            results = runtime.run(session, given)
            yield {
                name: _of_samples(results[a], results[b], results[c], axes[name])
                for name, (a, b, c) in outputs.items()
            }


def probe(
    content: io.Model, axes: Mapping[str, int]
) -> tuple[io.Model, dict[str, tuple[str, str, str]]]:
    """Return a copy of the model that computes the reductions of ``axes``' values, and no more.

    Returns by value the names of three outputs: its shape, and float64 means and sums of squares
    by sample and channel. Raises ``UsageError``, ``GraphError``.
    """
    proto = ModelProto()
    proto.CopyFrom(content.proto)
    copy = replace(content, proto=proto)
    graph = Graph(copy)
    main = graph.main
    if main.opset < OLDEST:
        raise UsageError(
            f"operator set {main.opset} is older than onnxruntime runs; convert the model to "
            f"{OLDEST} or newer (onnx.version_converter)"
        )
    behind: dict[int, list[NodeProto]] = {}
    outputs, constants = {}, []
    for name, axis in axes.items():
        if not _is_here(main, name):
            raise UsageError(f"the main graph has no value {name!r} to take statistics of")
        nodes, tensors, made = _reductions(main, name, axis)
        maker = main.producer.get(name)
        behind.setdefault(0 if maker is None else id(maker), []).extend(nodes)
        constants += tensors
        outputs[name] = made
    _cut(main, set(axes), behind)
    proto.graph.initializer.extend(constants)
    for shape, *sums in outputs.values():
        proto.graph.output.append(helper.make_tensor_value_info(shape, TensorProto.INT64, None))
        for one in sums:
            proto.graph.output.append(helper.make_tensor_value_info(one, TensorProto.DOUBLE, None))
    return copy, outputs


def _is_here(scope: Scope, name: str) -> bool:
    return name in scope.producer or name in scope.inputs or name in scope.initializers


def _reductions(
    scope: Scope, name: str, axis: int
) -> tuple[list[NodeProto], list[TensorProto], tuple[str, str, str]]:
    """Return the nodes, their constants and their outputs, for channels on ``axis``.

    Any rank is taken as (N, C, M) where channels are on axis 1; else the rank must be known.
    """
    new = scope.graph.unique_name
    shape, wide, mean, rest, squares = (
        new(f"{name}_{part}") for part in ("shape", "float64", "mean", "centred", "squares")
    )
    nodes = [helper.make_node("Shape", [name], [shape])]
    tensors = []
    source, axes = name, _reduced_axes(scope, name, axis)
    if axes is None:
        flat, to = new(f"{name}_flat"), new(f"{name}_flat_shape")
        tensors.append(numpy_helper.from_array(np.array([0, 0, -1]), to))
        nodes.append(helper.make_node("Reshape", [name, to], [flat]))
        source, axes = flat, [2]
    nodes.append(helper.make_node("Cast", [source], [wide], to=TensorProto.DOUBLE))
    over: tuple[list[str], dict[str, Any]] = ([], {"axes": axes})
    if scope.opset >= _AXES_ARE_INPUT:
        along = new(f"{name}_axes")
        tensors.append(numpy_helper.from_array(np.array(axes, np.int64), along))
        over = ([along], {})
    nodes += [
        helper.make_node("ReduceMean", [wide, *over[0]], [mean], keepdims=1, **over[1]),
        helper.make_node("Sub", [wide, mean], [rest]),
        helper.make_node("ReduceSumSquare", [rest, *over[0]], [squares], keepdims=1, **over[1]),
    ]
    return nodes, tensors, (shape, mean, squares)


def _reduced_axes(scope: Scope, name: str, axis: int) -> list[int] | None:
    """Return all axes but the samples' and the channels'; None for (N, C, …) of any rank."""
    if axis == 1:
        return None
    rank = shapes.rank(scope, name)
    if rank is None:
        raise UsageError(
            f"the rank of {name!r} is not known, so channels on axis {axis} cannot be told from "
            "the rest; run onnx.shape_inference on the model first"
        )
    if not -rank <= axis < rank or rank < 2:
        raise UsageError(f"{name!r} has {rank} dimensions: no samples and channels on axis {axis}")
    axis %= rank
    return None if axis == 1 else [i for i in range(rank) if i not in {0, axis}]


def _cut(main: Scope, values: set[str], behind: dict[int, list[NodeProto]]) -> None:
    """Leave in the graph what ``values`` are computed from, each value's new nodes behind it.

    onnxruntime runs every node of a graph, whichever outputs it is asked for.
    """
    needed, waiting = set(values), list(values)
    while waiting:
        maker = main.producer.get(waiting.pop())
        for name in () if maker is None else main.reads(maker):
            if name not in needed:
                needed.add(name)
                waiting.append(name)
    nodes = list(behind.get(0, ()))
    for node in main.nodes:
        if needed.intersection(node.output):
            nodes += [node, *behind.get(id(node), ())]
    graph = main.graph.proto.graph
    kept = [_copy(node) for node in nodes]
    del graph.node[:], graph.output[:], graph.quantization_annotation[:]
    del main.graph.proto.training_info[:]
    graph.node.extend(kept)
    for entries in (graph.input, graph.initializer, graph.value_info):
        for i in range(len(entries) - 1, -1, -1):
            if entries[i].name not in needed:
                del entries[i]


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _of_samples(
    shape: NDArray[np.int64], mean: NDArray[np.float64], squares: NDArray[np.float64], axis: int
) -> Moments:
    """Return the moments of all samples of a batch out of those of each sample."""
    channels = int(shape[axis])
    if not shape.prod():
        return Moments.none(channels)
    each = int(shape.prod()) // mean.size
    with np.errstate(invalid="ignore"):  # infinities have no mean
        between = Moments.of(mean.reshape(-1, channels, 1))
    within = squares.reshape(-1, channels).sum(axis=0)
    return Moments(between.count * each, between.mean, within + each * between.M2)

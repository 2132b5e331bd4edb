"""One node at a time, on onnxruntime's own values: which node's import is wrong, if any is.

Rounding errors do not add up this way, nor does one number that rounds the other way change what
comes after. Each node's output is judged as the whole model is (``checking``); what a saturating
function gives is held to its range, since kernels approximate it to an absolute error.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from normsurgery import io, runtime
from normsurgery.pytorch.interpreter import program
from normsurgery.pytorch.interpreter.elements import from_numpy, to_numpy
from normsurgery.validation.distances import is_float, rms
from normsurgery.validation.ulps import onnx_limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normsurgery.pytorch.interpreter.module import GraphModule
    from normsurgery.pytorch.interpreter.program import Step

_SATURATING = frozenset(
    {"Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Erf", "Softplus", "HardSigmoid", "Sin", "Cos",
     "LSTM", "GRU", "RNN", "Loop", "If", "Scan"}
)  # fmt: skip


def first_difference(
    module: GraphModule,
    wide: GraphModule,
    content: io.Model,
    feeds: Mapping[str, np.ndarray],
    bound: float,
) -> str | None:
    """Return what the first node does whose import differs from onnxruntime; None if none does.

    wide: a copy of the module in float64. bound: on the ratio of ``checking``.
    """
    names = module.value_names()
    known = _intermediates(content, list(names.values()), feeds)
    runs = [m.values_for(feeds) for m in (module, wide)]
    for index, name in names.items():
        if name in known and runs[0][index] is not None:
            _force(runs, index, known[name], module, wide)
    for step in module.steps():
        writes = (step[2],) if isinstance(step[2], int) else step[2]
        with torch.no_grad():
            for values in runs:
                program.run([(*step[:3], (), step[4])], values)
        for index in writes:
            name = names.get(index, "")
            if name not in known:
                continue
            ours, true = (values[index] for values in runs)
            found = _differs(step[4], known[name], ours, true, bound)
            if found is not None and known[name].dtype.itemsize == 2:
                moved = _moved(step, index, runs[1], ours.dtype)
                found = _differs(step[4], known[name], ours, true, bound, moved)
            if found is not None:
                return f"{step[4]}, output {name!r}: {found}"
            _force(runs, index, known[name], module, wide)
    return None


def _force(
    runs: list[list[Any]], index: int, value: Any, module: GraphModule, wide: GraphModule
) -> None:
    """Make both runs go on with onnxruntime's value."""
    for values, one in zip(runs, (module, wide), strict=True):
        if isinstance(value, np.ndarray) and isinstance(values[index], torch.Tensor):
            values[index] = one.taken(from_numpy(value))


def _intermediates(
    content: io.Model, names: list[str], feeds: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return every value of the main graph under onnxruntime."""
    proto = io.to_proto(content)
    have = {o.name for o in proto.graph.output}
    made = {name for node in proto.graph.node for name in node.output}
    for name in names:
        if name in made and name not in have:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(proto.SerializeToString())
        return runtime.run(runtime.session(path), feeds)


def _moved(step: Step, index: int, values: list[Any], dtype: torch.dtype) -> float:
    """Return how far half a unit in the last place of a node's inputs moves its output, as an rms.

    onnxruntime computes nodes without a kernel for 16 bits in float32, and hands the next such
    node the result before it is rounded.
    """
    nudged = list(values)
    for i in step[1]:
        value = values[i]
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
            near = value.to(dtype)
            above = torch.nextafter(near, torch.full_like(near, torch.inf)).to(value.dtype)
            nudged[i] = value + (above - value) / 2
    program.run([(*step[:3], (), step[4])], nudged)
    return rms(to_numpy(nudged[index] - values[index]))


def _differs(
    label: str, theirs: Any, ours: Any, true: Any, bound: float, moved: float = 0.0
) -> str | None:
    if not isinstance(theirs, np.ndarray) or not isinstance(ours, torch.Tensor):
        return None
    mine, exact = to_numpy(ours), to_numpy(true)
    if mine.shape != theirs.shape:
        return f"its shape is {mine.shape}, onnxruntime's {theirs.shape}"
    if not is_float(theirs):
        wrong = int(np.sum(mine != theirs))
        allowed = 0.01 * theirs.size if label.startswith("QuantizeLinear") else 0
        return f"{wrong} of {theirs.size} elements differ" if wrong > allowed else None
    yours = theirs.astype(np.float64)
    finite = np.isfinite(yours) & np.isfinite(exact)
    odd = ~finite & ~((yours == exact) | (np.isnan(yours) & np.isnan(exact)))
    overflow = onnx_limits(theirs.dtype)[1]
    if np.any(odd & ~(np.isinf(yours) & (np.abs(exact) > overflow))):
        return "elements are NaN or Inf on one side alone"
    if not finite.any():
        return None
    unit = onnx_limits(theirs.dtype)[2]
    floor = unit * rms(exact[finite])
    if label.split(maxsplit=1)[0] in _SATURATING:
        floor = max(floor, unit)
    error = rms(yours[finite] - exact[finite])
    own = max(moved, rms(mine.astype(np.float64)[finite] - exact[finite]))
    ratio = error / max(own, floor, float(np.finfo(np.float64).tiny))
    return f"the error is {ratio:.3g} times what rounding explains" if ratio > bound else None

"""Parity of an exported graph with the module that it came from.

The truth is the module itself in double precision: the same weights, with arithmetic that errs
nine orders of magnitude below what is measured. The graph, run by onnxruntime with optimizations
off, may be as far from it as the module in its own precision is, times 2 (as
``normsurgery.validation`` judges). Where the module does not run in double (it casts to float32 in
its own code), the truth is the graph in float64: then it is the module that has to be near it.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper

from normsurgery import io, runtime
from normsurgery.errors import ModuleError, NormSurgeryError
from normsurgery.pytorch.copying import first_line, in_double
from normsurgery.validation import oracle
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import Comparison, Status, against_oracle, rms
from normsurgery.validation.inputs import generate
from normsurgery.validation.noise import one_ulp
from normsurgery.validation.result import Parity, sum_up
from normsurgery.validation.shapes import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from normsurgery.pytorch.tracing import Dynamic

    Arrays = list[np.ndarray]

BOUND = 2.0
_DRAWS = 8  # of weights moved by an ulp, for a second opinion
_KINDS = ("normal", "uniform", "smooth")


@dataclass(frozen=True)
class Inputs:
    """One set of arguments for the module and, by position, feeds for the graph."""

    label: str
    args: tuple[torch.Tensor, ...]


def check(
    model: io.Model,
    module: nn.Module,
    args: Sequence[torch.Tensor],
    names: Sequence[str],
    dynamic: Dynamic,
    *,
    seed: int = 0,
) -> Parity:
    """Compare ``model`` with ``module``, which is in evaluation mode, on ``args`` and made inputs.

    names: of the graph's inputs, in the order of ``args``. dynamic: their free axes; every second
    set has other sizes there. Raises ``ModuleError`` where the module does not run on ``args``.
    """
    sets = list(_sets(args, names, dynamic, seed))
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder) / "model.onnx"
        io.save(model, path)
        ran, label = _runner(path, args, names)
        outputs = [value.name for value in model.proto.graph.output]
        truth, reason = _truth(path, module, args, names)
        found: dict[str, list[Comparison]] = {name: [] for name in outputs}
        kept = []
        for one in sets:
            try:
                reference = _forward(module, one.args)
            except Exception as error:  # whatever the module raises
                if one is sets[0]:
                    raise ModuleError(
                        f"the module does not run on its inputs: {first_line(error)}"
                    ) from error
                continue  # not its kind of input: another size of a dynamic axis
            kept.append(one.label)
            for name, comparison in _judge(module, ran, truth, one, reference, outputs).items():
                found[name].append(comparison)
    return Parity(
        outputs=tuple(sum_up(name, comparisons) for name, comparisons in found.items()),
        sets=tuple(kept),
        bound=BOUND,
        oracle="float64",
        reason=reason,
        runtime=f"PyTorch {torch.__version__.split('+')[0]} against {label}",
    )


def _judge(
    module: nn.Module,
    ran: Callable[[Sequence[torch.Tensor]], Arrays],
    truth: Callable[[Sequence[torch.Tensor]], Arrays],
    one: Inputs,
    reference: Arrays,
    outputs: Sequence[str],
) -> dict[str, Comparison]:
    try:
        candidate = ran(one.args)
    except NormSurgeryError as failure:
        note = f"the exported graph does not run: {failure}"
        return {name: Comparison(Status.FAILED, note=note) for name in outputs}
    if len(candidate) != len(reference):
        note = f"{len(candidate)} outputs, the module has {len(reference)}"
        return {name: Comparison(Status.FAILED, note=note) for name in outputs}
    true = truth(one.args)
    judged = {}
    for i, name in enumerate(outputs):
        try:
            judged[name] = against_oracle(
                reference[i],
                candidate[i],
                true[i],
                bound=BOUND,
                second_opinion=functools.partial(_moved, module, one.args, true[i], i),
            )
        except NoOracleError as failure:
            judged[name] = Comparison(Status.FAILED, note=f"the float64 run: {failure}")
    return judged


def _runner(
    path: Path, args: Sequence[torch.Tensor], names: Sequence[str]
) -> tuple[Callable[[Sequence[torch.Tensor]], Arrays], str]:
    """Return what runs the graph: onnxruntime, or the float64 oracle where it has no kernels."""
    odd = [a.dtype for a in args if a.dtype in (torch.bfloat16, torch.float64)]
    if odd or not runtime.available():
        found = oracle.load(path)

        def run(values: Sequence[torch.Tensor]) -> Arrays:
            feeds = {n: _numpy(v) for n, v in zip(names, values, strict=True)}
            return [np.asarray(v) for v in oracle.run(found, feeds).values()]

        why = f"onnxruntime has no {odd[0]} kernels" if odd else "onnxruntime is not installed"
        return run, f"the float64 evaluator ({why})"
    session: list[Any] = []

    def run_in_onnxruntime(values: Sequence[torch.Tensor]) -> Arrays:
        if not session:
            session.append(runtime.session(path))
        feeds = {n: _numpy(v) for n, v in zip(names, values, strict=True)}
        return [np.asarray(v) for v in runtime.run(session[0], feeds).values()]

    return run_in_onnxruntime, f"onnxruntime CPU {'.'.join(runtime.version().split('.')[:2])}"


def _truth(
    path: Path, module: nn.Module, args: Sequence[torch.Tensor], names: Sequence[str]
) -> tuple[Callable[[Sequence[torch.Tensor]], Arrays], str]:
    """Return what gives the outputs in float64, and why it is not the module, if it is not."""
    double = in_double(module)
    for inner in double.modules():
        eps = getattr(inner, "eps", None)
        if isinstance(eps, float):
            setattr(inner, "eps", float(np.float32(eps)))  # noqa: B010  as an ONNX attribute has it

    def wide(values: Sequence[torch.Tensor]) -> Arrays:
        return _forward(double, tuple(v.double() if v.is_floating_point() else v for v in values))

    try:
        narrow = [v for v in wide(args) if v.dtype.kind == "f" and v.dtype != np.float64]
        why = "it gives float32 all the same" if narrow else ""
    except Exception as error:  # noqa: BLE001  whatever the module raises
        why = first_line(error)
    if not why:
        return wide, ""
    found = oracle.load(path)

    def of_the_graph(values: Sequence[torch.Tensor]) -> Arrays:
        feeds = {n: _numpy(v) for n, v in zip(names, values, strict=True)}
        return [np.asarray(v) for v in oracle.run(found, feeds).values()]

    return of_the_graph, f"of the graph; the module does not run in double: {why}"


def _moved(module: nn.Module, args: Sequence[torch.Tensor], true: np.ndarray, index: int) -> float:
    """Return the largest error of the module with its weights moved by an ulp at random."""
    largest = 0.0
    rng = np.random.default_rng(0)
    for _ in range(_DRAWS):
        moved = copy.deepcopy(module)
        for parameter in moved.parameters():
            values = one_ulp(_numpy(parameter), rng).astype(np.float64)
            parameter.data.copy_(torch.from_numpy(values))
        output = _forward(moved, args)[index].astype(np.float64)
        distance = output - true
        largest = max(largest, rms(distance[np.isfinite(distance)]))
    return largest


def _sets(
    args: Sequence[torch.Tensor], names: Sequence[str], dynamic: Dynamic, seed: int
) -> Iterator[Inputs]:
    yield Inputs(_label("given", names, args), tuple(args))
    for i, kind in enumerate(_KINDS):
        made = []
        for name, arg in zip(names, args, strict=True):
            free = dynamic.get(name, {}) if i % 2 == 0 else {}
            shape = [
                size if axis not in free else size + 1 if axis == 0 else 2 * size
                for axis, size in enumerate(arg.shape)
            ]
            made.append(_fill(arg, tuple(shape), kind, np.random.default_rng(seed + i)))
        yield Inputs(_label(f"{kind}, seed {seed + i}", names, made), tuple(made))


def _fill(
    arg: torch.Tensor, shape: tuple[int, ...], kind: str, rng: np.random.Generator
) -> torch.Tensor:
    """Return random floats; integers, which may be indices, are those of ``arg``, repeated."""
    if not arg.is_floating_point():
        index = [torch.arange(size) % old for size, old in zip(shape, arg.shape, strict=True)]
        return arg[torch.meshgrid(*index, indexing="ij")] if index else arg.clone()
    spec = InputSpec("x", int(TensorProto.DOUBLE), shape)
    values = generate([spec], {"x": shape}, kind, rng)["x"]
    return torch.from_numpy(np.ascontiguousarray(values)).to(arg.dtype)


def _forward(module: nn.Module, args: Sequence[torch.Tensor]) -> Arrays:
    with torch.no_grad():
        return [_numpy(value) for value in flat(module(*args))]


def flat(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested tuples, lists and dicts, in the order of an export's outputs."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from flat(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from flat(inner)


def _numpy(value: torch.Tensor) -> np.ndarray:
    value = value.detach().cpu()
    if value.dtype is torch.bfloat16:
        bits = value.view(torch.int16).numpy()
        return bits.view(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return value.numpy()


def _label(title: str, names: Sequence[str], args: Sequence[torch.Tensor]) -> str:
    shapes = (f"{name} {tuple(a.shape)}" for name, a in zip(names, args, strict=True))
    return ", ".join((title, *shapes))

"""Parity of a graph with a module: of an export with its source, of a changed module with its own.

The truth is the module in double precision: the same weights, with arithmetic that errs nine orders
of magnitude below what is measured. The graph, run by onnxruntime with optimizations off, may be as
far from it as rounding explains, times 2: the error of the module in its own precision, or, as
kernels differ, the distance that the graph's outputs move when its weights move by an ulp. Where
the module does not run in double (it casts to float32 in its own code), the truth is the graph in
float64, and it is the module that has to be near it.
"""

from __future__ import annotations

import functools
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import TensorProto

from normsurgery import io
from normsurgery.errors import ModuleError, NormSurgeryError, ParityError
from normsurgery.pytorch.copying import first_line
from normsurgery.pytorch.running import GraphRunner, ModuleRunner
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import Comparison, Status, against_oracle, is_float, rms
from normsurgery.validation.inputs import generate
from normsurgery.validation.result import Parity, sum_up
from normsurgery.validation.shapes import InputSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from normsurgery.pytorch.exporting.tracing import Dynamic
    from normsurgery.pytorch.running import Args, Arrays

BOUND = 2.0
EXACT = 1e-9  # relative, of float64 runs of one function: rounding of the arithmetic, no more
_GROWTH = 32  # of a relative error on its way through other norms
_ATTRIBUTES = 1e-6  # relative, what attributes in float32 explain
_KINDS = ("normal", "uniform", "smooth")


@dataclass(frozen=True)
class Inputs:
    """One set of arguments for the module and, by position, feeds for the graph."""

    label: str
    args: tuple[torch.Tensor, ...]


def check(
    model: io.Model, module: nn.Module, args: Args, names: Sequence[str], dynamic: Dynamic
) -> Parity:
    """Compare ``model`` with ``module``, which is in evaluation mode, on ``args`` and made inputs.

    names: of the graph's inputs, in the order of ``args``. dynamic: their free axes; every second
    set has other sizes there. Raises ``ModuleError`` where the module does not run on ``args``.
    """
    sets = list(_sets(args, names, dynamic))
    outputs = [value.name for value in model.proto.graph.output]
    found: dict[str, list[Comparison]] = {name: [] for name in outputs}
    kept = []
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder) / "model.onnx"
        io.save(model, path)
        theirs, ours = GraphRunner(path, names, args), ModuleRunner(module, args)
        for one in sets:
            try:
                reference = ours.run(one.args)
            except Exception as error:  # whatever the module raises
                if one is sets[0]:
                    raise ModuleError(
                        f"the module does not run on its inputs: {first_line(error)}"
                    ) from error
                continue  # not its kind of input: another size of a dynamic axis
            kept.append(one.label)
            for name, comparison in _judge(ours, theirs, one, reference, outputs).items():
                found[name].append(comparison)
    why = ours.why_not_exact
    return Parity(
        outputs=tuple(sum_up(name, comparisons) for name, comparisons in found.items()),
        sets=tuple(kept),
        bound=BOUND,
        oracle="float64",
        reason=f"of the graph; the module does not run in double: {why}" if why else "",
        runtime=f"PyTorch {torch.__version__.split('+')[0]} against {theirs.label}",
    )


def apart(model: io.Model, module: nn.Module, args: Args, names: Sequence[str]) -> float | None:
    """Return how far ``model`` and ``module`` are apart in float64, relative to the outputs.

    None where one of them does not run in float64; infinity where shapes differ.
    """
    largest = 0.0
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder) / "model.onnx"
        io.save(model, path)
        theirs, ours = GraphRunner(path, names, args), ModuleRunner(module, args)
        if ours.why_not_exact:
            return None
        for one in _sets(args, names, {}):
            try:
                graph = theirs.exact(one.args)
            except NoOracleError:
                return None
            for mine, other in zip(ours.exact(one.args), graph, strict=True):
                if mine.shape != other.shape:
                    return math.inf
                largest = max(largest, rms(mine - other) / (rms(other) or 1.0))
    return largest


def same(
    after: tuple[io.Model, nn.Module],
    before: tuple[io.Model, nn.Module],
    args: Args,
    names: Sequence[str],
) -> float | None:
    """Return how far a changed module and its graph are ``apart``, both of the same constants.

    1e-9 is allowed, the rounding of float64 arithmetic; or 32 times what they were apart
    ``before``: attributes such as HardSigmoid's 1/6 are float32 in a graph. Raises ``ParityError``
    where it is more, or where module and export were 1e-6 apart to begin with.
    """
    found = apart(*after, args, names)
    if found is None or found <= EXACT:
        return found
    was = apart(*before, args, names) or 0.0
    if not found <= _GROWTH * was or was > _ATTRIBUTES:
        raise ParityError(
            f"the module and the graph that it is to be are {found:.1e} apart in float64, and were "
            f"{was:.1e}; please report it"
        )
    return found


def compare(before: nn.Module, after: nn.Module, args: Args, names: Sequence[str]) -> Parity:
    """Judge whether ``after`` computes what ``before`` computes, both in evaluation mode.

    In exact arithmetic the coefficients of ``after``, which are rounded, may be as far from the
    truth as ``before`` is in its own precision, times 2. Kernels for them are torch's own matter.
    """
    ours, theirs = ModuleRunner(before, args), ModuleRunner(after, args)
    exact = not (ours.why_not_exact or theirs.why_not_exact)
    found: list[list[Comparison]] = []
    sets = list(_sets(args, names, {}))
    for one in sets:
        reference = ours.run(one.args)
        true = ours.exact(one.args) if exact else reference
        candidate = theirs.exact(one.args) if exact else theirs.run(one.args)
        judged = [
            _against(
                reference[i],
                candidate[i].astype(reference[i].dtype),
                t,
                functools.partial(ours.moved, one.args, t, i),
            )
            for i, t in enumerate(true)
        ]
        found.append(judged)
    outputs = [sum_up(f"output {i}", list(one)) for i, one in enumerate(zip(*found, strict=True))]
    why = ours.why_not_exact or theirs.why_not_exact
    return Parity(
        outputs=tuple(outputs),
        sets=tuple(one.label for one in sets),
        bound=BOUND,
        oracle="float64",
        reason=f"the module itself; it does not run in double: {why}" if why else "",
        runtime=f"PyTorch {torch.__version__.split('+')[0]}",
    )


def _judge(
    ours: ModuleRunner, theirs: GraphRunner, one: Inputs, reference: Arrays, outputs: Sequence[str]
) -> dict[str, Comparison]:
    try:
        candidate = theirs.run(one.args)
    except NormSurgeryError as failure:
        note = f"the exported graph does not run: {failure}"
        return {name: Comparison(Status.FAILED, note=note) for name in outputs}
    if len(candidate) != len(reference):
        note = f"{len(candidate)} outputs, the module has {len(reference)}"
        return {name: Comparison(Status.FAILED, note=note) for name in outputs}
    if theirs.in_double:  # rounded to what the graph gives, which the module gives as well
        candidate = [
            c.astype(r.dtype) if c.dtype == np.float64 and is_float(r) else c
            for c, r in zip(candidate, reference, strict=True)
        ]
    if ours.why_not_exact:
        true = theirs.exact(one.args)
        return {
            name: _against(
                candidate[i], reference[i], true[i], functools.partial(theirs.noise, one.args, i)
            )
            for i, name in enumerate(outputs)
        }
    true = ours.exact(one.args)

    def explained(index: int) -> float:
        return max(ours.moved(one.args, true[index], index), theirs.noise(one.args, index))

    return {
        name: _against(reference[i], candidate[i], true[i], functools.partial(explained, i))
        for i, name in enumerate(outputs)
    }


def _against(
    reference: np.ndarray,
    candidate: np.ndarray,
    true: np.ndarray,
    opinion: functools.partial[float],
) -> Comparison:
    try:
        return against_oracle(reference, candidate, true, bound=BOUND, second_opinion=opinion)
    except NoOracleError as failure:
        return Comparison(Status.FAILED, note=f"the float64 run: {failure}")


def _sets(args: Args, names: Sequence[str], dynamic: Dynamic) -> Iterator[Inputs]:
    yield Inputs(_label("given", names, args), tuple(args))
    for seed, kind in enumerate(_KINDS):
        made = []
        for name, arg in zip(names, args, strict=True):
            free = dynamic.get(name, {}) if seed % 2 == 0 else {}
            shape = [
                size if axis not in free else size + 1 if axis == 0 else 2 * size
                for axis, size in enumerate(arg.shape)
            ]
            made.append(_fill(arg, tuple(shape), kind, np.random.default_rng(seed)))
        yield Inputs(_label(f"{kind}, seed {seed}", names, made), tuple(made))


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


def _label(title: str, names: Sequence[str], args: Sequence[torch.Tensor]) -> str:
    shapes = (f"{name} {tuple(a.shape)}" for name, a in zip(names, args, strict=True))
    return ", ".join((title, *shapes))

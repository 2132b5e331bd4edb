"""Parity of an export with its source.

The truth is the module in double precision: the same weights, with arithmetic that errs nine orders
of magnitude below what is measured. The graph, run by onnxruntime with optimizations off, may be as
far from it as rounding explains, times 2: the error of the module in its own precision, or, as
kernels differ, the distance that the graph's outputs move when its weights move by an ulp. Where
the module does not run in double (it casts to float32 in its own code), the truth is the graph in
float64, and it is the module that has to be near it.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from normsurgery import io
from normsurgery.errors import ModuleError, NormSurgeryError
from normsurgery.pytorch.copying import first_line
from normsurgery.pytorch.running import GraphRunner, ModuleRunner
from normsurgery.pytorch.trials import BOUND, Inputs, against, input_sets, moved_again, opinions
from normsurgery.validation.comparison import Comparison, Status
from normsurgery.validation.distances import is_float
from normsurgery.validation.opinions import larger
from normsurgery.validation.result import Parity, sum_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from normsurgery.pytorch.exporting.tracing import Dynamic
    from normsurgery.pytorch.running import Args, Arrays
    from normsurgery.validation.opinions import Opinion


def check(
    model: io.Model, module: nn.Module, args: Args, names: Sequence[str], dynamic: Dynamic
) -> Parity:
    """Compare ``model`` with ``module``, which is in evaluation mode, on ``args`` and made inputs.

    names: of the graph's inputs, in the order of ``args``. dynamic: their free axes; every second
    set has other sizes there. Raises ``ModuleError`` where the module does not run on ``args``.
    """
    sets = list(input_sets(args, names, dynamic))
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
            name: against(
                candidate[i],
                reference[i],
                true[i],
                opinions(theirs, one.args, i, candidate[i]),
                functools.partial(moved_again, ours.run, theirs.exact, one.args, i),
            )
            for i, name in enumerate(outputs)
        }
    true = ours.exact(one.args)

    def either(i: int) -> list[Opinion]:
        # Kernels differ, so that the graph's own rounding counts as well as the module's.
        of_module = opinions(ours, one.args, i, reference[i], true[i])
        of_graph = opinions(theirs, one.args, i, candidate[i])
        return [larger(*two) for two in zip(of_module, of_graph, strict=True)]

    return {
        name: against(
            reference[i],
            candidate[i],
            true[i],
            either(i),
            functools.partial(moved_again, theirs.run, ours.exact, one.args, i),
        )
        for i, name in enumerate(outputs)
    }

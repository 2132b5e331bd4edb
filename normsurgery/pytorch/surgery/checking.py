"""Parity of a changed module: with the graph that it is to be, and with the module as it was.

The graph has the same constants, so that in float64 they agree to the rounding of the arithmetic;
``fold`` rounds its coefficients once, and that is what the module as it was is compared for.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from normsurgery import io
from normsurgery.errors import ParityError
from normsurgery.pytorch.copying import eval_copy
from normsurgery.pytorch.preparing import prepare
from normsurgery.pytorch.running import GraphRunner, ModuleRunner
from normsurgery.pytorch.trials import BOUND, against, input_sets, opinions
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.distances import rms
from normsurgery.validation.result import Parity, sum_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto
    from torch import nn

    from normsurgery.pytorch.running import Args
    from normsurgery.validation.comparison import Comparison

EXACT = 1e-9  # relative, of float64 runs of one function: rounding of the arithmetic, no more
_GROWTH = 32  # of a relative error on its way through other norms
_ATTRIBUTES = 1e-6  # relative, what attributes in float32 explain


def against_graph(
    after: ModelProto,
    changed: nn.Module,
    before: ModelProto,
    module: nn.Module,
    example: Sequence[torch.Tensor],
) -> float | None:
    """Raise ``ParityError`` unless ``changed`` computes what ``after`` computes, in float64."""
    names = [value.name for value in before.graph.input]
    # parametrized weights as the graphs have them
    (now, _), (then, _) = prepare(eval_copy(changed)), prepare(eval_copy(module))
    pairs = (io.from_proto(after), now), (io.from_proto(before), then)
    return same(*pairs, example, names)


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
        for one in input_sets(args, names, {}):
            try:
                graph = theirs.exact(one.args)
            except NoOracleError:
                return None
            for mine, other in zip(ours.exact(one.args), graph, strict=True):
                if mine.shape != other.shape:
                    return math.inf
                largest = max(largest, rms(mine - other) / (rms(other) or 1.0))
    return largest


def compare(before: nn.Module, after: nn.Module, args: Args, names: Sequence[str]) -> Parity:
    """Judge whether ``after`` computes what ``before`` computes, both in evaluation mode.

    In exact arithmetic the coefficients of ``after``, which are rounded, may be as far from the
    truth as ``before`` is in its own precision, times 2. Kernels for them are torch's own matter.
    """
    ours, theirs = ModuleRunner(before, args), ModuleRunner(after, args)
    exact = not (ours.why_not_exact or theirs.why_not_exact)
    found: list[list[Comparison]] = []
    sets = list(input_sets(args, names, {}))
    for one in sets:
        reference = ours.run(one.args)
        true = ours.exact(one.args) if exact else reference
        candidate = theirs.exact(one.args) if exact else theirs.run(one.args)
        judged = [
            against(
                reference[i],
                candidate[i].astype(reference[i].dtype),
                t,
                opinions(ours, one.args, i, reference[i], t),
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

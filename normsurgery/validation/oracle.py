"""The float64 oracle: what a model computes when rounding hardly matters.

No runtime at hand has it: onnxruntime's CPU kernels lack float64 convolutions, and torch is not
needed for folding. So the graph is rewritten to float64 (`double`) and run by
``onnx.reference`` with fast operators of our own (`operators`).

Weights keep their values: a float32 weight, or an ``epsilon`` attribute, is exactly what it is,
and only the arithmetic is better. Its own error is about 2⁻⁵³·√n, nine orders of magnitude below
what it measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import inliner

from normsurgery.validation.budget import DEFAULT_MULTIPLY_ADDS, Budget, NoOracleError
from normsurgery.validation.double import NARROW, to_double, widen
from normsurgery.validation.evaluator import DoubleEvaluator, evaluator
from normsurgery.validation.order import sort

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_WEIGHTS = 1 << 28
"""Float elements of initializers (2 GiB in float64) beyond which no oracle is made."""


@dataclass(frozen=True)
class Oracle:
    """A model that is ready to run in float64."""

    evaluator: DoubleEvaluator
    budget: Budget


def load(
    path: Path, *, multiply_adds: float = DEFAULT_MULTIPLY_ADDS, seconds: float = 60.0
) -> Oracle:
    """The oracle of the model at `path`, with external data beside it.

    Args:
        path: the model file; read once, nothing is written.
        multiply_adds: what one run may cost; half the number of floating-point operations.
        seconds: how long one run may take, for operators whose cost is not counted.

    Raises:
        NoOracleError: the model is too big, or holds something that cannot be set up.

    """
    budget = Budget(multiply_adds, seconds)
    try:
        model = onnx.load(str(path), load_external_data=False)
        floats = sum(_elements(tensor) for tensor in model.graph.initializer)
        if floats > _MAX_WEIGHTS:
            raise NoOracleError(f"{floats:.2g} weights are too many to widen to float64")
        onnx.load_external_data_for_model(model, str(path.parent))
        if model.functions:
            model = inliner.inline_local_functions(model)
        sort(model.graph)
        to_double(model)
        return Oracle(evaluator(model, budget), budget)
    except NoOracleError:
        raise
    except Exception as failure:  # a third party's interpreter: it raises whatever it likes
        line = next(iter(str(failure).splitlines()), type(failure).__name__)
        raise NoOracleError(f"the model cannot be set up in float64: {line[:160]}") from failure


def run(oracle: Oracle, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Every graph output by name, float ones as float64.

    Args:
        oracle: from :func:`load`.
        feeds: the graph's inputs, in the model's own types; floats are widened exactly.

    Raises:
        NoOracleError: a node cannot be run in float64, or the run is over its budget.

    """
    oracle.budget.restart()
    wide = {name: widen(np.asarray(array)) for name, array in feeds.items()}
    names = oracle.evaluator.output_names
    return dict(zip(names, oracle.evaluator.run(None, wide), strict=True))


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) if tensor.data_type in NARROW else 0

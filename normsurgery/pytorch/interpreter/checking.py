"""Every import is held against onnxruntime on the spot.

The module runs twice, as it is and in float64, and onnxruntime once, with its optimizations off.
Where the import is right, onnxruntime differs from the float64 run by rounding alone, and so does
the module; where it is wrong, the module's two runs agree with each other and onnxruntime is far
from both. So the module's own rounding error is the yardstick:

    ratio = rms(onnxruntime − float64) / max(rms(module − float64), u · rms(float64))
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from normsurgery import io, runtime
from normsurgery.errors import MissingPackageError, ParityError, UsageError
from normsurgery.pytorch.interpreter import stepwise
from normsurgery.pytorch.interpreter.elements import from_numpy, to_numpy
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import against_oracle
from normsurgery.validation.comparison import Status
from normsurgery.validation.sets import flatten, input_sets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normsurgery.pytorch.interpreter.module import GraphModule

BOUND = 16.0
"""Other kernels sum in another order; the mildest planted bug is far above."""


def check(
    module: GraphModule,
    content: io.Model,
    path: Path | None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    sets: int = 2,
) -> None:
    """Raise ``ParityError`` unless the module computes what onnxruntime computes.

    Where an output is too far off, each node is judged by itself, so that the error names the one
    that differs; if none does, the import is right and the difference rounding that grew.

    path: the model's file; without one it is written to a temporary folder.
    shapes: of the inputs, by name, where they are not fixed.
    """
    if not runtime.available():
        raise MissingPackageError(
            "an import is checked against onnxruntime, which is not installed; mend it with: "
            'pip install "normsurgery[cpu]", or pass check=False'
        )
    if module.random:
        raise UsageError(
            f"{module.random} is random, so the import cannot be checked; pass check=False"
        )
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder, "model.onnx")
            io.save(content, path)
        session = runtime.session(path)
        wide = widened(module)

        def attempt(feeds: Mapping[str, np.ndarray]) -> object:
            return runtime.run(session, feeds)

        for one in input_sets(content.proto, attempt, sets, 0, shapes=shapes):
            feeds = one.make()
            theirs = flatten(runtime.run(session, feeds))
            problem = compare(theirs, outputs(module, feeds), outputs(wide, feeds))
            if problem is None:
                continue
            node = stepwise.first_difference(module, wide, content, feeds, BOUND)
            if node is not None:
                raise ParityError(
                    f"the import differs from onnxruntime at {node}, on {one.label}; report it, "
                    "or pass check=False to use the module all the same"
                )


def widened(module: GraphModule) -> GraphModule:
    """Return a copy of the module in float64."""
    copied: GraphModule = copy.deepcopy(module).double()
    return copied


def outputs(module: GraphModule, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the module on NumPy inputs by name; return its outputs as flat arrays."""
    tensors = {name: from_numpy(np.asarray(array)) for name, array in feeds.items()}
    with torch.no_grad():
        made = module.run(tensors)
    return flatten({name: _array(value) for name, value in made.items()})


def _array(value: Any) -> Any:
    return [_array(one) for one in value] if isinstance(value, list) else to_numpy(value)


def compare(
    theirs: Mapping[str, np.ndarray],
    ours: Mapping[str, np.ndarray],
    true: Mapping[str, np.ndarray],
) -> str | None:
    """Return which output of onnxruntime is too far from the module's, and how far."""
    for name, expected in theirs.items():
        if name not in ours:
            return f"output {name!r} is missing"
        mine = ours[name].astype(expected.dtype, copy=False)
        try:
            found = against_oracle(mine, expected, true[name], bound=BOUND)
        except NoOracleError as failure:
            return f"output {name!r}: {failure}"
        if found.status is Status.FAILED:
            return f"output {name!r}: {found.note}"
    return None

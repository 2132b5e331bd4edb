"""Rounding noise of a model, measured without an oracle.

The model is run twice more, changed in ways that must not matter: once with every optimization
of onnxruntime (sums in another order, other kernels, nodes fused), and once with its inputs and
the coefficients of its linear and normalizing nodes moved by one unit in the last place, up or
down at random. The second is the kind of change that a fold makes, since it rounds its
coefficients anew. The larger difference is the noise. It is an estimate of the right order, not
a bound, which is why the oracle is asked first.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from normsurgery.errors import NormSurgeryError
from normsurgery.providers import CPU
from normsurgery.validation.double import NARROW
from normsurgery.validation.setups import FLOAT64, Setup
from normsurgery.validation.ulps import half_ulp, one_ulp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from normsurgery.validation.setups import Running

_COEFFICIENTS_OF = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Div",
        "Gemm",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "PRelu",
        "Sub",
    }
)
# Bytes of weights that all copies together may take, and those that fit into the model file: a
# protobuf message ends at 2 GiB.
_MEMORY = 1 << 29
_INLINE = 1 << 30

FURTHER = 54
"""Copies to ask, beyond the first ten, about a candidate that is near to passing."""


@dataclass(frozen=True)
class Doubles:
    """The changed models, ready to run.

    Attributes:
        optimized: the model with every optimization, or None if onnxruntime refuses it.
        perturbed: models with moved coefficients, each another draw.
        seed: of the nudges to the inputs.
        exact: they run in float64, where a nudge to a narrower input would be no rounding.
    """

    optimized: Running | None
    perturbed: tuple[Running, ...]
    seed: int
    exact: bool = False


@contextmanager
def doubles(
    path: Path,
    *,
    copies: int = 1,
    seed: int = 0,
    threads: int | None = None,
    provider: str = CPU,
) -> Iterator[Doubles]:
    """The changed copies of the model at `path`, for as long as the context lasts.

    Args:
        path: the model file.
        copies: how many draws of moved coefficients; fewer if they take too much memory.
        seed: of all that is random.
        threads: for onnxruntime.
        provider: of onnxruntime, or `setups.FLOAT64`.

    Raises:
        NormSurgeryError: the model cannot be run.

    """
    optimized = None
    if provider != FLOAT64:
        with suppress(NormSurgeryError):
            optimized = Setup(provider, optimize=True).start(path, threads)
    size = _bytes(onnx.load(str(path)))
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for copy in range(max(1, min(copies, _MEMORY // max(size, 1)))):
            target = Path(folder, f"model{copy}.onnx")
            made.append(_moved(path, target, rng, provider, threads))
        yield Doubles(optimized, tuple(made), seed, provider == FLOAT64)


def further(
    path: Path,
    feeds: Mapping[str, np.ndarray],
    *,
    tell: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    threads: int | None = None,
    provider: str = CPU,
) -> Iterator[dict[str, Any]]:
    """The outputs of `FURTHER` more changed copies, each made when it is asked for.

    One is held at a time. `tell` is called with the number of each; what else, see `doubles`.
    """
    rng = np.random.default_rng([seed, 1])
    for copy in range(FURTHER):
        tell(copy)
        found: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder, suppress(NormSurgeryError):
            running = _moved(path, Path(folder, "model.onnx"), rng, provider, threads)
            one = Doubles(None, (running,), seed + copy + 1, provider == FLOAT64)
            found.extend(runs(one, feeds))
        yield from found


def _moved(
    path: Path, target: Path, rng: np.random.Generator, provider: str, threads: int | None
) -> Running:
    """A copy of the model with moved coefficients, stored at `target` and started."""
    model = onnx.load(str(path))
    perturb(model, rng, half_ulp if provider == FLOAT64 else one_ulp)
    external = _bytes(model) > _INLINE
    onnx.save(model, str(target), save_as_external_data=external, location=f"{target.stem}.data")
    del model
    return Setup(provider).start(target, threads)


def _bytes(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def perturb(
    model: onnx.ModelProto,
    rng: np.random.Generator,
    move: Callable[[np.ndarray, np.random.Generator], np.ndarray] = one_ulp,
) -> None:
    """Move the float coefficients of linear and normalizing nodes as `move` does, in place.

    Other constants stay: moving the scales of a Resize could change a shape.
    """
    read = {
        name for node in model.graph.node if node.op_type in _COEFFICIENTS_OF for name in node.input
    }
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    tensors += [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant" and node.output[0] in read
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for tensor in tensors:
        if tensor.data_type in {*NARROW, TensorProto.DOUBLE}:
            moved = move(numpy_helper.to_array(tensor), rng)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def runs(
    changed: Doubles, feeds: Mapping[str, np.ndarray], *, repeats: int = 1
) -> Iterator[dict[str, Any]]:
    """The outputs of each changed copy; one that fails on these inputs is left out.

    Each repeat nudges the inputs anew, which rolls the dice of every rounding that follows. An
    output of few elements needs several: the error of a single number is near zero by chance
    every so often, and then no yardstick.
    """
    rng = np.random.default_rng(changed.seed)
    for repeat in range(repeats):
        nudged = {name: _nudged(changed, np.asarray(array), rng) for name, array in feeds.items()}
        for running, inputs in (
            (changed.optimized, nudged if repeat else feeds),
            (changed.perturbed[repeat % len(changed.perturbed)], nudged),
        ):
            if running is None:
                continue
            try:
                yield running.run(inputs)
            except NormSurgeryError:
                continue


def _nudged(changed: Doubles, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    narrow = array.dtype != np.float64
    return array if changed.exact and narrow else one_ulp(array, rng)

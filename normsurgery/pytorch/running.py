"""The same inputs through a module and through a graph, in float32 and in float64."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper

from normsurgery import runtime
from normsurgery.errors import NormSurgeryError
from normsurgery.pytorch.copying import first_line, in_double
from normsurgery.validation import noise, oracle
from normsurgery.validation.ulps import one_ulp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    Arrays = list[np.ndarray]
    Args = Sequence[torch.Tensor]

DRAWS = 8  # of weights moved by an ulp
_NO_KERNELS = (torch.bfloat16, torch.float64)  # of onnxruntime's, on the CPU


class GraphRunner:
    """A model file, run by onnxruntime, or by the float64 oracle where that has no kernels."""

    def __init__(self, path: Path, names: Sequence[str], args: Args) -> None:
        """names: of the graph's inputs. args: an example of them, for their types."""
        self.path, self.names = path, names
        odd = [a.dtype for a in args if a.dtype in _NO_KERNELS]
        self.in_double = bool(odd) or not runtime.available()
        self._session: Any = None
        self._oracle: oracle.Oracle | None = None
        if not self.in_double:
            self.label = f"onnxruntime CPU {'.'.join(runtime.version().split('.')[:2])}"
        else:
            why = f"onnxruntime has no {odd[0]} kernels" if odd else "onnxruntime is not installed"
            self.label = f"the float64 evaluator ({why})"

    def run(self, args: Args) -> Arrays:
        """Return the outputs. Raises what ``runtime`` or ``oracle`` raise."""
        if self.in_double:
            return self.exact(args)
        if self._session is None:
            self._session = runtime.session(self.path)
        return [np.asarray(v) for v in runtime.run(self._session, self._feeds(args)).values()]

    def exact(self, args: Args) -> Arrays:
        """Return the outputs of the graph in float64. Raises ``NoOracleError``."""
        if self._oracle is None:
            self._oracle = oracle.load(self.path)
        return [np.asarray(v) for v in oracle.run(self._oracle, self._feeds(args)).values()]

    def changed(self, args: Args, *, further: bool = False) -> Iterator[Arrays]:
        """Yield the outputs with weights and inputs moved by an ulp; none where they do not run.

        Also with every optimization of onnxruntime. That is rounding alone: what the graph
        computes wrongly stays equally wrong in all of them. further: of other copies, one by one.
        """
        if self.in_double:
            return
        feeds = self._feeds(args)
        with suppress(NormSurgeryError):
            if further:
                made = noise.further(self.path, feeds)
                yield from ([np.asarray(v) for v in outputs.values()] for outputs in made)
                return
            with noise.doubles(self.path, copies=DRAWS) as changed:
                for outputs in noise.runs(changed, feeds, repeats=DRAWS):
                    yield [np.asarray(v) for v in outputs.values()]

    def _feeds(self, args: Args) -> dict[str, np.ndarray]:
        return {name: to_numpy(a) for name, a in zip(self.names, args, strict=True)}


class ModuleRunner:
    """A module in evaluation mode, in its own precision and in double."""

    def __init__(self, module: nn.Module, args: Args) -> None:
        """``why_not_exact`` says why the module does not run in double; empty if it does."""
        self.module, self.double = module, in_double(module)
        for inner in self.double.modules():
            eps = getattr(inner, "eps", None)
            if isinstance(eps, float):
                setattr(inner, "eps", float(np.float32(eps)))  # noqa: B010  as ONNX has it
        self.why_not_exact = self._try(args)

    def _try(self, args: Args) -> str:
        try:
            outputs = self.exact(args)
        except Exception as error:  # noqa: BLE001  whatever the module raises
            return first_line(error)
        narrow = any(v.dtype.kind == "f" and v.dtype != np.float64 for v in outputs)
        return "it gives float32 all the same" if narrow else ""

    def run(self, args: Args) -> Arrays:
        """Return the outputs. Raises whatever the module raises."""
        return forward(self.module, args)

    def exact(self, args: Args) -> Arrays:
        """Return the outputs in float64, epsilons rounded to the float32 of an attribute."""
        return forward(self.double, [a.double() if a.is_floating_point() else a for a in args])

    def changed(self, args: Args, *, further: bool = False) -> Iterator[Arrays]:
        """Yield the outputs with the weights moved by an ulp. further: other draws, and more."""
        rng = np.random.default_rng([0, further])
        for _ in range(noise.FURTHER if further else DRAWS):
            other = copy.deepcopy(self.module)
            for parameter in other.parameters():
                values = one_ulp(to_numpy(parameter), rng).astype(np.float64)
                parameter.data.copy_(torch.from_numpy(values))
            yield forward(other, args)


def forward(module: nn.Module, args: Args) -> Arrays:
    """Return the tensors that ``module`` gives, as arrays; one that writes into its inputs may."""
    with torch.no_grad():
        return [to_numpy(value) for value in flat(module(*(a.clone() for a in args)))]


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


def to_numpy(value: torch.Tensor) -> np.ndarray:
    """Return a tensor's values; bfloat16 as the type of ``ml_dtypes``."""
    value = value.detach().cpu()
    if value.dtype is torch.bfloat16:
        bits: np.ndarray = value.view(torch.int16).numpy()
        return bits.view(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    array: np.ndarray = value.numpy()
    return array

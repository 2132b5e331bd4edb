"""Inputs that a module and a graph are compared on, and the verdict on one output.

The truth is a run in float64: the same weights, with arithmetic that errs nine orders of magnitude
below what is measured. What is judged may be ``BOUND`` times as far from it as rounding explains.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import TensorProto

from normsurgery.pytorch.running import to_numpy
from normsurgery.validation.budget import NoOracleError
from normsurgery.validation.compare import against_oracle
from normsurgery.validation.comparison import Comparison, Status
from normsurgery.validation.distances import distance, masks_differ, rms
from normsurgery.validation.inputs import generate
from normsurgery.validation.opinions import AGAIN
from normsurgery.validation.specs import InputSpec
from normsurgery.validation.ulps import one_ulp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from normsurgery.pytorch.running import Args, Arrays, GraphRunner, ModuleRunner
    from normsurgery.validation.opinions import Again, Kind, Opinion

BOUND = 2.0
_KINDS = ("normal", "uniform", "smooth")


@dataclass(frozen=True)
class Inputs:
    """One set of arguments for the module and, by position, feeds for the graph."""

    label: str
    args: tuple[torch.Tensor, ...]


def input_sets(
    args: Args, names: Sequence[str], dynamic: Mapping[str, Mapping[int, str]]
) -> Iterator[Inputs]:
    """Yield ``args`` themselves, then three sets of random inputs of the same types.

    names: of the graph's inputs, in the order of ``args``. dynamic: their free axes; every second
    random set has other sizes there.
    """
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


def against(
    reference: np.ndarray,
    candidate: np.ndarray,
    true: np.ndarray,
    opinions: Sequence[Opinion],
    again: Again | None = None,
) -> Comparison:
    """Judge one output by ``against_oracle``; a float64 run that cannot be had is a failure."""
    try:
        return against_oracle(
            reference, candidate, true, bound=BOUND, opinions=opinions, again=again
        )
    except NoOracleError as failure:
        return Comparison(Status.FAILED, note=f"the float64 run: {failure}")


def opinions(
    runner: ModuleRunner | GraphRunner,
    args: Args,
    index: int,
    reference: np.ndarray,
    origin: np.ndarray | None = None,
) -> list[Opinion]:
    """Return what a few changed copies say of output ``index``, and what many say.

    reference: what the runner gives. origin: what distances are measured from, if not that.
    """

    def ask(kind: Kind, enough: float, *, further: bool) -> float:
        largest = 0.0
        for outputs in runner.changed(args, further=further):
            output = outputs[index]
            if kind == "error":
                apart = distance(output, reference if origin is None else origin)
            else:
                apart = masks_differ(output, reference)
            largest = max(largest, apart)
            if largest >= enough:
                break
        return largest

    return [functools.partial(ask, further=further) for further in (False, True)]


def moved_again(
    run: Callable[[Args], Arrays], exact: Callable[[Args], Arrays], args: Args, index: int
) -> float:
    """Return how far output ``index`` of ``run`` is from ``exact`` on inputs an ulp away."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(AGAIN):
        near = [_moved(arg, rng) for arg in args]
        errors.append(distance(run(near)[index], exact(near)[index]))
    return rms(np.array(errors))


def _moved(arg: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    if not arg.is_floating_point():
        return arg
    return torch.from_numpy(one_ulp(to_numpy(arg), rng).astype(np.float64)).to(arg.dtype)


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

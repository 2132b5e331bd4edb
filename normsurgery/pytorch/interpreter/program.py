"""What runs at each forward: a flat list of steps over a list of values.

A value is an index into the list. Indices are given out once, when the graph is built; a step
drops the values that nothing after it reads, so that without gradients memory peaks where the
network's does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Function = Callable[..., Any]
Step = tuple[Function, tuple[int, ...], "int | tuple[int, ...]", tuple[int, ...], str]
"""Function, the values it takes, the value or values it makes, those to drop, the node's name."""

CONTEXT, NATIVE, ABSENT = 0, 1, 2
"""The first values: the module's context, that of shape arithmetic, and an input left out."""
FIRST = 3

Key = tuple[int, str]
"""A stored tensor: the ``id`` of the scope that holds it, and the name that readers see."""


@dataclass
class Context:
    """What steps need to know of the module that runs them.

    training: ``module.training``. frozen: names of BatchNormalization nodes whose statistics stay.
    dtypes: what each float type of the model is in this module now: ``module.double()`` makes all
    of them float64.
    """

    training: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtypes: dict[torch.dtype, torch.dtype] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)

    def real(self, dtype: torch.dtype) -> torch.dtype:
        """Return what ``dtype`` of the model is in this module."""
        return self.dtypes.get(dtype, dtype)


@dataclass
class Program:
    """The steps of one graph.

    size: of the list of values. inputs: where its inputs go, and outputs: where they come out.
    stored, captured, known: where stored tensors, values of the graph around, and CPU constants
    go. prelude: steps whose results stay from run to run. names: of values, by where they are.
    """

    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    stored: dict[Key, int] = field(default_factory=dict)
    captured: dict[str | Key, int] = field(default_factory=dict)
    known: dict[int, torch.Tensor] = field(default_factory=dict)
    prelude: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    size: int = FIRST
    random: str = ""

    def call(self, context: Context, native: Context, around: list[Any], inputs: list[Any]) -> Any:
        """Run a body: ``around`` are the captured values in order; return its outputs."""
        values: list[Any] = [None] * self.size
        values[CONTEXT], values[NATIVE] = context, native
        for i, tensor in self.known.items():
            values[i] = tensor
        for i, value in zip(self.captured.values(), around, strict=True):
            values[i] = value
        for i, value in zip(self.inputs, inputs, strict=True):
            values[i] = value
        run(self.steps, values)
        return [values[i] for i in self.outputs]


def run(steps: Sequence[Step], values: list[Any]) -> None:
    """Run all steps; they read and write ``values``.

    An exception of torch gets a note that names the node.
    """
    name = ""
    try:
        for function, reads, write, dead, name in steps:  # noqa: B007  for the note below
            made = function(*[values[i] for i in reads])
            if write.__class__ is int:
                values[write] = made
            else:
                for i, one in zip(write, made, strict=False):  # type: ignore[arg-type]
                    values[i] = one
            for i in dead:
                values[i] = None
    except Exception as failure:
        failure.add_note(f"while running {name}")
        raise


def with_drops(steps: Sequence[Step], kept: set[int]) -> list[Step]:
    """Return the steps, each with the values that nothing after it reads, unless in ``kept``."""
    seen: set[int] = set(kept)
    result: list[Step] = []
    for function, reads, write, _, name in reversed(steps):
        writes = (write,) if isinstance(write, int) else write
        last = tuple({i for i in (*reads, *writes) if i not in seen and i >= FIRST})
        seen.update(last)
        result.append((function, reads, write, last, name))
    return result[::-1]

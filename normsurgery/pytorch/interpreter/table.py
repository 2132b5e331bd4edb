"""The table of operators, and what its entries take and return.

An entry is one function, marked ``@operator`` with the operator types that it is for, in any
module of ``interpreter/operators``. It is registered by being there. It gets a ``Call`` (one node
with what is known of its inputs before anything runs) and returns what the node does at each run:
a plain function of all its inputs, or a ``Kernel``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normsurgery.pytorch.interpreter.call import Call
    from normsurgery.pytorch.interpreter.program import Function


@dataclass(frozen=True)
class Kernel:
    """What a node does at each run.

    reads: the input slots whose values the function takes, in this order; None for all.
    context: the function takes the module's ``Context`` first.
    several: it returns a tuple, one value for each of the node's outputs, and not one value.
    lists: slots of ``reads`` that it takes as Python numbers, from whatever device.
    random: its result is another one at each run.
    to_host: it reads a shape alone, and its result stays on the CPU.
    captured: values of the graphs around that bodies read, passed last.
    """

    function: Function
    reads: tuple[int, ...] | None = None
    context: bool = False
    several: bool = False
    lists: tuple[int, ...] = ()
    random: bool = False
    to_host: bool = False
    captured: tuple[Any, ...] = ()


Entry = Callable[["Call"], "Kernel | Function"]
_TABLE: dict[tuple[str, str], Entry] = {}


def operator(*op_types: str, domain: str = "") -> Callable[[Entry], Entry]:
    """Register a function for operators of these types."""

    def register(entry: Entry) -> Entry:
        for op_type in op_types:
            if (domain, op_type) in _TABLE:
                raise ValueError(f"two entries for {op_type}")
            _TABLE[domain, op_type] = entry
        return entry

    return register


def functions(table: dict[str, Any]) -> None:
    """Register operators that are one function of torch, whatever their inputs."""
    for op_type, function in table.items():
        operator(op_type)(_always(function))


def _always(function: Function) -> Entry:
    return lambda _: function


@cache
def load() -> dict[tuple[str, str], Entry]:
    """Import every module of ``operators`` and return the table, by domain and type."""
    package = importlib.import_module("normsurgery.pytorch.interpreter.operators")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return _TABLE

"""What the pages are about: the entries of the three tables, and the reasons for a refusal."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from normsurgery.folding import baking, branches, obstacles, quantized, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
FOLDING = ROOT / "normsurgery" / "folding"
BEYOND = {"beyond-branches": branches, "beyond-baking": baking, "beyond-quantized": quantized}


@dataclass(frozen=True)
class Entry:
    """A function of one of the tables: kind "source", "carrier", "sink" or "forward-sink"."""

    kind: str
    function: FunctionType
    table: dict[str, Any]
    op_types: tuple[str, ...]

    @property
    def page(self) -> str:
        """Name of its page."""
        return f"{self.kind}-{self.function.__name__}"


def entries() -> list[Entry]:
    """Return all registered entries, in the order of the tables."""
    tables = table.load()
    found = []
    for field in fields(tables):
        entry_of: dict[str, Any] = getattr(tables, field.name)
        kind = field.name.removesuffix("s").replace("_", "-")
        for function in sorted(set(entry_of.values()), key=lambda f: str(f.__name__)):
            op_types = sorted(op for op, f in entry_of.items() if f is function)
            found.append(Entry(kind, function, entry_of, tuple(op_types)))
    return found


def reasons() -> dict[str, Callable[..., obstacles.Obstacle]]:
    """Return the reasons by slug, in the order of their module."""
    found = inspect.getmembers(obstacles, inspect.isfunction)
    own = [f for name, f in found if f.__module__ == obstacles.__name__ and name[0] != "_"]
    own.sort(key=lambda f: f.__code__.co_firstlineno)
    return {f.__name__.replace("_", "-"): f for f in own}


def refusals(function: FunctionType) -> list[str]:
    """Return the slugs of the reasons that an entry can give, itself or by a helper of folding."""
    known, seen, waiting = reasons(), set(), [function]
    while waiting:
        f = waiting.pop()
        if f in seen:
            continue
        seen.add(f)
        for name in _names(f.__code__):
            value = f.__globals__.get(name) or getattr(obstacles, name, None)
            if inspect.isfunction(value) and value.__module__.startswith("normsurgery.folding"):
                waiting.append(value)
    return [slug for slug, f in known.items() if f in seen]


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names and attributes that a function and those inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def walkers(slug: str) -> list[Path]:
    """Return the modules next to the three folders that give a reason: the walk's own."""
    call = re.compile(rf"\bobstacles\.{slug.replace('-', '_')}\(")
    paths = sorted(FOLDING.glob("*.py"))
    return [path for path in paths if call.search(path.read_text(encoding="utf-8"))]

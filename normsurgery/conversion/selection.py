"""Which norms are converted: by name, by position, by number of channels."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from normsurgery import arguments
from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_POSITION = re.compile(r"(first|last)(?::(\d+))?")
_CHANNELS = re.compile(r"channels\s*(<=|>=|==|=|<|>)\s*(\d+)")
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "=": operator.eq, "==": operator.eq,
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """What a selection looks at: the node's name, its output, and its number of channels."""

    node: str
    output: str
    channels: int


@dataclass(frozen=True)
class Selection:
    """only: at least one of these must match, if there are any; skip: none of these may.

    Each is ``first``, ``last``, ``first:3`` (positions in the order of the graph), ``channels<16``
    (also <=, >, >=, =), or a pattern of the node's or its output's name (``*``, ``?``, ``[ab]``).
    """

    only: Sequence[str] = ()
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for what is no list of strings."""
        arguments.patterns({"only": self.only, "skip": self.skip})

    def skipped(self, candidates: Sequence[Candidate]) -> list[str]:
        """Return for each candidate why it is left out, or an empty string.

        Raises ``UsageError`` for an entry that matches nothing: it is a mistake.
        """
        kept = {entry: self._matches(entry, candidates) for entry in (*self.only, *self.skip)}
        for entry, found in kept.items():
            if candidates and not found:
                raise UsageError(f"{entry!r} matches none of the {len(candidates)} norms")
        reasons = []
        for position in range(len(candidates)):
            skip = next((entry for entry in self.skip if position in kept[entry]), None)
            if skip is not None:
                reasons.append(f"skipped by {skip!r}")
            elif self.only and not any(position in kept[entry] for entry in self.only):
                reasons.append("not among those to convert")
            else:
                reasons.append("")
        return reasons

    @staticmethod
    def _matches(entry: str, candidates: Sequence[Candidate]) -> set[int]:
        """Return the positions that one entry means."""
        count = len(candidates)
        position, channels = _POSITION.fullmatch(entry), _CHANNELS.fullmatch(entry)
        if position is not None:
            number = min(count, int(position[2] or 1))
            first = 0 if position[1] == "first" else count - number
            return set(range(first, first + number))
        if channels is not None:
            compare, limit = _COMPARE[channels[1]], int(channels[2])
            return {i for i, one in enumerate(candidates) if compare(one.channels, limit)}
        return {
            i
            for i, one in enumerate(candidates)
            if fnmatchcase(one.node, entry) or fnmatchcase(one.output, entry)
        }

"""Types of what a caller passed: a wrong one is named at once, and not met deep inside.

Each function takes arguments by name, and raises ``UsageError`` for the first that is not of its
kind. ``None`` is of no kind: ``given`` leaves it out where it may be passed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from normsurgery.errors import UsageError

Arguments = Mapping[str, Any]


def given(**arguments: Any) -> dict[str, Any]:
    """Return those that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def whole(arguments: Arguments, least: int | None = None) -> None:
    """Numbers without fraction, also NumPy's, and no flags; ``least`` or more."""
    _check(arguments, "is no whole number", lambda v: isinstance(v, Integral) and not _flag(v))
    for name, value in arguments.items():
        if least is not None and value < least:
            raise UsageError(f"{name} must be {least} or more, not {value}")


def real(arguments: Arguments) -> None:
    """Numbers, also NumPy's, and no flags."""
    _check(arguments, "is no number", lambda v: isinstance(v, Real) and not _flag(v))


def text(arguments: Arguments) -> None:
    """Strings."""
    _check(arguments, "is no string", lambda v: isinstance(v, str))


def patterns(arguments: Arguments, what: str = "patterns") -> None:
    """Lists, or the like, of strings, and no string, whose letters would be taken for them."""
    for name, value in arguments.items():
        several = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
        if not several or not all(isinstance(one, str) for one in value):
            raise UsageError(f"{name} is a list of {what}, not {_shown(value)}")


def mappings(arguments: Arguments) -> None:
    """Dictionaries and the like."""
    _check(arguments, "is no mapping", lambda v: isinstance(v, Mapping))


def functions(arguments: Arguments) -> None:
    """What can be called."""
    _check(arguments, "is no function", callable)


def is_path(value: Any) -> bool:
    """Whether ``value`` can be the path of a file."""
    return isinstance(value, (str, os.PathLike))


def _check(arguments: Arguments, what: str, fits: Callable[[Any], bool]) -> None:
    for name, value in arguments.items():
        if not fits(value):
            raise UsageError(f"{name} {what}: {_shown(value)}")


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _shown(value: Any) -> str:
    """Return a value as it was written, cut short."""
    found = repr(value)
    return found if len(found) <= 40 else f"{found[:39]}…"

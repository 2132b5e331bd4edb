"""What a child is about to do: for progress, and to say at what it died."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What the child is about to do.

    text: for people, such as ``running the candidate``. model: ``reference`` or ``candidate``,
    where one of them would be to blame for a crash. done, total: how far the whole is.
    """

    text: str
    model: str = ""
    done: int = 0
    total: int = 0

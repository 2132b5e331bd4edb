"""Functions in child processes that may crash, hang or explode without harm to this one."""

from __future__ import annotations

from normsurgery.isolation.calling import NO_CAP, Limits, call, free_memory
from normsurgery.isolation.steps import Step

__all__ = ["NO_CAP", "Limits", "Step", "call", "free_memory"]

"""How many groups the channels of a norm make."""

from __future__ import annotations

from dataclasses import dataclass

from normsurgery.errors import UsageError

PER_GROUP = 16  # channels of a group that ``auto`` tries
LEAST = 8  # channels of a group, unless asked for less


@dataclass(frozen=True)
class Grouping:
    """What was asked for: a number of groups, or of channels per group; one group if neither.

    least: a group never has fewer channels than this, if C allows. ``channels_per_group`` asks for
    its own number.
    """

    groups: int | None = None
    channels_per_group: int | None = None
    least: int = LEAST

    def __post_init__(self) -> None:
        """Raise ``UsageError`` where that makes no sense."""
        if self.groups is not None and self.channels_per_group is not None:
            raise UsageError("give a number of groups or of channels per group, not both")
        for name in ("groups", "channels_per_group", "least"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', ' ')} must be 1 or more, not {value}")

    def __str__(self) -> str:
        """Return what was asked for, in words."""
        if self.channels_per_group is not None:
            return f"{self.channels_per_group} channels per group"
        return "one group" if self.groups in {None, 1} else f"{self.groups} groups"

    def of(self, channels: int) -> tuple[int, str]:
        """Return the number of groups for C channels, and what had to give, if anything.

        The largest divisor of C that is no more than was asked for.
        """
        if self.channels_per_group is not None:
            found = largest_divisor(channels, max(1, channels // self.channels_per_group))
            exact = self.channels_per_group * found == channels
            asked = f"{self.channels_per_group} channels per group"
            return found, "" if exact else f"{asked} do not divide {channels}"
        wanted = self.groups or 1
        found = largest_divisor(channels, min(wanted, max(1, channels // self.least)))
        if found == wanted:
            return found, ""
        if largest_divisor(channels, wanted) != found:
            return found, f"{wanted} groups leave under {self.least} of {channels} channels each"
        return found, f"{wanted} groups do not divide {channels}"


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``most``."""
    return next(d for d in range(min(most, number), 0, -1) if number % d == 0)

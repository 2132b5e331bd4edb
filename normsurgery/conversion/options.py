"""The options of ``convert``: of which type, which of them exclude each other, what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from normsurgery import arguments
from normsurgery.conversion import layers
from normsurgery.conversion.grouping import PER_GROUP, Grouping
from normsurgery.conversion.layers import Layer
from normsurgery.conversion.start import DEFAULT, EPSILON, GAUGES
from normsurgery.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

# What a plan says of each norm, and what these options are where they are not given.
PLANNED: dict[str, Any] = {
    "to": None, "groups": None, "channels_per_group": None, "least": None, "gauge": "auto",
    "affine": "auto", "epsilon": EPSILON, "encoding": "auto", "only": (), "skip": (),
}  # fmt: skip


def check_types(options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for an option of a wrong type."""
    here = arguments.given(**options)
    groups = {"groups"} if not isinstance(here.get("groups"), str) else set()
    numbers = {"channels_per_group", "least", "samples", "threads", "max_constant_bytes"}
    numbers |= {"max_inlined_nodes", *groups}
    arguments.whole({name: here[name] for name in sorted(numbers & here.keys())})
    arguments.real({"epsilon": options["epsilon"]})
    texts = ("gauge", "affine", "encoding")
    arguments.text({**arguments.given(to=options["to"]), **{name: options[name] for name in texts}})
    arguments.patterns({"only": options["only"], "skip": options["skip"]})
    arguments.functions(arguments.given(progress=options["progress"]))


def refuse(to: str, **options: Any) -> None:
    """Raise ``UsageError`` for an option that means nothing to the target ``to``."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--to {to} has no use for {name.replace('_', ' ')}; leave it out")


def refuse_beside_plan(options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for an option that the plan decides for each norm."""
    for name, default in PLANNED.items():
        value = options[name]
        if value != default and not (default == () and not value):
            raise UsageError(
                f"the plan decides `{name}` of each norm: "
                f"leave out --{name.replace('_', '-')}, or the plan"
            )


def gauges(gauge: str) -> tuple[str, ...]:
    """Return the gauges to choose from, the default first."""
    return (DEFAULT, *(one for one in GAUGES if one != DEFAULT)) if gauge == "auto" else (gauge,)


def groupings(
    groups: int | str | None, channels_per_group: int | None, least: int | None
) -> tuple[Grouping, ...]:
    """Return the groupings to choose from, the default first."""
    given = {} if least is None else {"least": least}
    if groups == "auto":
        if channels_per_group is not None:
            raise UsageError("give a number of groups or of channels per group, not both")
        return Grouping(**given), Grouping(channels_per_group=PER_GROUP, **given)
    if isinstance(groups, str):
        raise UsageError(f"groups {groups!r} is no number, nor auto")
    return (Grouping(groups, channels_per_group, **given),)


def read_plan(plan: Sequence[Layer] | str | os.PathLike[str] | None) -> list[Layer] | None:
    """Return the entries of a plan, or of the file that it is in."""
    if plan is None:
        return None
    if arguments.is_path(plan):
        found = layers.read(plan)  # type: ignore[arg-type]
    else:
        entries = list(plan) if isinstance(plan, Iterable) else [plan]
        found = [layer.checked() for layer in entries if isinstance(layer, Layer)]
        if len(found) < len(entries):
            raise UsageError("plan is a file, or a list of normsurgery.conversion.Layer")
    back_again = next((layer.output for layer in found if layer.to == "batch"), None)
    if back_again is not None:
        raise UsageError(
            f"the plan's entry for `{back_again}` is a BatchNormalization: --to batch takes no plan"
        )
    return found

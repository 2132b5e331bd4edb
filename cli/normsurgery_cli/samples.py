"""The options by which a verb takes data: what the arrays are called, what the pixels become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from normsurgery.data import Data


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--array``, ``--mean``, ``--std``, ``--size`` and ``--limit`` to a command."""
    for option in reversed(
        (
            click.option(
                "--array",
                "arrays",
                multiple=True,
                metavar="INPUT=NAME",
                help="Which stored array is for an input, or for labels; may be repeated.",
            ),
            click.option("--mean", metavar="M[,M…]", help="Subtracted per channel, after /255."),
            click.option("--std", metavar="S[,S…]", help="Divided by per channel."),
            click.option("--size", metavar="HxW", help="Resize images of a folder to this."),
            click.option("--limit", type=click.IntRange(1), help="Use the first so many samples."),
        )
    ):
        command = option(command)
    return command


def read(
    model: Path,
    path: str,
    arrays: tuple[str, ...],
    mean: str | None,
    std: str | None,
    size: str | None,
    limit: int | None,
) -> Data:
    """Return the data at ``path`` for the inputs of ``model``, as the options say."""
    from normsurgery import data, io

    return data.read(
        path,
        data.inputs_of(io.load(model).proto),
        pixels=data.Pixels(_numbers("--mean", mean), _numbers("--std", std)),
        size=_size(size),
        names=dict(_pair(text) for text in arrays),
        limit=limit,
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, stored = text.rpartition("=")
    if not (name and equals and stored):
        raise click.UsageError(f"--array wants INPUT=NAME, not {text!r}.")
    return name, stored


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.UsageError(
            f"{option} wants numbers with commas between, not {text!r}."
        ) from None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides: list[Any] = text.lower().split("x")
    if len(sides) == 2 and all(side.isdecimal() and int(side) for side in sides):
        return int(sides[0]), int(sides[1])
    raise click.UsageError(f"--size wants HEIGHTxWIDTH, not {text!r}.")

"""How far a long run is: one line on standard error, and only where that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from normsurgery.isolation import Step


@contextlib.contextmanager
def steps(title: str) -> Iterator[Callable[[Step], None] | None]:
    """Yield what shows a step; None off a terminal. The line is gone afterwards."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[title]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", title=title, total=None)

        def show(step: Step) -> None:
            bar.update(task, description=escape(step.text))
            if step.total:
                bar.update(task, completed=step.done, total=step.total)

        yield show

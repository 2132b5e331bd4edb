"""A table for people: with colours and folded on a terminal, else plain."""

from __future__ import annotations

import sys

from normsurgery.errors import printable

Row = tuple[str, ...]
COLOURS = {
    "converted": "green",
    "folded": "green",
    "merged": "green",
    "kept": "yellow",
    "passed": "green",
    "FAILED": "red",
    "inconclusive": "yellow",
    "unfolded": "green",
    "recalibrated": "green",
    "left": "yellow",
    "ok": "green",
    "absent": "yellow",
}


def show(columns: Row, rows: list[Row], lines: list[str], *, to_stderr: bool = False) -> None:
    """Print a table and lines below it: with colours and folded on a terminal, else plain."""
    target = sys.stderr if to_stderr else sys.stdout
    rows = [tuple(printable(cell) for cell in row) for row in rows]
    if rows and target.isatty():
        _rich(columns, rows, to_stderr=to_stderr)
    elif rows:
        widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns) - 1)]
        for row in (columns, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            target.write("  ".join((*cells, row[-1])).rstrip() + "\n")
    target.writelines(printable(line) + "\n" for line in lines)
    target.flush()


def _rich(columns: Row, rows: list[Row], *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        colours = [COLOURS.get(cell, "default") for cell in row]
        table.add_row(*(f"[{c}]{escape(cell)}[/]" for c, cell in zip(colours, row, strict=True)))
    Console(stderr=to_stderr, highlight=False).print(table)

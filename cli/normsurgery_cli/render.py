"""Reports as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from normsurgery.errors import printable

if TYPE_CHECKING:
    from normsurgery.validation import Parity

    from normsurgery import FoldResult, Inspection
    from normsurgery.inspection import Range


def escape(text: str) -> str:
    """Return text out of a model as it is safe to print: no markup, no control characters."""
    return escape_markup(printable(text))


def to_json(value: dict[str, Any]) -> str:
    """Return JSON with the version of normsurgery; numbers that JSON lacks become null."""
    import normsurgery

    return json.dumps(_finite({"normsurgery": normsurgery.__version__, **value}), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


def fold_report(source: str, output: str | None, result: FoldResult, parity: Parity | str) -> None:
    """Print what was folded into what, what stays and why, and the two proofs."""
    report = result.report
    console = _console(to_stderr=output == "-")
    table = _table("normalization", "", "into, or the first obstacle")
    for one in report.folded:
        left = " (its shift stays as an Add)" if one.shift_left else ""
        table.add_row(escape(one.node), "[green]folded[/]", escape(", ".join(one.into) + left))
    for kept in report.kept:
        table.add_row(escape(kept.node), "[yellow]kept[/]", escape(kept.reason))
    if table.row_count:
        console.print(table)
    console.print(
        f"{escape(source)}: {report.before} BatchNormalization before, {report.after} after"
    )
    for slug, entries in groupby(sorted(k.slug for k in report.kept)):
        console.print(f"  {len(list(entries))} kept: {slug}")
    certificates = result.certificates() if output is not None else []
    if certificates:
        worst = max(c.max_ulp for c in certificates)
        count = sum(c.count for c in certificates)
        console.print(
            f"certificate: {count} coefficients within {worst:.3f} ulp of their float64 value"
        )
    line = f"parity: {parity}" if isinstance(parity, str) else parity.line()
    console.print(escape(line))
    console.print("nothing written (dry run)" if output is None else f"wrote {escape(output)}")


def inspection(source: str, found: Inspection) -> None:
    """Print every normalization with its statistics and what fold does with it."""
    console = _console()
    table = _table("normalization", "kind", "C", "scale", "mean", "var", "fold")
    for norm in found.norms:
        outcome = (
            f"[green]{escape(norm.detail)}[/]" if norm.outcome == "folds" else escape(norm.detail)
        )
        if norm.warning:
            outcome += f"; [yellow]{escape(norm.warning)}[/]"
        table.add_row(
            escape(norm.node),
            norm.op_type,
            "?" if norm.channels is None else str(norm.channels),
            *(_range(r) for r in (norm.scale, norm.mean, norm.var)),
            outcome,
        )
    if table.row_count:
        console.print(table)
    folds = sum(norm.outcome == "folds" for norm in found.norms)
    console.print(
        f"{escape(source)}: {found.nodes} nodes, opset {found.opset}, IR {found.ir_version}"
        + (f", made by {escape(found.producer)}" if found.producer else "")
        + f"; {len(found.norms)} normalizations, {folds} fold"
    )


def _console(*, to_stderr: bool = False) -> Console:
    console = Console(stderr=to_stderr, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a file or a pipe has no width: one row, one line
    return console


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _range(values: Range | None) -> str:
    return "" if values is None else f"{values.low:.3g} … {values.high:.3g}"

"""The report of ``convert`` as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery_cli import html
from normsurgery_cli.charts import Series, line_plot

if TYPE_CHECKING:
    from normsurgery import ConvertResult
    from normsurgery_cli.html import Markup


def page(source: str, output: str | None, result: ConvertResult) -> Markup:
    """Return what was converted, how far it drifted through the depth, and what it costs."""
    import normsurgery

    report = result.report
    done = f"{len(report.converted)} converted, {len(report.left)} kept"
    facts = [("model", source), ("output", output or "nothing written (dry run)")]
    if report.opset:
        facts.append(("operator set", report.opset))
    if report.note:
        facts.append(("note", report.note))
    parts = [html.badge("info", done), html.facts(facts), *_drift(result), *_cost(result)]
    parts += _choices(result)
    parts.append(html.section("Norms", _norms(result)))
    if report.left:
        rows = [(left.node, left.was, left.reason) for left in report.left]
        parts.append(html.section("Kept", html.table(("node", "operator", "why"), rows)))
    return html.page("convert", *parts, footer=f"normsurgery {normsurgery.__version__}")


def _drift(result: ConvertResult) -> list[Markup]:
    drift = result.report.drift
    if drift is None:
        return [html.paragraph("The drift was not measured: --data gives samples to do it on.")]
    errors = [layer.error for layer in drift.layers]
    plot = line_plot(
        "Drift through the depth",
        [Series("error / rms", errors)],
        labels=[layer.node for layer in drift.layers],
        x_label="converted norm, in the order of the graph",
        y_label="error / rms",
    )
    rows = [(output.value, output.error) for output in drift.outputs]
    outputs = html.table(("output", "error / rms"), rows)
    return [html.section("Drift", html.paragraph(drift.line()), plot, outputs)]


def _cost(result: ConvertResult) -> list[Markup]:
    if result.report.cost is None:
        return []
    rows = [
        (name, cost.milliseconds, cost.megabytes)
        for name, cost in zip(("before", "after"), result.report.cost, strict=True)
    ]
    return [html.section("Cost", html.table(("", "ms a run", "peak memory, MB"), rows))]


def _choices(result: ConvertResult) -> list[Markup]:
    rows = [
        (c.gauge, c.grouping, c.error, c.agreement, "chosen" if c.chosen else "")
        for c in result.report.choices
    ]
    columns = ("gauge", "groups", "error / rms", "agreement", "")
    return [html.section("Starting points that were tried", html.table(columns, rows))] * bool(rows)


def _norms(result: ConvertResult) -> Markup:
    drift = result.report.drift
    errors = {} if drift is None else {layer.value: layer.error for layer in drift.layers}
    rows = [
        (c.node, c.to, c.channels, c.groups, c.gauge, c.affine, c.k, c.epsilon,
         errors.get(c.output), c.note)
        for c in result.report.converted
    ]  # fmt: skip
    columns = ("node", "to", "channels", "groups", "gauge", "map in front", "k", "epsilon", "drift")
    return html.table((*columns, "note"), rows)

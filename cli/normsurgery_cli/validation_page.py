"""The report of ``normsurgery validate`` as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery_cli import charts, html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normsurgery import Validation
    from normsurgery.validation import Course, Coverage, LocalCertificate, Parity
    from normsurgery.validation.drift import Drift
    from normsurgery.validation.report import ProviderRun
    from normsurgery_cli.html import Markup

_TENSORS = 200  # rows of the certificate's table
_WORST = 10


def page(reference: str, candidate: str, found: Validation) -> Markup:
    """Return the page: verdicts first, then what they rest on."""
    import normsurgery

    parts: list[Markup] = [*_badges(found)]
    pairs = [("reference", reference), ("candidate", candidate)]
    if found.made_by:
        pairs.append(("made by", f"normsurgery {found.made_by}"))
    parts.append(html.facts(pairs))
    if found.drift is not None:
        parts.append(_drift(found.drift))
    for run in found.runs:
        parts.append(_verdict(run))
        if run.course is not None:
            parts.append(_course(run.course, failed=str(run.verdict.status) == "failed"))
    if found.runs:
        parts.append(_ratios(found.runs))
    if found.certificate is not None:
        parts.append(_certificate(found.certificate))
    if found.coverage is not None:
        parts.append(_coverage(found.coverage, found.runs))
    parts += [html.paragraph(reason) for reason in found.reasons]
    title = "normsurgery validate"
    return html.page(title, *parts, footer=f"normsurgery {normsurgery.__version__}")


def _badges(found: Validation) -> list[Markup]:
    if found.drift is not None:
        return [html.badge("info", found.drift.line())]
    badges = []
    for run in found.runs:
        badges.append(html.badge(str(run.verdict.status), run.verdict.line()))
        if run.verdict.placement is not None:
            kind = "passed" if run.verdict.placement.ok else "failed"
            badges.append(html.badge(kind, run.verdict.placement.line()))
    if found.certificate is not None:
        badges.append(html.badge(str(found.certificate.status), found.certificate.line()))
    if found.coverage is not None:
        kind = "inconclusive" if found.coverage.warnings() else "info"
        badges.append(html.badge(kind, found.coverage.line()))
    return badges


def _verdict(run: ProviderRun) -> Markup:
    ways = [run.verdict, *run.beside]
    columns = ["output", "", *(_way(one) for one in ways), "error", "flips", ""]
    rows = []
    for index, output in enumerate(run.verdict.outputs):
        worst = max(output.comparisons, key=lambda c: c.ratio or 0.0, default=None)
        ratios = [one.outputs[index].ratio if index < len(one.outputs) else None for one in ways]
        error = worst.error if worst else None
        flips = max((c.flips for c in output.comparisons), default=0)
        status = html.status(str(output.status))
        rows.append([output.name, status, *ratios, error, flips or None, output.note])
    sets = html.table(["input set", *(o.name for o in run.verdict.outputs)], _by_set(run.verdict))
    told = html.paragraph(
        f"The candidate's error over the reference's own, against {run.verdict.oracle}; up to "
        f"{html.number(run.verdict.bound)} passes. {run.verdict.reason}"
    )
    return html.section(
        f"Verdict on {run.provider}",
        told,
        html.table(columns, rows),
        html.tag("details", html.tag("summary", "Ratio by input set"), sets),
    )


def _way(parity: Parity) -> str:
    extra = parity.runtime.split(", ", 1)
    return f"ratio, {extra[1]}" if len(extra) > 1 else "ratio"


def _by_set(parity: Parity) -> list[list[str | float | None]]:
    rows: list[list[str | float | None]] = []
    for number, label in enumerate(parity.sets):
        cells = [
            o.comparisons[number].ratio if number < len(o.comparisons) else None
            for o in parity.outputs
        ]
        rows.append([label, *cells])
    return rows


def _ratios(runs: Sequence[ProviderRun]) -> Markup:
    figures = []
    for run in runs:
        ratios = [
            c.ratio for o in run.verdict.outputs for c in o.comparisons if c.ratio is not None
        ]
        if ratios:
            title = f"{run.provider}: ratios of all outputs and input sets"
            figures.append(charts.histogram(title, *charts.binned(ratios), x_label="ratio"))
    return html.section("Ratios", charts.grid(*figures)) if figures else html.join([])


def _course(course: Course, *, failed: bool) -> Markup:
    # shapes and constants, which are the same in both, would only break up the lines
    shown = [one for one in course.values if one.reference or one.candidate or one.ratio]
    labels = [one.name for one in shown]
    errors = [
        charts.Series("reference", [one.reference for one in shown]),
        charts.Series("candidate", [one.candidate for one in shown]),
    ]
    if all(value is None for value in errors[0].values):
        del errors[0]
    yardstick = "float64" if len(errors) > 1 else "the reference"
    ratios = [charts.Series("ratio", [one.ratio for one in shown])]
    title = f"Error of each value against {yardstick}, {course.runtime}"
    across = "value, in the order of the graph"
    figures = charts.grid(
        charts.line_plot(
            title, errors, labels=labels, x_label=across, y_label="rms error / rms", log=True
        ),
        charts.line_plot(
            "Candidate's error over the reference's",
            ratios,
            labels=labels,
            x_label=across,
            y_label="ratio",
            log=True,
            rules=[("bound", course.bound)],
        ),
    )
    parts: list[Markup] = [
        html.paragraph(f"On input set: {course.label}. {course.reason}"),
        figures,
    ]
    if failed and course.first is not None:  # an output that passed may be over the bound by luck
        parts[:0] = [html.badge("failed", course.lines()[0]), _before(course)]
    if course.stopped:
        parts.append(html.paragraph(course.stopped))
    rows = [
        [one.name, one.twin, one.reference, one.candidate, one.ratio, one.note]
        for one in course.worst(_WORST)
    ]
    columns = ["value", "made by", "reference's error", "candidate's error", "ratio", ""]
    parts.append(html.table(columns, rows, caption=f"The {len(rows)} largest ratios"))
    return html.section("Errors through depth", *parts)


def _before(course: Course) -> Markup:
    """Return a table of the first diverging value and its inputs."""
    first = course.first
    known = {one.name: one for one in course.values}
    if first is None:
        return html.join([])
    chosen = [*(known[name] for name in first.inputs if name in known), first]
    rows: list[list[str | float | None]] = []
    for one in chosen:
        role = "first to diverge" if one is first else "its input"
        rows.append([role, one.name, one.candidate, one.ratio])
    ours, theirs = course.growth(first)
    told = ""
    if ours is not None and theirs is not None:
        told = f"The error grows {theirs:.3g} times there; {ours:.3g} in the reference."
    table = html.table(["", "value", "candidate's error", "ratio"], rows)
    return html.join([table, html.paragraph(told)])


def _certificate(certificate: LocalCertificate) -> Markup:
    if not certificate.tensors:
        return html.section("Coefficients", html.paragraph(certificate.line()))
    parts = [html.paragraph(failure) for failure in certificate.failures[1:]]
    worst = [one.max_ulp for one in certificate.tensors]
    parts.append(
        charts.histogram(
            "Largest error of each tensor" if certificate.how == "fold" else "… of each layer",
            *charts.binned(worst),
            x_label="ulp from float64",
        )
    )
    rows: list[list[str | float | None]] = [
        [one.tensor, one.count, one.max_ulp, one.mean_ulp, one.place]
        for one in certificate.tensors[:_TENSORS]
    ]
    columns = ["tensor", "coefficients", "largest error, ulp", "mean, ulp", "worst"]
    more = html.tag("summary", f"{len(certificate.tensors)} tensors or layers")
    parts.append(html.tag("details", more, html.table(columns, rows)))
    return html.section("Coefficients", html.paragraph(certificate.line()), *parts)


def _coverage(coverage: Coverage, runs: Sequence[ProviderRun]) -> Markup:
    parts = [html.paragraph(coverage.line())]
    if len(coverage.shares) > 1:
        labels = runs[0].verdict.sets if runs else ()
        parts.append(
            charts.line_plot(
                "Share of channels excited, as input sets add up",
                [charts.Series("share", coverage.shares)],
                x=[float(i + 1) for i in range(len(coverage.shares))],
                labels=labels,
                x_label="input sets",
                y_label="share",
            )
        )
    bars = charts.bars((one.node, one.share) for one in coverage.activations)
    some = html.tag("summary", f"{len(coverage.activations)} activations")
    if coverage.activations:
        parts.append(html.tag("details", some, bars))
    parts += [html.paragraph(warning) for warning in coverage.warnings()]
    return html.section("Coverage", *parts)


def _drift(drift: Drift) -> Markup:
    rows = [[o.name, o.error, o.worst, o.top1, o.note] for o in drift.outputs]
    columns = ["output", "error / rms", "worst set", "top-1 agreement", ""]
    return html.section("Drift", html.table(columns, rows))

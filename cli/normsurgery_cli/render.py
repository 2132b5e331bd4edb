"""Reports as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from normsurgery_cli.tables import Row, show

if TYPE_CHECKING:
    from normsurgery import (
        ConvertResult,
        Diagnosis,
        FoldResult,
        Inspection,
        RecalibrateResult,
        UnfoldResult,
        Validation,
    )
    from normsurgery.inspection import Norm, Range
    from normsurgery.validation import Parity


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
    rows: list[Row] = []
    for one in report.folded:
        left = " (its shift stays as an Add)" if one.shift_left else ""
        rows.append((one.node, "folded", ", ".join(one.into) + left))
    rows += [(m.node, "merged", f"its branches into {m.into}") for m in report.merged]
    rows += [(k.node, "kept", k.reason) for k in report.kept]
    lines = [f"{source}: {report.before} BatchNormalization before, {report.after} after"]
    for slug, entries in groupby(sorted(k.slug for k in report.kept)):
        lines.append(f"  {len(list(entries))} kept: {slug}")
    if report.inlined:
        lines.append(f"inlined functions: {', '.join(report.inlined)}")
    if report.fixed:
        lines.append(f"fixed inputs: {', '.join(report.fixed)}")
    if report.restored:
        lines.append(f"{len(report.restored)} InstanceNormalization in place of their arithmetic")
    if report.baked:
        lines.append(f"{len(report.baked)} tensors are constants that were computed at every run")
    certificates = result.certificates() if output is not None else []
    if certificates:
        worst = max(c.max_ulp for c in certificates)
        count = sum(c.count for c in certificates)
        lines.append(f"certificate: {count} coefficients, {worst:.3f} ulp from float64 at most")
    lines.append(f"parity: {parity}" if isinstance(parity, str) else parity.line())
    lines.append("nothing written (dry run)" if output is None else f"wrote {output}")
    show(("node", "", "into, or the first obstacle"), rows, lines, to_stderr=output == "-")


def unfold_report(
    source: str, output: str | None, result: UnfoldResult, parity: Parity | str
) -> None:
    """Print which layers got a norm and with which statistics, which did not and why."""
    report = result.report
    rows: list[Row] = []
    for one in report.unfolded:
        low, high = one.deviation
        k = f"weights × {one.weight_factor:g}" if one.weight_factor != 1 else ""
        dead = f"{one.dead} hardly vary" if one.dead else ""
        what = ", ".join(filter(None, (f"deviation {low:.3g} … {high:.3g}", dead, k)))
        rows.append((one.node, str(one.channels), "unfolded", what))
    rows += [(one.node, "", "left", one.reason) for one in report.left]
    count = len(report.unfolded)
    lines = [f"{source}: {count} BatchNormalization put in, statistics of {report.samples} samples"]
    lines.append(f"parity: {parity}" if isinstance(parity, str) else parity.line())
    lines.append("nothing written (dry run)" if output is None else f"wrote {output}")
    show(("layer", "C", "", "of its output, or why not"), rows, lines, to_stderr=output == "-")


def recalibrate_report(source: str, output: str | None, result: RecalibrateResult) -> None:
    """Print how far the statistics of each norm moved, and which kept theirs and why."""
    report = result.report
    rows: list[Row] = []
    for one in report.recalibrated:
        low, high = one.ratio
        dead = f", {one.constant} do not vary" if one.constant else ""
        what = f"mean by {one.shift:.3g} σ at most, σ × {low:.3g} … {high:.3g}{dead}"
        rows.append((one.node, str(one.channels), "recalibrated", what))
    rows += [(one.node, "", "left", one.reason) for one in report.left]
    shared = f", shared among {report.processes}" if report.processes > 1 else ""
    passes = f"{report.passes} pass" + ("es" if report.passes != 1 else "")
    line = f"{source}: {len(report.recalibrated)} BatchNormalization, statistics of "
    line += f"{report.samples} samples, mode {report.mode}, {passes}{shared}"
    lines = [line, "nothing written (dry run)" if output is None else f"wrote {output}"]
    show(("normalization", "C", "", "moved, or why not"), rows, lines, to_stderr=output == "-")


def inspection(source: str, found: Inspection) -> None:
    """Print every normalization with its statistics and what fold and convert do with it."""
    rows = []
    for norm in found.norms:
        outcome = norm.detail + (f"; {norm.warning}" if norm.warning else "")
        ranges = (_range(r) for r in (norm.scale, norm.mean, norm.var))
        channels = "?" if norm.channels is None else str(norm.channels)
        mark = "folds" if norm.outcome == "folds" else "kept"
        convert = norm.convert_detail if norm.convert == "converts" else f"no: {norm.convert}"
        if norm.parts is not None:
            outcome += f"; {norm.parts.count} nodes from `{norm.parts.first}`"
        rows.append((norm.node, _kind(norm), channels, *ranges, convert, mark, outcome))
    folds = sum(norm.outcome == "folds" for norm in found.norms)
    converts = sum(norm.convert == "converts" for norm in found.norms)
    line = f"{source}: {found.nodes} nodes, opset {found.opset}, IR {found.ir_version}"
    line += f", made by {found.producer}" if found.producer else ""
    line += f"; {found.whole} normalizations"
    line += f" and {found.decomposed} taken apart" if found.decomposed else ""
    line += f", {folds} fold, {converts} convert"
    lines = [line]
    if found.inlined:
        lines.append(f"listed at their calls: functions {', '.join(found.inlined)}")
    columns = ("normalization", "kind", "C", "scale", "mean", "var", "convert", "", "fold")
    show(columns, rows, lines)


def _kind(norm: Norm) -> str:
    """Return the kind of a norm, with its groups, its axes and what is not constant of it."""
    text = norm.op_type
    if norm.num_groups is not None:
        text += f", {norm.num_groups} group{'' if norm.num_groups == 1 else 's'}"
    elif norm.axes is not None:
        text += f", axis {', '.join(map(str, norm.axes))}"
    both = {"scale": norm.scale_constant, "bias": norm.bias_constant}
    computed = [name for name, constant in both.items() if constant is False]
    return text + (f", {' and '.join(computed)} not constant" if computed else "")


def validation(reference: str, candidate: str, found: Validation) -> None:
    """Print every output on every provider, and a line per provider below."""
    lines = [f"{candidate} against {reference}", *found.lines()]
    if found.drift is not None:
        drifts: list[Row] = [
            (o.name, _number(o.error), _number(o.worst), _percent(o.top1), o.note)
            for o in found.drift.outputs
        ]
        show(("output", "error / rms", "worst set", "top-1 agreement", ""), drifts, lines)
        return
    rows: list[Row] = []
    for run in found.runs:
        for index, output in enumerate(run.verdict.outputs):
            status = {"failed": "FAILED"}.get(output.status, str(output.status))
            beside = (
                _number(one.outputs[index].ratio) if index < len(one.outputs) else ""
                for one in run.beside[:1]
            )
            row = (output.name, run.provider, status, _number(output.ratio), *beside)
            rows.append((*row, *[""] * (5 - len(row)), output.note))
    show(("output", "on", "", "ratio", "optimized", ""), rows, lines)


def diagnosis(found: Diagnosis) -> None:
    """Print what works and what does not, with what mends it, and versions below."""
    rows: list[Row] = [
        (one.name, "ok" if one.ok else "absent", one.text, one.mend) for one in found.findings
    ]
    packages = {**found.onnxruntime, **found.packages}
    there = [f"{name} {version}" for name, version in packages.items() if version]
    absent = [name for name, version in packages.items() if not version]
    system = found.system
    lines = [
        f"normsurgery {system['normsurgery']}, Python {system['python']}, {system['system']}, "
        f"{system['free_memory']} free",
        f"installed: {', '.join(there)}",
    ]
    if absent:
        lines.append(f"not installed: {', '.join(absent)}")
    if found.providers:
        lines.append(f"onnxruntime was built with {', '.join(found.providers)}")
    if found.nvidia.driver:
        lines.append(f"NVIDIA: driver {found.nvidia.driver}, {found.nvidia.devices} devices")
    show(("", "", "found", "mend it with"), rows, lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def lines(texts: list[str], *, to_stderr: bool = False) -> None:
    """Print lines alone."""
    show((), [], texts, to_stderr=to_stderr)


def _range(values: Range | None) -> str:
    return "" if values is None else f"{values.low:.3g} … {values.high:.3g}"


def convert_report(
    source: str,
    output: str | None,
    result: ConvertResult,
    parity: Parity | str | None = None,
    distilled: str | None = None,
) -> None:
    """Print each norm's new one and where its affine map went, and what stays and why.

    parity: of a conversion that changes nothing. distilled: what was learned, in a line.
    """
    report = result.report
    rows: list[Row] = []
    for one in report.converted:
        groups = (
            f"{one.groups} of {one.channels // one.groups}"
            if one.to not in {"affine", "batch"}
            else ""
        )
        where = {"fold": ", ".join(one.into), "keep": "a frozen BatchNormalization"}
        note = f"; {one.note}" if one.note else ""
        note += f"; bias `{one.unbiased}` removed, it had no effect" if one.unbiased else ""
        gauge = f"{one.gauge}, map in {where[one.affine]}" if one.affine in where else one.gauge
        gauge = "exact" if one.to == "affine" else gauge
        rows.append((one.node, "converted", one.to, groups, gauge + note))
    rows += [(left.node, "kept", left.was, "", left.reason) for left in report.left]
    lines = [f"{source}: {len(report.converted)} converted, {len(report.left)} kept"]
    if report.note:
        lines.append(report.note)
    if report.opset:
        lines.append(report.opset)
    if report.inlined:
        lines.append(f"inlined functions: {', '.join(report.inlined)}")
    lines += [
        f"tried: {c.gauge}, {c.grouping}: error {c.error:.3g}"
        + ("" if c.agreement is None else f", agreement {c.agreement:.1%}")
        + (" (chosen)" if c.chosen else "")
        for c in report.choices
    ]
    exact = all(one.to == "affine" for one in report.converted)
    if report.drift is not None:
        lines.append(report.drift.line())
    elif not exact:
        lines.append("drift: not measured (--data gives samples to do it on)")
    if distilled:
        lines.append(distilled)
    if report.cost is not None:
        before, after = report.cost
        memory = (
            ""
            if after.megabytes is None
            else f", {before.megabytes:.0f} → {after.megabytes:.0f} MB"
        )
        lines.append(f"cost: {before.milliseconds:.3g} → {after.milliseconds:.3g} ms a run{memory}")
    if parity is not None:
        lines.append(f"parity: {parity}" if isinstance(parity, str) else parity.line())
    lines.append("nothing written (dry run)" if output is None else f"wrote {output}")
    columns = ("node", "", "to", "groups", "start, or why it stays")
    show(columns, rows, lines, to_stderr=output == "-")

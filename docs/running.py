"""Run an example, and see whether it shows what it is there for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import onnx

import normsurgery
from normsurgery.folding import obstacles
from normsurgery.folding.obstacles import Obstacle

if TYPE_CHECKING:
    from collections.abc import Callable

    from entries import Entry
    from examples import Example

    from normsurgery.report import FoldReport


@dataclass(frozen=True)
class Run:
    """An example's model, what fold made of it, and what it said.

    forwards: which way the map went. sentence, slug: of a refusal, as the report has them.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    report: FoldReport
    forwards: bool = False
    sentence: str = ""
    slug: str = ""


class ExampleError(Exception):
    """An example does not show what it is there for."""


def parse(example: Example) -> onnx.ModelProto:
    """Return the example's model."""
    domains = f'"" : {example.opset}, "custom" : 1, "local" : 1'
    head = f"<ir_version: {10 if example.opset > 8 else 3}, opset_import: [{domains}]>\n"
    return onnx.parser.parse_model(head + example.text)


def fold(example: Example) -> Run:
    """Return the example folded."""
    before = parse(example)
    result = normsurgery.fold(before, **example.options)
    return Run(before, result.model, result.report)


def show_entry(entry: Entry, example: Example) -> Run:
    """Run an example in which ``entry`` takes or passes on a map that is folded in the end."""
    results: list[tuple[bool, Any]] = []

    def watched(*args: Any) -> Any:
        result = entry.function(*args)
        results.append((getattr(args[0], "forwards", False), result))
        return result

    with mock.patch.dict(entry.table, dict.fromkeys(entry.op_types, watched)):
        run = fold(example)
    worked = {forwards for forwards, result in results if _is_success(result)}
    left = run.report.kept and "BatchNormalization" not in entry.op_types
    if not run.report.folded or left or len(worked) != 1:
        raise ExampleError(f"{entry.page}: {worked or 'not used'}, {run.report}")
    return Run(run.before, run.after, run.report, worked.pop())


def show_beyond(page: str, example: Example) -> Run:
    """Run an example of what no table holds."""
    run = fold(example)
    done = run.report.folded or run.report.merged or run.report.baked
    if not done or run.report.kept:
        raise ExampleError(f"{page}: {run.report}")
    return run


def show_reason(slug: str, function: Callable[..., Obstacle], example: Example) -> Run:
    """Run an example in which one norm stays, for the reason ``slug`` backwards or forwards."""
    given: set[str] = set()

    def watched(*args: Any) -> Obstacle:
        obstacle = function(*args)
        given.add(obstacle.text)
        return obstacle

    with mock.patch.object(obstacles, function.__name__, watched):
        run = fold(example)
    kept = run.report.kept
    if len(kept) == 1:
        backwards, _, forwards = kept[0].reason.partition("; forwards, ")
        if (backwards in given and kept[0].slug == slug) or forwards in given:
            return Run(run.before, run.after, run.report, False, kept[0].reason, kept[0].slug)
    raise ExampleError(f"{slug}: {kept}")


def _is_success(result: Any) -> bool:
    return result is not None and not isinstance(result, Obstacle)

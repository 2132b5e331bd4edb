"""Lay out the pages."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from entries import ROOT, Entry, refusals, walkers
from examples import Example
from onnx_text import onnx_text
from running import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import ModuleType

Shown = list[tuple[Example, Run]]
SPEC = "https://onnx.ai/onnx/operators/onnx__"
FOLDERS = "normsurgery/folding"
WHAT = {
    "source": "Reads {ops} as an affine map per channel, `y = a·x + b`.",
    "carrier": "Moves a map across {ops}, {ways}.",
    "sink": "Absorbs a map on the output of {ops} into its constants.",
    "forward-sink": "Absorbs a map on the input of {ops} into its constants.",
}
NAMES = {"source": "Source", "carrier": "Carrier", "sink": "Sink", "forward-sink": "Forward sink"}
FORWARDS = (
    "The slug is that of the way backwards, {other}; `{slug}` is what stopped the map forwards."
)
NO_REASON = dict.fromkeys(NAMES, "There is nothing that it refuses.") | {
    "source": "A node that fails these conditions is no source; no reason is given."
}
WAYS = {False: "backwards", True: "forwards"}


def entry_page(entry: Entry, shown: Shown) -> str:
    """Return the page of a source, carrier or sink."""
    ops = listed([f"[`{op}`]({SPEC}{op}.html)" for op in entry.op_types])
    ways = listed([way for forwards, way in WAYS.items() if forwards in directions(shown)])
    algebra, spec = docstring(entry.function)
    refused = listed([reason_link(slug) for slug in refusals(entry.function)])
    parts = [
        f"# {NAMES[entry.kind]}: {entry.function.__name__}",
        "## What it is",
        WHAT[entry.kind].format(ops=ops, ways=ways),
        "## Algebra and conditions",
        algebra,
        f"Reasons it checks for: {refused}." if refused else NO_REASON[entry.kind],
        *_examples(shown, arrows=entry.kind == "carrier"),
        "## Source",
        " ".join([_source_link(entry.function), spec]),
    ]
    return _page(parts)


def reason_page(
    slug: str, function: Callable[..., Any], example: Example, run: Run, givers: Iterable[Entry]
) -> str:
    """Return the page of a reason."""
    where = [f"[{NAMES[e.kind].lower()} {e.function.__name__}]({e.page}.md)" for e in givers]
    where += [_file_link(path) for path in walkers(slug)]
    title, spec = docstring(function)
    parts = [
        f"# Why: {slug}",
        "## What it is",
        title,
        f"Checked for by {listed(where)}.",
        "## Example",
        _note(example),
        _code(run.before),
        "The report says:",
        f"> {run.sentence}",
        "" if run.slug == slug else FORWARDS.format(slug=slug, other=reason_link(run.slug)),
        "## Source",
        " ".join([_source_link(function), spec]),
    ]
    return _page(parts)


def module_page(module: ModuleType, shown: Shown) -> str:
    """Return the page of a part of fold that no table holds."""
    algebra, spec = docstring(module)
    title, _, rest = algebra.partition("\n\n")
    parts = [
        f"# Beyond the tables: {module.__name__.rpartition('.')[2]}",
        "## What it is",
        title,
        "## Algebra and conditions",
        rest,
        *_examples(shown),
        "## Source",
        " ".join([_source_link(module), spec]),
    ]
    return _page(parts)


def docstring(thing: Any) -> tuple[str, str]:
    """Return the docstring as Markdown, and apart from it the source that it names at its end."""
    text = (inspect.getdoc(thing) or "").replace("``", "`")
    algebra, _, spec = text.partition("Source: ")
    return algebra.strip(), " ".join(spec.split())


def first_line(thing: Any) -> str:
    """Return the first sentence or line of the docstring."""
    return docstring(thing)[0].splitlines()[0]


def directions(shown: Shown) -> set[bool]:
    """Return which ways the maps of the examples go; True is forwards."""
    return {run.forwards for _, run in shown}


def listed(words: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def reason_link(slug: str) -> str:
    """Return a link to a reason's page."""
    return f"[{slug}](why-{slug}.md)"


def _examples(shown: Shown, *, arrows: bool = False) -> list[str]:
    parts = ["## Example" if len(shown) == 1 else "## Examples"]
    for example, run in shown:
        if arrows:
            parts.append(f"### {WAYS[run.forwards].capitalize()}")
        parts += [_note(example), "Before:", _code(run.before), "After:", _code(run.after)]
    return parts


def _note(example: Example) -> str:
    return example.note + ("" if example.opset == 21 else f" Opset {example.opset}.")


def _code(model: Any) -> str:
    return f"```\n{onnx_text(model)}\n```"


def _source_link(thing: Any) -> str:
    function = inspect.isfunction(thing)
    module = thing.__module__ if function else thing.__name__
    link = _file_link(ROOT / f"{module.replace('.', '/')}.py")  # of the repository, not installed
    return f"`{thing.__name__}` in {link}." if function else f"{link}."


def _file_link(path: Path) -> str:
    inside = path.relative_to(ROOT).as_posix()
    return f"[{inside.removeprefix(FOLDERS + '/')}](../../{inside})"


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"

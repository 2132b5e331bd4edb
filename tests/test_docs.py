"""The pages of docs/fold are what the code says now, and their examples do what they say."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import assert_same, feeds
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

sys.path.insert(0, str(DOCS))  # where `python docs/make.py` imports from
try:
    make, entries, examples, running = (
        importlib.import_module(name) for name in ("make", "entries", "examples", "running")
    )
finally:
    sys.path.remove(str(DOCS))

EXAMPLES: dict[str, Any] = examples.EXAMPLES
ENTRIES = {entry.page: entry for entry in entries.entries()}
REASONS = {f"why-{slug}": slug for slug in entries.reasons()}
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def folded() -> list[Any]:
    """Return (page, example) of every example that folds."""
    return [
        pytest.param(page, example, id=f"{page}-{i}")
        for page, shown in EXAMPLES.items()
        if page not in REASONS
        for i, example in enumerate(shown)
    ]


def show(page: str, example: Any) -> Any:
    """Run an example as the pages do, which checks that it shows what it is there for."""
    if page in REASONS:
        slug = REASONS[page]
        return running.show_reason(slug, entries.reasons()[slug], example)
    if page in ENTRIES:
        return running.show_entry(ENTRIES[page], example)
    return running.show_beyond(page, example)


def test_pages_are_up_to_date() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in make.OUT.iterdir()}
    made = make.pages()
    stale = sorted(n for n in written.keys() | made.keys() if written.get(n) != made.get(n))
    assert not stale, "run python docs/make.py"


def test_everything_has_examples_and_nothing_else() -> None:
    assert EXAMPLES.keys() == {*ENTRIES, *REASONS, *entries.BEYOND}
    assert all(EXAMPLES.values())
    assert all(len(EXAMPLES[page]) == 1 for page in REASONS)


@pytest.mark.parametrize(("page", "example"), folded())
def test_example_folds(page: str, example: Any) -> None:
    run = show(page, example)
    onnx.checker.check_model(run.before)
    onnx.checker.check_model(run.after)
    if "double" in example.text:
        assert_same(run.before, run.after)
    else:  # quantized models have no double form; the numbers are exact in float32 too
        inputs = feeds(run.before)
        before, after = (ReferenceEvaluator(m).run(None, inputs) for m in (run.before, run.after))
        for x, y in zip(before, after, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("page", REASONS)
def test_example_stays(page: str) -> None:
    run = show(page, EXAMPLES[page][0])
    del run.after.metadata_props[:]
    assert run.after == run.before
    assert run.sentence in (make.OUT / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "shown_by"),
    [
        ("carrier-identity", "sink-conv"),  # folds, but crosses no Identity
        ("sink-conv", "why-not-linear"),  # does not fold
        ("why-fan-out", "why-not-linear"),  # stays for another reason
        ("why-not-linear", "sink-conv"),  # does not stay
        ("beyond-branches", "why-not-linear"),
    ],
)
def test_an_example_of_something_else_is_an_error(page: str, shown_by: str) -> None:
    with pytest.raises(running.ExampleError, match=page.removeprefix("why-")):
        show(page, EXAMPLES[shown_by][0])


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        place = path.parent / target if target else path
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link

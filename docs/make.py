"""Write docs/fold: a page for each entry of the fold calculus and for each reason to refuse.

Names, texts and links come from the registered functions and their docstrings, graphs from
folding the examples of ``examples.py``. Run as ``python docs/make.py``.
"""

from __future__ import annotations

from pathlib import Path

from entries import BEYOND, Entry, entries, reasons, refusals
from examples import EXAMPLES
from pages import directions, entry_page, first_line, module_page, reason_link, reason_page
from running import show_beyond, show_entry, show_reason

OUT = Path(__file__).parent / "fold"
ARROWS = {False: "←", True: "→"}
INTRO = """# The fold calculus

A **source** is an affine map per channel, `y = a·x + b`. It walks backwards (←) to what makes its
input, or forwards (→) to what reads its output, across **carriers**, until **sinks** have absorbed
all of it; a forward sink absorbs it on its input. What cannot go on is refused with a **reason**.
[plan.py](../../normsurgery/folding/plan.py) finds the path: all of it or nothing.

Each entry and each reason has a page: what it is, its algebra and conditions, an example that was
folded to write it, and where it lives. In the examples a BN has `epsilon = 0`, so that its
coefficients can be checked by hand.

These pages are generated from the registered functions by `python docs/make.py`."""


def main() -> None:
    """Write the pages; remove those of what is gone."""
    OUT.mkdir(exist_ok=True)
    written = pages()
    for path in OUT.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (OUT / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of every page by file name; ``ExampleError`` if an example does not show."""
    found, marks = {}, {}
    every = entries()
    for entry in every:
        shown = [(example, show_entry(entry, example)) for example in EXAMPLES[entry.page]]
        marks[entry.page] = "".join(a for way, a in ARROWS.items() if way in directions(shown))
        found[entry.page] = entry_page(entry, shown)
    for slug, function in reasons().items():
        example = EXAMPLES[f"why-{slug}"][0]
        run = show_reason(slug, function, example)
        givers = [entry for entry in every if slug in refusals(entry.function)]
        found[f"why-{slug}"] = reason_page(slug, function, example, run, givers)
    for name, module in BEYOND.items():
        shown = [(example, show_beyond(name, example)) for example in EXAMPLES[name]]
        found[name] = module_page(module, shown)
    found["README"] = index(every, marks)
    return {f"{name}.md": text for name, text in found.items()}


def index(every: list[Entry], marks: dict[str, str]) -> str:
    """Return the page with the table of all entries, and that of all reasons."""
    kinds = {"source": "Source", "carrier": "Carrier", "sink": "Sink ←", "forward-sink": "Sink →"}
    lines = [INTRO, "", "## Sources, carriers and sinks", ""]
    lines += [f"| Operator | {' | '.join(kinds.values())} |", "| --- " * (len(kinds) + 1) + "|"]
    for op in sorted({op for entry in every for op in entry.op_types}, key=str.lower):
        cells = []
        for kind in kinds:
            here = [e for e in every if e.kind == kind and op in e.op_types]
            links = [f"[{e.function.__name__}]({e.page}.md)" for e in here]
            links += [marks[e.page] for e in here if kind == "carrier"]
            cells.append(" ".join(links))
        lines.append(f"| {' | '.join([f'`{op}`', *cells])} |")
    lines += ["", "## Reasons for a refusal", "", "| Reason | |", "| --- | --- |"]
    lines += [f"| {reason_link(s)} | {_cell(first_line(f))} |" for s, f in reasons().items()]
    lines += ["", "## Beyond the tables", "", "| | |", "| --- | --- |"]
    for name, module in BEYOND.items():
        lines.append(f"| [{name.removeprefix('beyond-')}]({name}.md) | {first_line(module)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()

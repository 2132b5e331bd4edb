"""Reports as one self-contained HTML page: no script, nothing fetched, light and dark, any width.

Every function returns :class:`Markup`. A plain ``str`` that goes into one is text: it is escaped,
control characters and all, so names out of a model can do nothing to the page. Plots are in
``charts``.

::

    page("validate", badge("passed", "parity: ok"), section("Outputs", table(columns, rows)))
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from normsurgery.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Markup(str):
    """HTML that is safe as it stands, made by a function of this package."""

    __slots__ = ()


MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?", "info": "i"}
"""The kinds of verdict, each with the sign that tells it without its colour."""

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2025; --faint: #5c636e;
  --line: #d9dce1; --panel: #f5f6f8; --good: #116b37; --bad: #b3211c; --open: #7a5200;
  --note: #1f5fa8; --s0: #0b62a4; --s1: #b84a00; --s2: #00795a; --s3: #9a3d83; --s4: #6b5b00;
  --s5: #3f6f8f; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15171a; --ink: #e6e8eb; --faint: #9aa2ad; --line: #353a42; --panel: #1e2126;
  --good: #5fd08d; --bad: #ff8a80; --open: #f0c060; --note: #86b9f5; --s0: #6cb4f0; --s1: #ff9d57;
  --s2: #4fd0a5; --s3: #e394d0; --s4: #d9c65a; --s5: #9fc6dd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; } .faint, footer, caption, figcaption { color: var(--faint); }
footer { margin-top: 2.5rem; font-size: .875rem; }
.badge { display: inline-block; padding: .3rem .7rem; border: 2px solid; border-radius: .5rem;
  font-weight: 600; margin: .25rem .5rem .25rem 0; }
td span { white-space: nowrap; }
.passed { color: var(--good); } .failed { color: var(--bad); } .inconclusive { color: var(--open); }
.info { color: var(--note); }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0;
  border-bottom: 1px solid var(--line); min-width: 3rem; overflow-wrap: break-word;
  max-width: 26rem; }
th { color: var(--faint); font-weight: 600; } .number { text-align: right; white-space: nowrap; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 24rem), 1fr)); align-items: start; }
figure { margin: .75rem 0; padding: .75rem; background: var(--panel); border-radius: .5rem;
  min-width: 0; max-width: 31rem; }
.charts > figure { margin: 0; }
figcaption { font-size: .875rem; margin-bottom: .25rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 12.5px; font-family: system-ui, sans-serif; }
.grid { stroke: var(--line); stroke-width: 1; } .rule { stroke: var(--faint);
  stroke-dasharray: 2 3; } .stroke { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0;
  margin: .25rem 0 0; font-size: .875rem; } ul.legend svg { display: inline-block; width: 2rem;
  height: .75rem; vertical-align: middle; margin-right: .35rem; }
details { font-size: .875rem; margin-top: .5rem; } summary { cursor: pointer; padding: .25rem 0; }
.bar { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr 4.5rem; gap: .5rem;
  align-items: center; font-size: .875rem; padding: .2rem 0; }
.bar > i { height: .8rem; background: var(--line); border-radius: .25rem; overflow: hidden; }
.bar > i > b { display: block; height: 100%; background: var(--s0); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem; margin: .5rem 0; }
dt { color: var(--faint); } dd { margin: 0; }
:focus-visible { outline: 2px solid var(--note); outline-offset: 2px; }
@media print { details { display: none; } .scroll { overflow: visible; } }
"""

# The page may use its own style and nothing else, whatever slipped into it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def text(content: str) -> Markup:
    """Return ``content`` escaped, unless it is Markup already."""
    if isinstance(content, Markup):
        return content
    return Markup(html.escape(printable(content)))


def join(parts: Iterable[str]) -> Markup:
    """Return the parts one after the other."""
    return Markup("\n".join(text(part) for part in parts))


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """Return an element; an attribute ``class_`` loses its underscore, ``a_b`` becomes ``a-b``."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{pairs}>{''.join(text(part) for part in content)}</{name}>")


def page(title: str, *content: str, footer: str = "") -> Markup:
    """Return the whole document."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body><main>"
    )
    body = join([tag("h1", title), *content])
    foot = tag("footer", footer) if footer else ""
    return Markup(f"{head}\n{body}\n</main>{foot}</body></html>\n")


def save(page: str, path: str) -> None:
    """Write a page, whole or not at all. Raises ``ModelIOError``."""
    from pathlib import Path

    from normsurgery import atomic
    from normsurgery.errors import ModelIOError

    try:
        with atomic.temporary(Path(path)) as (name, target):
            target.write(page.encode())
            target.flush()
            atomic.commit(target, name, Path(path))
    except OSError as error:
        raise ModelIOError(f"cannot write {path}: {error.strerror or error}") from error


def section(heading: str, *content: str) -> Markup:
    """Return a part of the page under its own heading."""
    return tag("section", tag("h2", heading), join(content))


def paragraph(*content: str) -> Markup:
    """Return a paragraph."""
    return tag("p", *content)


def badge(kind: str, verdict: str) -> Markup:
    """Return a verdict: ``kind`` is one of `MARKS`, told by a sign and by colour."""
    sign = tag("span", MARKS[kind], aria_hidden="true")
    return tag("p", sign, " ", verdict, class_=f"badge {kind}", role="status")


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return names with what they stand for, one a line."""
    return tag("dl", *(Markup(tag("dt", name) + tag("dd", value)) for name, value in pairs))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | float | None]],
    *,
    caption: str = "",
) -> Markup:
    """Return a table that scrolls sideways where the screen is narrow.

    Cells are text, Markup, or numbers: these are aligned to the right and shown with three
    significant digits. None is an empty cell.
    """
    cells = [list(row) for row in rows]
    numeric = {i for row in cells for i, value in enumerate(row) if _is_number(value)}
    sides = [{"class_": "number"} if i in numeric else {} for i in range(len(columns))]
    heads = zip(columns, sides, strict=True)
    head = tag("tr", *(tag("th", column, scope="col", **side) for column, side in heads))
    body = join(tag("tr", *(_cell(value) for value in row)) for row in cells)
    title = tag("caption", caption) if caption else ""
    whole = tag("table", title, tag("thead", head), tag("tbody", body))
    name = caption or ", ".join(column for column in columns if column)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=name)


def number(value: float) -> str:
    """Return a number for people: three significant digits, integers whole."""
    if isinstance(value, int) or (abs(value) < 1e6 and value == int(value)):
        return f"{int(value)}"
    return f"{value:.3g}"


def status(kind: str, words: str = "") -> Markup:
    """Return a verdict small enough for the cell of a table."""
    return tag("span", f"{MARKS[kind]} {words or kind}", class_=kind)


def _is_number(value: str | float | None) -> bool:
    return value is not None and not isinstance(value, str)


def _cell(value: str | float | None) -> Markup:
    if value is None:
        return tag("td")
    if isinstance(value, str):
        return tag("td", value)
    return tag("td", number(value), class_="number")

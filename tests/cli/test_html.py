"""HTML reports: nothing from outside, names that cannot break out, plots that take any number."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from normsurgery_cli import charts, html

HOSTILE = "\"><script>alert(1)</script>\x1b[31m\u202e&' onload=x"
VOID = {"meta"}


class Reader(HTMLParser):
    """Collects tags and attributes, and checks that every tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def everything(name: str) -> str:
    series = [charts.Series(name, [1e-7, None, 3e-5]), charts.Series("b", [0.0, 1.0, math.inf])]
    return html.page(
        name,
        html.badge("failed", name),
        html.facts([(name, name)]),
        html.section(name, html.paragraph(name), html.table([name, "n"], [[name, 1.5], [name, 2]])),
        charts.grid(
            charts.line_plot(name, series, labels=[name] * 3, log=True, rules=[(name, 2.0)]),
            charts.histogram(name, [0, 1, 2], [3, 4], x_label=name),
        ),
        charts.bars([(name, 0.4)]),
        footer=name,
    )


def test_names_are_escaped_wherever_they_stand() -> None:
    page = everything(HOSTILE)
    found = Reader(page)
    assert "script" not in found.tags
    assert not [key for key, _ in found.attributes if key.startswith("on")]
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_page_fetches_nothing() -> None:
    page = everything("x")
    assert not re.search(r"https?:|url\(|@import|<link|<img|\ssrc=", page)
    assert "default-src 'none'" in page


def test_it_is_made_for_phones_dark_mode_and_screen_readers() -> None:
    page = everything("x")
    found = Reader(page)
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count('role="img"') == 2
    assert len(re.findall(r'<svg[^>]*aria-label="x\. ', page)) == 2
    assert found.tags.count("th") == page.count('scope="col"')
    assert found.tags.count("details") == 2  # each plot's numbers as a table


def test_the_ground_and_the_words_keep_their_contrast() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, on the page and on the panels of plots."""
    style = everything("x").split("<style>")[1].split("</style>")[0]
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in style.split("@media")[:2])
    for theme in (light, {**light, **dark}):
        for ground in ("ground", "panel"):
            for name in ("ink", "faint", "good", "bad", "open", "note"):
                assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
        for i in range(6):
            assert contrast(theme[f"s{i}"], theme["panel"]) >= 3


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


EXTREMES: list[list[float | None]] = [
    [],
    [None],
    [math.nan],
    [math.inf, -math.inf],
    [0.0],
    [5.0, 5.0],
    [1e308, -1e308],
    [1e-320],
    [1e9, 1e9 + 1],
    [-3, 2],
]


@pytest.mark.parametrize("values", EXTREMES, ids=str)
@pytest.mark.parametrize("log", [False, True])
def test_a_plot_takes_any_numbers(values: list[float | None], log: bool) -> None:
    plot = charts.line_plot("t", [charts.Series("a", values)], log=log)
    Reader(plot)
    for path in re.findall(r' d="([^"]*)"', plot):
        for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", path):
            assert 0 <= float(x) <= charts.WIDTH
            assert 0 <= float(y) <= charts.HEIGHT
    Reader(charts.histogram("h", *charts.binned(v for v in values if v is not None)))


def heights(plot: str) -> list[float]:
    return [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', plot)]


def test_a_logarithmic_axis_is_one_and_zero_is_at_its_bottom() -> None:
    values = [1e-1, 1e-2, 1e-3, 0.0]
    one, two, three, zero = heights(charts.line_plot("t", [charts.Series("a", values)], log=True))
    assert two - one == pytest.approx(three - two, abs=0.11)
    assert one < two < three < zero
    assert zero == pytest.approx(charts.HEIGHT - charts._BOTTOM)


def test_gaps_break_the_line() -> None:
    plot = charts.line_plot("t", [charts.Series("a", [1.0, None, 2.0, 3.0])])
    assert re.search(r' d="M[^ML]*M[^ML]*L[^ML]*"', plot)


def test_bins_hold_every_finite_value() -> None:
    edges, counts = charts.binned([0.0, 1.0, 1.0, 2.0, math.nan, math.inf], 2)
    assert edges == [0.0, 1.0, 2.0]
    assert counts == [1.0, 3.0]

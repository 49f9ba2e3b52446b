"""From a Vega-Lite specification to SVG that is part of a page.

A report holds finished SVG and no chart library: it stays small (Vega's own JavaScript is 0.9 MB), opens at
once, prints, and shows its charts where scripts are off. The fixed colours of a specification become CSS
variables here, which follow light and dark mode; a few lines of script add tooltips.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import vl_convert
from markupsafe import Markup

from rubrica.core.run import write_atomic

Spec = dict[str, object]

THEME = {
    "ink": "#1d2433",
    "page": "#fbfbf9",
    "muted": "#646c7b",
    "grid": "#e4e7ec",
    "s0": "#1b6ca9",
    "s1": "#c9741b",
    "s2": "#2b8f78",
    "s3": "#8a5aa8",
    "s4": "#b8433a",
    "s5": "#5aa7d6",
    "before": "#9aa2af",
    "up": "#1c6ca8",
    "down": "#c9751c",
    "sum": "#4b5464",
    "heat": "#b7423a",
}
"""Names of CSS variables and their light values. The s-colours stay apart for colour-blind readers, and lines
differ in their dashes as well. Values are distinct, because a value is what a variable is found by."""

FONT = "Helvetica, Arial, Liberation Sans, sans-serif"
"""One set of letter widths on every machine, so that labels which do not overlap here overlap nowhere."""
WIDE, HALF, NARROW, LADDER = 928, 446, 340, 296
"""Widths in pixels: alone on a desktop, beside another, on a telephone, of a waterfall."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart with what it says and how to read it."""

    title: str
    svg: Markup
    note: str = ""
    half: bool = False


def sparkline(values: Sequence[float], low: float, high: float) -> Markup:
    """A line without axes over [low, high], for a row of a table; a dot where there is one value."""
    span = (high - low) or 1.0
    last = max(1, len(values) - 1)
    points = [f"{100 * i / last:.1f},{22 - 20 * (v - low) / span:.1f}" for i, v in enumerate(values)]
    kind = "line"
    if len(points) == 1:
        points, kind = points * 2, "dot"  # a line of no length, of which round ends make a dot
    return Markup(
        '<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">'
        '<polyline class="{}" points="{}" vector-effect="non-scaling-stroke"/></svg>'
    ).format(kind, " ".join(points))


def inline_svg(spec: Spec, title: str) -> Markup:
    """Render a specification and make it part of a page: CSS colours and fonts, no fixed size, no clutter."""
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    head, _, rest = svg.partition(">")
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', head)
    assert size is not None
    for name, colour in THEME.items():
        for attribute in ("fill", "stroke"):
            rest = rest.replace(f'{attribute}="{colour}"', f'{attribute}="var(--{name})"')
    rest = re.sub(r'<path class="(?:background|foreground)"[^>]*/>', "", rest)
    rest = rest.replace(f' font-family="{FONT}"', "").replace(' pointer-events="none"', "")
    rest = re.sub(r' aria-roledescription="(?!tip)[^"]*"', "", rest)
    return Markup('<svg viewBox="0 0 {} {}" style="max-width:{}px" role="img" aria-label="{}">').format(
        size[1], size[2], size[1], title
    ) + Markup(rest)


def write_svg(spec: Spec, path: Path) -> Path:
    """Draw a specification as an SVG file of its own, and return its path."""
    write_atomic(path, vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
    return path


def figure(make: Callable[[int], Spec], title: str, wide: int = WIDE) -> Markup:
    """A chart drawn twice, for a desktop and for a telephone; CSS shows the one that fits."""
    return Markup('<div class="chart wide">{}</div><div class="chart narrow">{}</div>').format(
        inline_svg(make(wide), title), inline_svg(make(NARROW), title)
    )

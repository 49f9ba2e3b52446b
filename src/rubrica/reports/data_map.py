"""A data map as a picture and as one offline page in which every prompt can be looked at.

The page carries Vega (0.9 MB), since zooming and picking points need it; it loads nothing, runs no code but its own
(the hash of each script is in the page's policy, expressions are interpreted), and shows texts as text.
"""

import base64
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import vl_convert
from markupsafe import Markup

from rubrica import __version__
from rubrica.core.run import write_atomic, write_bytes
from rubrica.reports.run_report import asset, templates
from rubrica.reports.svg import FONT, THEME, Spec, write_svg

REGIONS: Mapping[str, str] = {
    "high-average": THEME["s0"],
    "high-variance": THEME["s1"],
    "low-average": THEME["before"],
}
"""Regions and their colours, in the order of the legend."""
MOST = 4000
"""Prompts that a plot shows; of more, the marked suspects and a random sample."""
RINGS = 200
"""Suspects that are marked on the map: of many, the strongest."""
LONGEST = 2000
"""Characters of a text that the page holds."""
CATEGORIES = 10
"""Values of a column by which the page can colour."""


@dataclass(frozen=True)
class Answer:
    """One answer of a prompt."""

    text: str
    score: float
    label: float | None


@dataclass(frozen=True)
class Dot:
    """One prompt on the map."""

    id: str
    deviation: float
    mean: float
    region: str
    stratum: str
    prompt: str
    answers: tuple[Answer, ...]
    rank: int = 0
    """Among the suspects, from 1; 0: no suspect."""
    reason: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What the page says beside the dots."""

    title: str
    facts: Sequence[tuple[str, str]]
    """Name and value."""
    warnings: Sequence[str]
    boundaries: tuple[float, float] | None
    """Standard deviation from which on a prompt is of high variance, mean that parts the others; None with strata."""
    score: str
    """What a score is."""


def shown(dots: Sequence[Dot], seed: int = 0) -> list[Dot]:
    """Return at most :data:`MOST` dots: marked suspects, then a random sample; in the order of ``dots``."""
    if len(dots) <= MOST:
        return list(dots)
    order = random.Random(seed).sample(range(len(dots)), len(dots))
    kept = set(sorted(order, key=lambda i: not _marked(dots[i]))[:MOST])
    return [dot for i, dot in enumerate(dots) if i in kept]


def _marked(dot: Dot) -> bool:
    return 0 < dot.rank <= RINGS


def spec(dots: Sequence[Dot], page: Page, *, interactive: bool = False) -> Spec:
    """Vega-Lite specification: deviation to the right, mean upwards, a dark ring around suspects."""
    drawn = shown(dots)
    rows = [
        {
            "id": dot.id,
            "deviation": dot.deviation,
            "mean": dot.mean,
            "region": dot.region,
            "stratum": dot.stratum,
            "suspect": _marked(dot),
        }
        | ({"prompt": dot.prompt[:120], **_columns(dots, dot)} if interactive else {})
        for dot in drawn
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": 620,
        "height": 460,
        "background": "transparent" if interactive else THEME["page"],
        "padding": 12,
        "config": {
            "font": FONT,
            "view": {"stroke": None},
            "axis": {
                "labelColor": THEME["muted"],
                "titleColor": THEME["muted"],
                "labelFontSize": 12,
                "titleFontSize": 12,
                "gridColor": THEME["muted"],
                "gridOpacity": 0.18,
                "domain": False,
                "ticks": False,
                "titleFontWeight": "normal",
                "titlePadding": 10,
            },
            "legend": {"labelColor": THEME["muted"], "labelFontSize": 12, "symbolOpacity": 1},
        },
        "data": {"values": rows},
        "layer": [_dots(len(drawn), page.score, interactive), *_lines(drawn, page.boundaries)],
    }


def _columns(dots: Sequence[Dot], dot: Dot) -> dict[str, str]:
    return {f"column {name}": dot.columns.get(name, "") for name in colourable(dots)}


def colourable(dots: Sequence[Dot]) -> list[str]:
    """Columns with few enough values to colour by."""
    names = dict.fromkeys(name for dot in dots for name in dot.columns)
    return [n for n in names if 1 < len({dot.columns.get(n, "") for dot in dots}) <= CATEGORIES]


def _dots(count: int, score: str, interactive: bool) -> Spec:
    axis: Spec = {"type": "quantitative", "scale": {"zero": False, "nice": True}, "axis": {"tickCount": 8}}
    encoding: Spec = {
        "x": {**axis, "field": "deviation", "title": "standard deviation of a prompt's scores"},
        "y": {**axis, "field": "mean", "title": f"mean {score}"},
        "color": {
            "field": "region",
            "type": "nominal",
            "scale": {"domain": list(REGIONS), "range": list(REGIONS.values())},
            "legend": {"orient": "top", "title": None},
        },
        "stroke": {"condition": {"test": "datum.suspect", "value": THEME["s4"]}, "value": None},
        "strokeOpacity": {"value": 1},
    }
    found: Spec = {
        "mark": {
            "type": "point",
            "filled": True,
            "size": 46 if count < 400 else 26 if count < 1500 else 16,
            "fillOpacity": 0.75 if count < 400 else 0.55,
            "strokeWidth": 1.6,
        },
        "encoding": encoding,
    }
    if interactive:
        legend: Spec = {"type": "point", "fields": ["region"]}
        found["params"] = [
            {"name": "zoom", "select": "interval", "bind": "scales"},
            {"name": "picked", "select": legend, "bind": "legend"},
        ]
        encoding["fillOpacity"] = {"condition": {"param": "picked", "value": 0.65}, "value": 0.06}
        encoding["tooltip"] = [
            {"field": name, "type": kind, **({"format": ".4~g"} if kind == "quantitative" else {})}
            for name, kind in (
                ("prompt", "nominal"),
                ("mean", "quantitative"),
                ("deviation", "quantitative"),
                ("region", "nominal"),
            )
        ]
    return found


def _lines(dots: Sequence[Dot], boundaries: tuple[float, float] | None) -> list[Spec]:
    """Where high variance begins, and left of it where the mean parts high from low average."""
    if boundaries is None:
        return []
    (deviation, mean), left = boundaries, min(dot.deviation for dot in dots)
    mark: Spec = {"color": THEME["muted"], "strokeDash": [5, 4], "strokeWidth": 1}
    return [
        {
            "data": {"values": [{"x": deviation}]},
            "mark": {"type": "rule", **mark},
            "encoding": {"x": _number("x")},
        },
        {
            "data": {"values": [{"x": x, "y": mean} for x in (left, deviation)]},
            "mark": {"type": "line", **mark},
            "encoding": {"x": _number("x"), "y": _number("y")},
        },
    ]


def _number(name: str) -> Spec:
    return {"field": name, "type": "quantitative"}


def write_plots(dots: Sequence[Dot], page: Page, svg: Path, png: Path) -> None:
    """Draw the map as SVG and, twice as fine, as PNG."""
    drawn = spec(dots, page)
    write_svg(drawn, svg)
    write_bytes(png, vl_convert.vegalite_to_png(drawn, scale=2.0, allowed_base_urls=[]))


def write_page(dots: Sequence[Dot], page: Page, path: Path) -> None:
    """Write the page; ``StorageError`` where it cannot be."""
    write_atomic(path, render_page(dots, page))


def render_page(dots: Sequence[Dot], page: Page) -> str:
    """Return the page as one HTML document."""
    drawn = shown(dots)
    data = {
        "spec": spec(dots, page, interactive=True),
        "columns": colourable(dots),
        "dots": {dot.id: asdict(_cut(dot)) for dot in drawn},
    }
    vega, script = _vega(), asset("map.js")
    return (
        templates()
        .get_template("map.html.j2")
        .render(
            page=page,
            drawn=len(drawn),
            total=len(dots),
            all_suspects=sum(dot.rank > 0 for dot in dots),
            suspects=sorted((dot for dot in drawn if _marked(dot)), key=lambda dot: dot.rank),
            # a text can close no script element: "<" does not occur in it
            data=Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),
            vega=Markup(vega),
            script=Markup(script),
            hashes=[_hash(vega), _hash(script)],
            style=Markup(asset("report.css") + asset("map.css")),
            version=__version__,
        )
    )


@cache
def _vega() -> str:
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _cut(dot: Dot) -> Dot:
    answers = tuple(Answer(_short(a.text), a.score, a.label) for a in dot.answers)
    return Dot(**{**dot.__dict__, "prompt": _short(dot.prompt), "answers": answers})


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} […] ({len(text) - LONGEST:,} more characters)"

"""A chart of how well each question tells good texts from bad ones: a dot and its interval a question."""

from collections.abc import Sequence
from typing import Protocol

from rubrica.core.records import Estimate
from rubrica.reports.svg import FONT, THEME, Spec

_COLOURS = {"discriminates": "s0", "undecided": "before", "filler": "s1", "inverted": "s4"}


class Telling(Protocol):
    """What the chart shows of a question."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def finding(self) -> str:
        """``discriminates``, ``undecided``, ``filler`` or ``inverted``."""

    @property
    def auc(self) -> Estimate | None:
        """Area under the curve with its interval."""


def spec(found: Sequence[Telling]) -> Spec:
    """Vega-Lite specification; questions without an estimate are left out."""
    rows = [
        {"id": q.id, "finding": q.finding, "value": q.auc.value, "low": q.auc.low, "high": q.auc.high}
        for q in found
        if q.auc is not None
    ]
    scale: Spec = {"domain": list(_COLOURS), "range": [THEME[name] for name in _COLOURS.values()]}
    colour: Spec = {
        "field": "finding",
        "type": "nominal",
        "scale": scale,
        "legend": {"orient": "top", "title": None},
    }
    y: Spec = {"field": "id", "type": "nominal", "sort": [row["id"] for row in rows], "title": None}
    axis: Spec = {"title": "AUC of good against bad", "grid": True, "gridColor": THEME["grid"]}
    x: Spec = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": axis}
    half: Spec = {
        "mark": {"type": "rule", "color": THEME["muted"], "strokeDash": [4, 3]},
        "encoding": {"x": {"datum": 0.5}},
    }
    interval: Spec = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour},
    }
    dot: Spec = {
        "mark": {"type": "circle", "size": 60, "opacity": 1},
        "encoding": {"x": {**x, "field": "value"}, "y": y, "color": colour},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"values": rows},
        "width": 420,
        "height": {"step": 16},
        "background": THEME["page"],
        "config": {"font": FONT, "view": {"stroke": None}, "axis": {"labelLimit": 320}},
        "layer": [half, interval, dot],
    }

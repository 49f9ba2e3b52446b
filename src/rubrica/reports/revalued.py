"""A chart of values under two rules: a circle for each pair of values, as large as it is frequent."""

from collections import Counter
from collections.abc import Iterable

from rubrica.reports.svg import FONT, THEME, Spec


def spec(values: Iterable[tuple[float, float]], what: str) -> Spec:
    """Vega-Lite specification of (before, after) pairs; on the line nothing changed. ``what`` names a value."""
    counted = Counter((round(old, 6), round(new, 6)) for old, new in values)
    rows = [{"before": old, "after": new, "count": n} for (old, new), n in counted.items()]
    ends = [
        min((min(pair) for pair in counted), default=0.0),
        max((max(pair) for pair in counted), default=1.0),
    ]
    axis: Spec = {"gridColor": THEME["grid"]}
    line: Spec = {
        "data": {"values": [{"at": end} for end in ends]},
        "mark": {"type": "line", "color": THEME["muted"], "strokeDash": [4, 3]},
        "encoding": {
            "x": {"field": "at", "type": "quantitative"},
            "y": {"field": "at", "type": "quantitative"},
        },
    }
    dots: Spec = {
        "data": {"values": rows},
        "mark": {"type": "circle", "color": THEME["s0"], "opacity": 0.6},
        "encoding": {
            "x": {"field": "before", "type": "quantitative", "title": f"{what} before", "axis": axis},
            "y": {"field": "after", "type": "quantitative", "title": f"{what} after", "axis": axis},
            "size": {
                "field": "count",
                "type": "quantitative",
                "legend": {"title": None},
                "scale": {"rangeMax": 600},
            },
        },
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": 420,
        "height": 420,
        "background": THEME["page"],
        "config": {"font": FONT, "view": {"stroke": None}},
        "layer": [line, dots],
    }

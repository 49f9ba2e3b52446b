"""Charts as Vega-Lite specifications with fixed colours, which any Vega-Lite renderer can draw."""

import itertools
import math
from collections.abc import Mapping, Sequence

from rubrica.core.records import EvalResult
from rubrica.reports.run_data import Point
from rubrica.reports.svg import FONT, THEME, Spec
from rubrica.reports.tables import MEASURES, Measure, estimate, groups
from rubrica.reports.waterfall import Step

SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")
_FEW = 25
"""Up to so many steps, each is marked by a dot as well."""
_DASHES = ([1, 0], [6, 3], [12, 2], [2, 2], [8, 3, 2, 3], [1, 3])


def base(width: int, height: int, layers: Sequence[Spec]) -> Spec:
    """Return a chart of ``layers`` in our colours and type."""
    axis: Spec = {
        "labelColor": THEME["muted"],
        "titleColor": THEME["muted"],
        "gridColor": THEME["grid"],
        "domainColor": THEME["grid"],
        "tickColor": THEME["grid"],
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 6,
        "labelFlush": False,
        "ticks": False,
        "domain": False,
    }
    legend: Spec = {
        "labelColor": THEME["ink"],
        "labelFontSize": 12,
        "symbolStrokeWidth": 2.5,
        "symbolSize": 160,
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": width,
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 2,
        "background": "transparent",
        "config": {"font": FONT, "axis": axis, "legend": legend, "view": {"stroke": None}},
        "layer": list(layers),
    }


def _legend(width: int, count: int, longest: int, **more: object) -> Spec:
    """A legend above the plot in as many columns as fit."""
    columns = max(1, min(count, width // (36 + 7 * min(longest, 24))))
    return {"orient": "top", "title": None, "columns": columns, "labelLimit": 170, "offset": 8, **more}


def _dates(values: Sequence[Mapping[str, object]]) -> Spec:
    return {"values": [dict(value) for value in values]}


def lines(
    series: Mapping[str, Sequence[Point]],
    width: int,
    *,
    colours: Sequence[str] = SERIES,
    share: bool = False,
    height: int = 220,
    domain: tuple[float, float] | None = None,
    axis: str = "step",
) -> Spec:
    """One line per name over steps, and an invisible bar per step that carries the tooltip.

    ``domain`` fixes the vertical axis, so that two charts can be compared; else the data sets it.
    """
    names = list(series)
    palette = [THEME[colours[i % len(colours)]] for i in range(len(names))]
    dashes = [_DASHES[i % len(_DASHES)] for i in range(len(names))]
    rows = [(name, x, y) for name in names for x, y in series[name]]
    steps = sorted({x for points in series.values() for x, _ in points})
    ends = (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] - 0.5, steps[0] + 0.5)
    longest = max(map(len, names), default=0)
    scale: Spec = {"domain": names, "range": palette}
    legend = _legend(width, len(names), longest, symbolType="stroke") if len(names) > 1 else None
    ticks = 5 if width < 500 else 10
    x_axis: Spec = {"title": axis, "grid": False, "tickCount": ticks, "format": "d"}
    if ends[1] - ends[0] <= ticks:  # else the renderer puts ticks between two steps
        x_axis["values"] = list(range(math.ceil(ends[0]), math.floor(ends[1]) + 1))
    y_axis: Spec = {"title": None, "tickCount": 5, **({"format": "%"} if share else {})}
    low, high = _span(domain or [y for _, _, y in rows], share)
    x: Spec = {"field": "x", "type": "quantitative", "axis": x_axis, "scale": {"domain": list(ends)}}
    y: Spec = {
        "field": "y",
        "type": "quantitative",
        "axis": y_axis,
        "scale": {"zero": False, "domain": [low, high], "nice": True},
    }
    line: Spec = {
        "data": _dates([{"x": x, "y": y, "name": name} for name, x, y in rows]),
        "mark": {
            "type": "line",
            "strokeWidth": 2,
            "strokeJoin": "round",
            "aria": False,
            "point": {"size": 26} if len(steps) <= _FEW else False,
        },
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "name", "type": "nominal", "scale": scale, "legend": legend},
            "strokeDash": {
                "field": "name",
                "type": "nominal",
                "scale": {"domain": names, "range": list(dashes)},
                "legend": legend,
            },
        },
    }
    hit: Spec = {
        "data": _dates(_step_tips(series, steps, ends, share)),
        "mark": {"type": "rect", "color": THEME["muted"], "fillOpacity": 0, "ariaRoleDescription": "tip"},
        "encoding": {"x": x, "x2": {"field": "x2"}, "description": {"field": "tip", "type": "nominal"}},
    }
    return base(width, height, [line, hit])


def _span(values: Sequence[float], share: bool) -> tuple[float, float]:
    """From the lowest to the highest value, of shares from 0; values that are all one get room around them."""
    low, high = min(values), max(values)
    if share:
        low = min(0.0, low)
    if not math.isclose(low, high, rel_tol=1e-9):
        return low, high
    return (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)


def _step_tips(
    series: Mapping[str, Sequence[Point]], steps: Sequence[float], ends: tuple[float, float], share: bool
) -> list[dict[str, object]]:
    """One invisible bar per step, as wide as the closest two steps are apart, with all values of the step."""
    half = min((b - a for a, b in itertools.pairwise(steps)), default=1.0) / 2
    tips: list[dict[str, object]] = []
    for step in steps:
        parts = [
            f"{name} {_number(y, share)}" for name, points in series.items() for x, y in points if x == step
        ]
        left, right = max(step - half, ends[0]), min(step + half, ends[1])
        tips.append({"x": left, "x2": right, "tip": f"step {step:g} · " + " · ".join(parts)})
    return tips


def _number(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:.3g}".replace("-", "−")


def model_colours(labels: Sequence[str]) -> list[str]:
    """Grey for the first model, blue for the last, other colours between."""
    between = ["s1", "s2", "s3", "s5", "s4"]
    return ["before", *(between[i % 5] for i in range(len(labels) - 2)), "s0"][-len(labels) :]


def bars(rows: Sequence[tuple[str, str, Measure, EvalResult]], width: int) -> Spec:
    """Horizontal bars with intervals: rows of (bar group, estimate group, measure, result); one bar a model."""
    values = _bar_values(rows)
    share = all(measure.share for *_, measure, _ in rows)
    models = list(dict.fromkeys(result.label for *_, result in rows))
    titles = list(dict.fromkeys(title for title, *_ in rows))
    scale: Spec = {"domain": models, "range": [THEME[name] for name in model_colours(models)]}
    top = max([float(str(v["high"])) for v in values], default=1.0)
    domain = [0, 1.12 if share else top * 1.2]
    y: Spec = {
        "field": "group",
        "type": "nominal",
        "sort": titles,
        "axis": {"title": None, "labelLimit": 110 if width < 500 else 220, "labelColor": THEME["ink"]},
        "scale": {"paddingInner": 0.28, "paddingOuter": 0.1},
    }
    offset: Spec = {"field": "model", "sort": models, "scale": {"paddingInner": 0.12}}
    x_axis: Spec = {"title": None, "tickCount": 5}
    if share:
        x_axis |= {"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}
    x: Spec = {
        "field": "value",
        "type": "quantitative",
        "axis": x_axis,
        "scale": {"domain": domain, "nice": False},
    }
    legend = _legend(width, len(models), max(map(len, models), default=0), symbolType="square")
    bar: Spec = {
        "mark": {"type": "bar", "ariaRoleDescription": "tip"},
        "encoding": {
            "x": x,
            "color": {"field": "model", "type": "nominal", "scale": scale, "legend": legend},
            "description": {"field": "tip", "type": "nominal"},
        },
    }
    height = max(60, len(titles) * (len(models) * 16 + 12))
    spec = base(width, height, [bar, *_intervals(x)])
    return {**spec, "data": _dates(values), "encoding": {"y": y, "yOffset": offset}}


def _bar_values(rows: Sequence[tuple[str, str, Measure, EvalResult]]) -> list[dict[str, object]]:
    values: list[dict[str, object]] = []
    for title, group, measure, result in rows:
        found = estimate(result, measure.name, group)
        if found is not None:
            number = f"{measure.number(found.value)} ({measure.interval(found)})"
            values.append(
                {
                    "group": title,
                    "model": result.label,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "text": measure.number(found.value),
                    "tip": f"{title} · {result.label} · {number} · n = {found.n} · {found.method}",
                }
            )
    return values


def _intervals(x: Spec) -> list[Spec]:
    """Interval and number at the end of each bar; ``x`` is the bars' horizontal encoding."""
    # A wider rule in the page's colour keeps the interval visible on a bar of any shade.
    rules: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": thick, "color": THEME[colour], "aria": False},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
        }
        for thick, colour in ((3.4, "page"), (1.4, "ink"))
    ]
    text: Spec = {
        "mark": {
            "type": "text",
            "align": "left",
            "dx": 5,
            "fontSize": 11,
            "color": THEME["muted"],
            "aria": False,
        },
        "encoding": {"x": {**x, "field": "high"}, "text": {"field": "text"}},
    }
    return [*rules, text]


def family_rows(results: Sequence[EvalResult]) -> list[tuple[str, str, Measure, EvalResult]]:
    """Rows of :func:`bars` for attack success by family, the pooled value first."""
    asr = MEASURES[0]
    found = groups(results, asr.name)
    return [(group or "All attacks", group, asr, result) for group in found for result in results]


def measure_rows(
    results: Sequence[EvalResult], names: Sequence[str]
) -> list[tuple[str, str, Measure, EvalResult]]:
    """Rows of :func:`bars` for the pooled values of other measures; an arrow says which way is better."""
    arrows = {"lower": " ↓", "higher": " ↑", "neither": ""}
    return [
        (measure.title + arrows[measure.direction], "", measure, result)
        for measure in MEASURES
        if measure.name in names and any(estimate(result, measure.name) for result in results)
        for result in results
    ]


def heat_map(
    rows: Mapping[str, Sequence[tuple[str, float]]], width: int, texts: Mapping[str, str] | None = None
) -> Spec:
    """Shares between 0 and 1 as opacity: one line of cells per name, one column per span of steps.

    ``texts`` says in the tooltip what a name stands for.
    """
    values = [
        {
            "name": name,
            "span": span,
            "share": share,
            "tip": f"{(texts or {}).get(name, name)} {'Steps' if '–' in span else 'Step'} {span}: "
            f"{100 * share:.1f} % failed",
        }
        for name, cells in rows.items()
        for span, share in cells
    ]
    spans = list(dict.fromkeys(span for cells in rows.values() for span, _ in cells))
    every = max(1, -(-len(spans) // (4 if width < 500 else 10)))
    x: Spec = {
        "field": "span",
        "type": "ordinal",
        "sort": spans,
        "axis": {"title": "steps", "values": spans[::every], "labelAngle": 0, "labelOverlap": True},
        "scale": {"paddingInner": 0.08},
    }
    y: Spec = {
        "field": "name",
        "type": "nominal",
        "sort": list(rows),
        "axis": {"title": None, "labelLimit": 130 if width < 500 else 300, "labelColor": THEME["ink"]},
        "scale": {"paddingInner": 0.12},
    }
    ground: Spec = {"mark": {"type": "rect", "color": THEME["grid"], "aria": False, "opacity": 0.55}}
    cell: Spec = {
        "mark": {"type": "rect", "color": THEME["heat"], "ariaRoleDescription": "tip"},
        "encoding": {
            "fillOpacity": {
                "field": "share",
                "type": "quantitative",
                "scale": {"domain": [0, 1], "range": [0, 1]},
                "legend": None,
            },
            "description": {"field": "tip", "type": "nominal"},
        },
    }
    spec = base(width, 22 * len(rows), [ground, cell])
    return {**spec, "data": _dates(values), "encoding": {"x": x, "y": y}}


def waterfall(steps: Sequence[Step], width: int, domain: tuple[float, float]) -> Spec:
    """A waterfall that runs downwards: parts in one of two colours by sign, sums in grey."""
    values = [
        {
            "name": step.name,
            "start": step.start,
            "end": step.end,
            "tone": "sum" if step.kind == "sum" else "down" if step.end < step.start else "up",
            "right": max(step.start, step.end),
            "label": step.label,
            "tip": " · ".join(part for part in (step.name, step.label, step.note) if part),
        }
        for step in steps
    ]
    span = domain[1] - domain[0]
    x: Spec = {
        "field": "start",
        "type": "quantitative",
        "axis": {"title": None, "tickCount": 5},
        "scale": {"domain": [domain[0] - 0.04 * span, domain[1] + 0.22 * span], "nice": False},
    }
    y: Spec = {
        "field": "name",
        "type": "nominal",
        "sort": [step.name for step in steps],
        "axis": {"title": None, "labelLimit": 110, "labelColor": THEME["ink"], "grid": False},
        "scale": {"paddingInner": 0.3},
    }
    tones: Spec = {"domain": ["up", "down", "sum"], "range": [THEME[t] for t in ("up", "down", "sum")]}
    bar: Spec = {
        "mark": {"type": "bar", "ariaRoleDescription": "tip"},
        "encoding": {
            "y": y,
            "x": x,
            "x2": {"field": "end"},
            "color": {"field": "tone", "type": "nominal", "scale": tones, "legend": None},
            "description": {"field": "tip", "type": "nominal"},
        },
    }
    zero: Spec = {
        "data": {"values": [{"start": 0}]},
        "mark": {"type": "rule", "color": THEME["muted"], "strokeWidth": 1, "aria": False},
        "encoding": {"x": x},
    }
    # The first of the two is a halo in the page's colour, which keeps a number legible on the zero line.
    halo: Spec = {"stroke": THEME["page"], "strokeWidth": 4}
    labels: list[Spec] = [
        {
            "mark": {"type": "text", "align": "left", "dx": 4, "fontSize": 11, "aria": False, **more},
            "encoding": {"y": y, "x": {**x, "field": "right"}, "text": {"field": "label"}},
        }
        for more in (halo, {"color": THEME["muted"]})
    ]
    return {**base(width, 24 * len(steps), [bar, zero, *labels]), "data": _dates(values)}

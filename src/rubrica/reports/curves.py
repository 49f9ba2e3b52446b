"""Learning curves of stage active-dpo: what labels bought, by strategy, over the seeds of several runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import vl_convert

from rubrica.core.base import Record
from rubrica.core.config import read_yaml
from rubrica.core.errors import DataError, UsageError
from rubrica.core.records import Estimate
from rubrica.core.run import Stage, write_bytes, write_json
from rubrica.core.stats import mean_interval
from rubrica.reports.plots import SERIES, base
from rubrica.reports.svg import THEME, Spec, write_svg

SUFFIXES = (".svg", ".png", ".json")


class Curve(NamedTuple):
    """One run."""

    strategy: str
    seed: int
    points: dict[int, float]
    """Labels spent -> mean score of the answers to held-out prompts."""


class CurvePoint(Record):
    """One strategy after some labels: the mean over seeds, with Student's t interval."""

    strategy: str
    labels: int
    seeds: tuple[int, ...]
    score: Estimate


class Curves(Record):
    """Learning curves."""

    points: tuple[CurvePoint, ...]


def read_curve(run: Path) -> Curve:
    """Return the curve of a run; ``UsageError`` where it has no finished stage active-dpo with held-out prompts."""
    stages = sorted((run / "stages").glob("*-active-dpo"))
    if not stages:
        raise UsageError(f"{run}: has no stage active-dpo; expected the --out of rubrica align with one")
    summary = Stage(stages[-1]).summary()
    points, recipe = summary.get("curve"), read_yaml(run / "recipe.yaml")
    if not isinstance(points, dict) or not points:
        raise UsageError(f"{run}: has no learning curve; finish the stage, with held_out above 0")
    seed = recipe.get("seed", 0) if isinstance(recipe, dict) else 0
    try:
        found = {int(labels): float(str(score)) for labels, score in points.items()}
        return Curve(str(summary["strategy"]), int(str(seed)), found)
    except (KeyError, ValueError):
        raise DataError(stages[-1] / "summary.json", "not a summary of stage active-dpo") from None


def over_seeds(curves: Sequence[Curve]) -> Curves:
    """Return each strategy's mean after every number of labels that some of its runs spent.

    ``UsageError`` where one strategy has a seed twice: those runs differ in something else.
    """
    groups: dict[tuple[str, int], dict[int, float]] = {}
    for curve in curves:
        for labels, score in curve.points.items():
            group = groups.setdefault((curve.strategy, labels), {})
            if curve.seed in group:
                raise UsageError(
                    f"two runs of {curve.strategy} have seed {curve.seed}; give runs that differ in seed and strategy"
                )
            group[curve.seed] = score
    return Curves(
        points=tuple(
            CurvePoint(
                strategy=strategy,
                labels=labels,
                seeds=tuple(sorted(group)),
                score=mean_interval([group[seed] for seed in sorted(group)], name="score", group=strategy),
            )
            for (strategy, labels), group in sorted(groups.items())
        )
    )


def spec(curves: Curves, width: int = 640) -> Spec:
    """Draw a line and the band of its interval for each strategy."""
    return banded(
        [Banded(p.strategy, p.labels, p.score.value, p.score.low, p.score.high) for p in curves.points],
        "labels",
        "score",
        width,
    )


class Banded(NamedTuple):
    """A point of a line, and the interval around it."""

    name: str
    """The line's."""
    x: float
    y: float
    low: float
    high: float


def banded(
    points: Sequence[Banded], x_title: str, y_title: str, width: int = 640, *, log: bool = False
) -> Spec:
    """Draw lines with bands; ``log``: of the horizontal axis, whose values are then above 0."""
    names = list(dict.fromkeys(point.name for point in points))
    rows: list[Mapping[str, object]] = [point._asdict() for point in points]
    x: Spec = {
        "field": "x",
        "type": "quantitative",
        "axis": {"title": x_title, "grid": False, "format": "~s" if log else "d"},
        "scale": {"type": "log" if log else "linear"},
    }
    colour: Spec = {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": names, "range": [THEME[SERIES[i % len(SERIES)]] for i in range(len(names))]},
        "legend": {"orient": "top", "title": None},
    }
    scale: Spec = {"zero": False, "nice": True}
    band: Spec = {
        "data": {"values": rows},
        "mark": {"type": "area", "opacity": 0.18},
        "encoding": {
            "x": x,
            "y": {"field": "low", "type": "quantitative", "scale": scale, "axis": {"title": y_title}},
            "y2": {"field": "high"},
            "color": colour,
        },
    }
    line: Spec = {
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 30}},
        "encoding": {
            "x": x,
            "y": {"field": "y", "type": "quantitative", "scale": scale},
            "color": colour,
        },
    }
    return base(width, 280, [band, line])


def check_suffix(path: Path) -> None:
    """Refuse, before anything is read, a file of a kind that cannot be written (``UsageError``)."""
    if path.suffix.casefold() not in SUFFIXES:
        raise UsageError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")


def write_curves(curves: Curves, path: Path) -> None:
    """Write a picture or the numbers, by the file's suffix, one of :data:`SUFFIXES`."""
    write_picture(spec(curves), curves, path)


def write_picture(drawn: Spec, numbers: Record, path: Path) -> None:
    """Write the picture, or the numbers behind it, by the file's suffix, one of :data:`SUFFIXES`."""
    match path.suffix.casefold():
        case ".svg":
            write_svg(drawn, path)
        case ".png":
            png = vl_convert.vegalite_to_png(
                {**drawn, "background": "white"}, scale=2.0, allowed_base_urls=[]
            )
            write_bytes(path, png)
        case _:
            write_json(path, numbers)

"""Logged series made short enough to draw."""

from collections.abc import Sequence

from rubrica.reports.run_data import Point

LONGEST = 120
"""Points of a drawn line; a longer series is drawn as means over equal spans of steps."""


def spans(steps: Sequence[float], count: int) -> list[tuple[float, float]]:
    """At most ``count`` runs of neighbouring steps, as (first, last), as equal in number as can be."""
    size = max(1, -(-len(steps) // count))
    return [(steps[i], steps[min(i + size, len(steps)) - 1]) for i in range(0, len(steps), size)]


def mean_over(points: Sequence[Point], first: float, last: float) -> float | None:
    """Mean of the values of steps in [first, last], or None where there is none."""
    values = [y for x, y in points if first <= x <= last]
    return sum(values) / len(values) if values else None


def thin(points: Sequence[Point], count: int = LONGEST) -> list[Point]:
    """``points`` if there are at most ``count``, else the mean over each span, at the span's last step."""
    if len(points) <= count:
        return list(points)
    steps = sorted({x for x, _ in points})
    means = [(last, mean_over(points, first, last)) for first, last in spans(steps, count)]
    return [(step, value) for step, value in means if value is not None]


def quarters(points: Sequence[Point]) -> tuple[float, float]:
    """Mean over the first and over the last quarter of the points (of each at least one)."""
    size = max(1, len(points) // 4)
    values = [y for _, y in points]
    return sum(values[:size]) / size, sum(values[-size:]) / size

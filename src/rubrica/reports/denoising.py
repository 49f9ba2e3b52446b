"""What SPA's tests removed, and what the scores were, as the summaries of its stages say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubrica.core.config import Json
from rubrica.reports.run_data import RunData

_ANSWERS = {"before": "Policy before", "samples": "Samples", "refined": "Refined", "after": "Policy after"}


@dataclass(frozen=True)
class Denoised:
    """One iteration of a stage."""

    title: str
    prompts: int
    kept: int
    pairs: int
    dropped: Sequence[tuple[str, int]]
    """Reason and prompts, the most frequent first."""
    objectives: Sequence[str]
    scores: Sequence[tuple[str, Sequence[float], Sequence[tuple[str, float]]]]
    """Whose answers, their mean scores by objective, and HH_lambda by lambda where it was measured."""


def denoised(data: RunData) -> list[Denoised]:
    """Return every iteration of the run's finished SPA stages."""
    found: list[Denoised] = []
    for stage in data.stages:
        if stage.kind != "spa" or not stage.done:
            continue
        earlier = stage.summary.get("earlier")
        rounds = [*(earlier if isinstance(earlier, list) else []), dict(stage.summary)]
        for number, told in enumerate(rounds, 1):
            title = stage.name if len(rounds) == 1 else f"{stage.name}, iteration {number} of {len(rounds)}"
            found.append(_denoised(title, _mapping(told)))
    return found


def _denoised(title: str, told: Mapping[str, Json]) -> Denoised:
    means = _mapping(told.get("scores"))
    measured = {when: _mapping(told.get(when)) for when in ("before", "after")}
    rows = {
        who: _numbers(means.get(who) if who in ("samples", "refined") else measured[who].get("scores"))
        for who in _ANSWERS
    }
    dropped = _numbers(told.get("dropped"))
    objectives = next((list(row) for row in rows.values() if row), [])
    return Denoised(
        title=title,
        prompts=_count(told, "prompts"),
        kept=_count(told, "kept"),
        pairs=_count(told, "pairs"),
        dropped=sorted(((why, int(n)) for why, n in dropped.items()), key=lambda pair: -pair[1]),
        objectives=objectives,
        scores=[
            (
                _ANSWERS[who],
                [row[name] for name in objectives],
                list(_numbers(measured[who].get("hh")).items()) if who in measured else [],
            )
            for who, row in rows.items()
            if row
        ],
    )


def _mapping(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _numbers(value: Json) -> dict[str, float]:
    return {key: float(n) for key, n in _mapping(value).items() if isinstance(n, int | float)}


def _count(told: Mapping[str, Json], key: str) -> int:
    value = told.get(key)
    return value if isinstance(value, int) else 0

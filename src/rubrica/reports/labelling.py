"""What ActiveDPO's rounds spent and brought, as the summaries of its stages say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubrica.core.config import Json
from rubrica.reports.plots import lines
from rubrica.reports.run_data import RunData, StageData
from rubrica.reports.svg import WIDE, Chart, figure


@dataclass(frozen=True)
class LabelRound:
    """One round."""

    number: int
    candidates: int
    spent: int
    labelled: int
    undecided: int
    open: int
    route: str
    """How scores were computed; empty for strategies without a covariance."""
    seconds: float
    """Of measuring and selecting."""
    flops: float


@dataclass(frozen=True)
class Labelling:
    """One stage."""

    stage: str
    strategy: str
    labels: int
    preferences: int
    rounds: Sequence[LabelRound]
    curve: Chart | None


def labellings(data: RunData) -> list[Labelling]:
    """Return every finished stage active-dpo of the run."""
    return [_labelling(stage) for stage in data.stages if stage.kind == "active-dpo" and stage.done]


def _labelling(stage: StageData) -> Labelling:
    told = stage.summary
    costs = {_number(cost, "round"): cost for cost in _rows(told.get("costs"))}
    rounds = []
    for row in _rows(told.get("rounds")):
        number = int(_number(row, "round"))
        cost = costs.get(number, {})
        rounds.append(
            LabelRound(
                number=number,
                candidates=int(_number(cost, "candidates")),
                spent=int(_number(row, "spent")),
                labelled=int(_number(row, "labelled")),
                undecided=int(_number(row, "undecided")),
                open=int(_number(row, "open")),
                route=str(cost.get("route") or ""),
                seconds=_number(cost, "measuring_seconds") + _number(cost, "selecting_seconds"),
                flops=_number(cost, "measuring_flops") + _number(cost, "selecting_flops"),
            )
        )
    return Labelling(
        stage=stage.name,
        strategy=str(told.get("strategy", "")),
        labels=int(_number(told, "labels")),
        preferences=int(_number(told, "preferences")),
        rounds=rounds,
        curve=_curve(stage),
    )


def _curve(stage: StageData) -> Chart | None:
    points = stage.series("held_out/score")
    if not points:
        return None
    title = "Score of held-out answers by labels spent"
    svg = figure(lambda width: lines({"score": points}, width, axis="labels spent"), title, wide=WIDE)
    return Chart(title, svg, "Mean total of the policy's answers to prompts that nothing was selected from.")


def _rows(value: Json) -> list[dict[str, Json]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _number(row: Mapping[str, Json], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0

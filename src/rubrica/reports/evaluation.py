"""What was run, and the models before and after, as plain values that the template places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rubrica.core.config import Json
from rubrica.core.records import Estimate, EvalResult
from rubrica.reports.plots import bars, family_rows, measure_rows
from rubrica.reports.run_data import RunData
from rubrica.reports.svg import Chart, figure
from rubrica.reports.tables import HEADLINES, Measure, estimate, groups, measures

_STAGES = {"think-sft": "think-SFT", "grpo": "GRPO"}


def _read(data: Mapping[str, Json], *path: str) -> str:
    found: Json = dict(data)
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return "" if found is None or isinstance(found, dict | list) else str(found)


def headline(data: RunData) -> str:
    """One sentence: which model went through which stages, asked by which program and judge."""
    program = data.program
    dimensions = [d for p in program.principles for d in p.dimensions]
    questions = sum(len(d.questions) for d in dimensions)
    stages: list[str] = []
    rubric = False
    planned = data.recipe.get("stages")
    for stage in planned if isinstance(planned, list) else []:
        if isinstance(stage, dict):
            kind = str(stage.get("type", "stage"))
            size = next((f" ({stage[k]} {k})" for k in ("examples", "steps") if k in stage), "")
            stages.append(_STAGES.get(kind, kind) + size)
            rubric |= kind == "grpo" and not stage.get("reward_model")
    judge = _read(data.recipe, "judge") or _read(data.recipe, "judge", "spec") or "the judge"
    asked = f"the {questions} questions of program {program.name} ({len(program.principles)} principles, {len(dimensions)} dimensions)"
    if rubric:
        told = f"the reward asks {asked}, answered by {judge}"
    elif judge == "none":
        told = "the recipe names no judge"
    else:
        told = f"the recipe's judge is {judge}, for {asked}"
    return (
        f"{_read(data.recipe, 'policy', 'model') or 'A model'}, trained by {' and '.join(stages) or 'no stage'}: "
        f"{told}. Seed {_read(data.recipe, 'seed') or '0'}."
    )


@dataclass(frozen=True)
class Change:
    """One measure before and after, in words."""

    measure: Measure
    before: Estimate | None
    after: Estimate
    trend: str

    @property
    def verb(self) -> str:
        """Fell, rose, or unchanged within the intervals."""
        if self.before is None or self.trend == "unclear":
            return "no clear change"
        return "fell" if self.after.value < self.before.value else "rose"


@dataclass(frozen=True)
class Suite:
    """All models on one suite of evaluations."""

    name: str
    results: Sequence[EvalResult]
    changes: Sequence[Change]
    rows: Sequence[tuple[str, bool, Measure, Sequence[Estimate | None]]]
    """(title, is a family, measure, one estimate per model)"""
    charts: Sequence[Chart]


def suites(data: RunData) -> list[Suite]:
    """One entry per suite; models in the order of training."""
    names = dict.fromkeys(result.suite for result in data.results)
    return [_suite(name, [r for r in data.results if r.suite == name]) for name in names]


def _suite(name: str, results: Sequence[EvalResult]) -> Suite:
    changes: list[Change] = []
    rows: list[tuple[str, bool, Measure, Sequence[Estimate | None]]] = []
    for measure in measures(results):
        for group in groups(results, measure.name):
            found = [estimate(result, measure.name, group) for result in results]
            alone = group and "" not in groups(results, measure.name)
            title = f"{measure.title}, {group}" if alone else group or measure.title
            rows.append((title, bool(group) and not alone, measure, found))
        after = estimate(results[-1], measure.name)
        before = estimate(results[0], measure.name) if len(results) > 1 else None
        if after is not None and measure.name in HEADLINES:
            trend = measure.trend(before, after) if before else "unclear"
            changes.append(Change(measure, before, after, trend))
    charts: list[Chart] = []
    families, shares, tokens = (
        family_rows(results),
        measure_rows(results, ["frr", "helpful", "honesty", "capability"]),
        measure_rows(results, ["tokens"]),
    )
    for title, values, note in (
        ("Attack success by family", families, "Lower is better. Thin lines are the intervals of the table."),
        ("False refusals, helpfulness, honesty, capability", shares, "The arrow shows which way is better."),
        ("Tokens per answer", tokens, "Longer answers cost more, and are neither better nor worse."),
    ):
        if values:
            svg = figure(partial(bars, values), title)
            charts.append(Chart(title, svg, note))
    return Suite(name, results, changes, rows, charts)

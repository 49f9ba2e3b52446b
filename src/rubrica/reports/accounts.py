"""What happened besides the reward: stage 2's examples, what judging cost, and how far its answers can be trusted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rubrica.core.account import CACHED, IRRELEVANT, SKIPPED, is_call, paid
from rubrica.core.programs import QuestionKind
from rubrica.core.records import Estimate, Expense, Outcome, Scorecard, Usage
from rubrica.reports.examples import kind_of
from rubrica.reports.metrics import thin
from rubrica.reports.plots import lines
from rubrica.reports.run_data import RunData, StageData
from rubrica.reports.svg import HALF, Chart, figure

CARDS = 400
"""Scorecards that are read for shares per question; more are sampled evenly."""


@dataclass(frozen=True)
class Examples:
    """Stage 2: how many drafts became training examples, and why the others did not."""

    total: int
    kept: int
    dropped: Sequence[tuple[str, int]]
    confirmed: tuple[int, int]
    """(confirmed, checked) reflections."""
    cured: tuple[int, int]
    """(cured, checked) revisions."""
    weaknesses: Sequence[tuple[str, int]]
    loss: Chart | None


def think_examples(data: RunData) -> Examples | None:
    """Counts over the run's stage 2 examples, or None where it has none."""
    rows = data.think
    if not rows:
        return None
    texts = {q.id: q.text for p in data.program.principles for d in p.dimensions for q in d.questions}
    confirmed = [row.confirmed for row in rows if row.confirmed is not None]
    cured = [row.cured for row in rows if row.cured is not None]
    weak = Counter(texts.get(row.weakness, row.weakness) if row.weakness else "none found" for row in rows)
    stage = next((s for s in data.stages if not s.series("reward/mean", "reward") and s.series("loss")), None)
    return Examples(
        total=len(rows),
        kept=sum(row.dropped is None for row in rows),
        dropped=_ranked(Counter(row.dropped for row in rows if row.dropped is not None)),
        confirmed=(sum(confirmed), len(confirmed)),
        cured=(sum(cured), len(cured)),
        weaknesses=_ranked(weak)[:8],
        loss=_loss(stage) if stage else None,
    )


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _loss(stage: StageData) -> Chart:
    points = {"loss": thin(stage.series("loss"))}
    svg = figure(lambda width: lines(points, width, height=150), "Loss of stage 2", wide=HALF)
    return Chart("Loss", svg, half=True)


@dataclass(frozen=True)
class Cost:
    """What one stage cost. ``usage`` is None where nothing was logged about judging."""

    stage: StageData
    usage: Usage | None
    seconds: float | None


def costs(data: RunData) -> list[Cost]:
    """One row per stage: its summary's ``usage``, else the sums of its ``calls/...`` metrics."""
    return [Cost(stage, _usage(stage), _seconds(stage)) for stage in data.stages]


def _usage(stage: StageData) -> Usage | None:
    told = stage.summary.get("usage")
    if isinstance(told, dict):
        return Usage.model_validate({k: v for k, v in told.items() if k in Usage.model_fields})
    sums = {name: sum(y for _, y in stage.series(f"calls/{name}")) for name in Usage.model_fields}
    if not any(stage.series(f"calls/{name}") for name in Usage.model_fields):
        return None
    whole = {name: round(value) for name, value in sums.items() if name != "seconds"}
    return Usage(seconds=sums["seconds"], **whole)


def _seconds(stage: StageData) -> float | None:
    for key in ("seconds", "wall_seconds"):
        told = stage.summary.get(key)
        if isinstance(told, int | float):
            return float(told)
    logged = stage.series("seconds", "time/step", "step_time")
    return sum(y for _, y in logged) if logged else None


_PASSPORT = (
    ("agreement with labels", "agreement", ""),
    ("Cohen's kappa", "kappa", ""),
    ("faults that gates find", "sensitivity", "gates"),
    ("faultless texts that gates pass", "specificity", "gates"),
    ("same answer, asked again", "repeat", ""),
    ("same answer, options reversed", "order", ""),
    ("same answer, other words", "paraphrase", ""),
    ("value for each doubling of length", "length", ""),
    ("attacks that succeed", "injection", ""),
)
"""Figures of the judge's passport that the report shows: title, name, group."""


@dataclass(frozen=True)
class QuestionCost:
    """What one question cost over the whole run, all judges together."""

    id: str
    text: str
    asked: int
    skipped: int
    cached: int
    tokens: int
    seconds: float
    money: float | None
    """US dollars; None where no judge that was asked it has a price."""
    answers: Sequence[tuple[str, int]]
    """Answers and how often each was given, the most frequent first."""


def question_costs(data: RunData) -> list[QuestionCost]:
    """One row for each question of the run's account, the most expensive first: by money, tokens, seconds, calls."""
    texts = {q.id: q.text for p in data.program.principles for d in p.dimensions for q in d.questions}
    by_question: dict[str, list[Expense]] = {}
    for line in data.account:
        by_question.setdefault(line.question_id, []).append(line)
    rows = []
    for id, account in by_question.items():
        calls = [line for line in account if is_call(line)]
        answers: Counter[str] = Counter()
        for line in calls:
            answers[line.answer] += line.count
        priced = any(line.judge in data.prices for line in calls)
        rows.append(
            QuestionCost(
                id=id,
                text=texts.get(id, "(not in the program)"),
                asked=answers.total(),
                skipped=sum(line.count for line in account if line.answer in (SKIPPED, IRRELEVANT)),
                cached=sum(line.count for line in account if line.answer == CACHED),
                tokens=sum(line.prompt_tokens + line.completion_tokens for line in calls),
                seconds=sum(line.seconds for line in calls),
                money=paid(calls, data.prices) if priced else None,
                answers=_ranked(answers),
            )
        )
    return sorted(rows, key=lambda row: (-(row.money or 0), -row.tokens, -row.seconds, -row.asked, row.id))


@dataclass(frozen=True)
class Trust:
    """How the judge behaved: vetoes, NA, missing totals."""

    false_veto: Sequence[tuple[str, float]]
    """(where it was measured, rate), as the run recorded it."""
    vetoes: Sequence[tuple[str, int, int]]
    """(kind of prompt, vetoed texts, texts)"""
    na: Sequence[tuple[str, str, int, int]]
    """(question id, its text, answers NA, answers)"""
    cards: int
    without_reward: int
    rollouts: int
    malformed: Sequence[tuple[str, int]]
    passport: Sequence[tuple[str, Estimate]]
    """(what was measured of the judge before the run, with which result)"""


def trust(data: RunData) -> Trust:
    """Shares per question and kind of prompt over a sample of scorecards; rates that the run recorded itself."""
    texts = [
        (kind_of(data.prompt(rollout.prompt_id)) or "untagged", id)
        for rollout in data.rollouts
        for id in (rollout.draft_card, rollout.revision_card)
        if id
    ]
    sample = texts[:: max(1, -(-len(texts) // CARDS))]
    cards = [(kind, card) for kind, id in sample if (card := data.card(id))]
    seen = Counter(kind for kind, _ in cards)
    vetoed = Counter(kind for kind, card in cards if card.vetoed_by)
    return Trust(
        false_veto=_false_vetoes(data),
        vetoes=[(kind, vetoed[kind], seen[kind]) for kind in sorted(seen)],
        na=_na(data, [card for _, card in cards]),
        cards=len(cards),
        without_reward=sum(r.reward is None for r in data.rollouts),
        rollouts=len(data.rollouts),
        malformed=_ranked(Counter(str(m) for r in data.rollouts if (m := r.attempt.malformed))),
        passport=[
            (title, measure)
            for title, name, group in _PASSPORT
            for measure in data.passport
            if (measure.name, measure.group) == (name, group)
        ],
    )


def _false_vetoes(data: RunData) -> list[tuple[str, float]]:
    """Shares of judged texts that were vetoed though clean, means over the steps of each stage."""
    found: list[tuple[str, float]] = []
    for stage in data.stages:
        for metric, how in (
            ("veto/false", "checked by the reference judge"),
            ("veto/false_expected", "expected"),
        ):
            if logged := stage.series(metric):
                found.append((f"{stage.name}, {how}", sum(y for _, y in logged) / len(logged)))
    return found


def _na(data: RunData, cards: Sequence[Scorecard]) -> list[tuple[str, str, int, int]]:
    """The questions with the highest share of NA among their answers, at most twelve."""
    answered: Counter[str] = Counter()
    na: Counter[str] = Counter()
    for card in cards:
        for verdict in (v for p in card.principles for d in p.dimensions for v in d.verdicts):
            answered[verdict.question_id] += verdict.outcome in (Outcome.ANSWERED, Outcome.NOT_APPLICABLE)
            na[verdict.question_id] += verdict.outcome is Outcome.NOT_APPLICABLE
    texts = {
        q.id: q.text + (" (gate)" if q.kind is QuestionKind.GATE else "")
        for p in data.program.principles
        for d in p.dimensions
        for q in d.questions
    }
    ranked = sorted((id for id in na if na[id]), key=lambda id: (-na[id] / answered[id], id))
    return [(id, texts.get(id, id), na[id], answered[id]) for id in ranked[:12]]

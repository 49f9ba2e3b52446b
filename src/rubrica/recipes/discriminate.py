"""Which questions tell a good text from a bad one, on labelled pairs; the rest is filler that costs calls.

For each question, over the pairs whose two answers both have a value (TRUE 1, FALSE -1, grades as in pooling; of a
fault, a question with negative weight, the opposite):

    AUC = (wins + ties / 2) / pairs        wins: the chosen answer has the higher value

the area under the ROC curve within pairs (1/2: no better than a coin). Its interval is clustered by prompt and
corrected for the number of questions (Bonferroni), since among many some look good by chance. Item-rest correlation
is the classic index of a test item: with the mean of the text's other answers.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

import numpy as np

from rubrica.core.base import Record
from rubrica.core.ports import Judge
from rubrica.core.programs import Program, Question, QuestionKind
from rubrica.core.records import Estimate, Label, Scorecard, Usage
from rubrica.core.stats import cluster_interval, mean_interval, wilson
from rubrica.core.store import Store
from rubrica.judges.keys import text_hash
from rubrica.program.labels import merit
from rubrica.program.program import program_hash, questions
from rubrica.program.reward import RewardConfig
from rubrica.recipes.score import Input, ScoredText, score_texts

LEVEL = 0.95
"""Confidence that no question at all is judged wrongly, all questions together."""
MARGIN = 0.1
"""An AUC that lies for certain within this of 1/2 makes a question filler (ours)."""
Finding = Literal["discriminates", "filler", "inverted", "undecided"]


class Discrimination(Record):
    """How one question tells the chosen from the rejected answers."""

    id: str
    kind: QuestionKind
    text: str
    finding: Finding
    pairs: int
    """Pairs whose answers both have a value."""
    wins: int
    losses: int
    ties: int
    auc: Estimate | None
    """Interval corrected for the number of questions; None without a pair."""
    difference: Estimate | None
    """Mean of value(chosen) - value(rejected), 95 % interval clustered by prompt, not corrected."""
    chosen: float | None
    """Mean value over the chosen answers that have one."""
    rejected: float | None
    na_chosen: float | None
    """Share of NA among the chosen answers that the judge labelled; None if there are none."""
    na_rejected: float | None
    missing: int
    """Answers that the judge failed to give."""
    rest: float | None
    """Item-rest correlation over all texts; None where the answers or the rest do not vary."""


class DiscriminationReport(Record):
    """All questions of a program, the most telling first."""

    program: str
    hash: str
    judge: str
    pairs: int
    level: float
    margin: float
    findings: dict[Finding, int]
    questions: tuple[Discrimination, ...]
    usage: Usage
    skipped: tuple[str, ...] = ()
    """Pairs of the file that could not be compared, with the reason."""


def discriminate(
    given: Input,
    judge: Judge,
    store: Store,
    program: Program,
    *,
    margin: float = MARGIN,
    progress: Callable[[int, int], None] | None = None,
) -> DiscriminationReport:
    """Ask every question about every text of the pairs; what the store knows is not asked again."""
    scored, usage = score_texts(
        given.texts, judge, store, program=program, reward=RewardConfig(), full=True, progress=progress
    )
    found = judged(program, scored, margin)
    names: tuple[Finding, ...] = ("discriminates", "undecided", "filler", "inverted")
    return DiscriminationReport(
        program=program.name,
        hash=program_hash(program),
        judge=judge.fingerprint,
        pairs=len(scored) // 2,
        level=LEVEL,
        margin=margin,
        findings={name: sum(q.finding == name for q in found) for name in names},
        questions=tuple(found),
        usage=usage,
        skipped=tuple(row.problem for row in given.skipped),
    )


def judged(program: Program, scored: Sequence[ScoredText], margin: float = MARGIN) -> list[Discrimination]:
    """Judge the questions of ``program`` on full scorecards that alternate between chosen and rejected."""
    asked = [question for _, _, question in questions(program)]
    labels = [_labels(text.card) for text in scored]
    values = [
        {q.id: merit(q, of[q.id]) for q in asked if of.get(q.id, Label.NA) is not Label.NA} for of in labels
    ]
    prompts = [text_hash(text.prompt, "") for text in scored[::2]]
    level = 1 - (1 - LEVEL) / len(asked)
    found = [_question(question, labels, values, prompts, level, margin) for question in asked]
    return sorted(found, key=lambda q: -1.0 if q.auc is None else q.auc.value, reverse=True)


def _labels(card: Scorecard) -> dict[str, Label]:
    verdicts = [v for p in card.principles for d in p.dimensions for v in d.verdicts]
    return {v.question_id: v.label for v in verdicts if v.label is not None}


def _question(
    question: Question,
    labels: Sequence[Mapping[str, Label]],
    values: Sequence[Mapping[str, float]],
    prompts: Sequence[Hashable],
    level: float,
    margin: float,
) -> Discrimination:
    id = question.id
    gaps: dict[Hashable, list[float]] = {}
    for prompt, chosen, rejected in zip(prompts, values[::2], values[1::2], strict=True):
        if id in chosen and id in rejected:
            gaps.setdefault(prompt, []).append(chosen[id] - rejected[id])
    flat = [gap for some in gaps.values() for gap in some]
    auc = _auc(gaps, level) if flat else None
    return Discrimination(
        id=id,
        kind=question.kind,
        text=question.text,
        finding=_finding(auc, margin),
        pairs=len(flat),
        wins=sum(gap > 0 for gap in flat),
        losses=sum(gap < 0 for gap in flat),
        ties=sum(gap == 0 for gap in flat),
        auc=auc,
        difference=_difference(gaps) if flat else None,
        chosen=_mean([of[id] for of in values[::2] if id in of]),
        rejected=_mean([of[id] for of in values[1::2] if id in of]),
        na_chosen=_mean([float(of[id] is Label.NA) for of in labels[::2] if id in of]),
        na_rejected=_mean([float(of[id] is Label.NA) for of in labels[1::2] if id in of]),
        missing=sum(id not in of for of in labels),
        rest=_item_rest(id, values),
    )


def _difference(gaps: Mapping[Hashable, Sequence[float]]) -> Estimate:
    flat = [gap for some in gaps.values() for gap in some]
    same = len(set(flat)) == 1  # zeros are no proportion here
    return mean_interval(flat, name="difference") if same else cluster_interval(gaps, name="difference")


def _auc(gaps: Mapping[Hashable, Sequence[float]], level: float) -> Estimate:
    """Share of wins, ties by half. All ties say nothing of their own spread: then as many untied pairs as may be."""
    shares = {prompt: [(1 + (gap > 0) - (gap < 0)) / 2 for gap in some] for prompt, some in gaps.items()}
    flat = [share for some in shares.values() for share in some]
    if set(flat) == {0.5}:
        half = wilson(0, len(flat), level=level).high / 2
        low, high = 0.5 - half, 0.5 + half
        return Estimate(name="AUC", value=0.5, low=low, high=high, n=len(flat), method="wilson over ties")
    found = cluster_interval(shares, level=level, name="AUC")
    return found.model_copy(update={"low": max(0.0, found.low), "high": min(1.0, found.high)})


def _finding(auc: Estimate | None, margin: float) -> Finding:
    if auc is None or auc.n < 2:
        return "undecided"
    if auc.low > 0.5:
        return "discriminates"
    if auc.high < 0.5:
        return "inverted"
    return "filler" if auc.low >= 0.5 - margin and auc.high <= 0.5 + margin else "undecided"


def _item_rest(id: str, values: Sequence[Mapping[str, float]]) -> float | None:
    item = [of[id] for of in values if id in of and len(of) > 1]
    rest = [(sum(of.values()) - of[id]) / (len(of) - 1) for of in values if id in of and len(of) > 1]
    if len(item) < 3 or np.ptp(item) < 1e-9 or np.ptp(rest) < 1e-9:
        return None
    return float(np.corrcoef(item, rest)[0, 1])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

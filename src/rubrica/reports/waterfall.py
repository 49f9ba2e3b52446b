"""How a text came to its value: from questions over dimensions and principles to the total and the reward.

Everything is read off stored scorecards. The steps of a ladder are differences of stored values, so they add up
to the stored total by construction, whatever preset or pooling made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rubrica.core.programs import Dimension, Op, Principle, Program, Question
from rubrica.core.records import DimensionScore, Outcome, PrincipleScore, Rollout, Scorecard, Verdict
from rubrica.core.traits import traits

StepKind = Literal["part", "sum", "missing"]


@dataclass(frozen=True)
class Step:
    """One bar of a waterfall, from ``start`` to ``end``."""

    name: str
    start: float
    end: float
    kind: StepKind
    note: str = ""

    @property
    def label(self) -> str:
        """The number beside the bar: a signed difference, or a sum."""
        if self.kind == "missing":
            return self.note
        return signed(self.end - self.start) if self.kind == "part" else signed(self.end, plus=False)


def signed(value: float, *, plus: bool = True) -> str:
    """Two decimals with a true minus sign; zero has no sign."""
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else "+" if plus else "") + text


def ladder(card: Scorecard, program: Program) -> list[Step]:
    """Steps from the principles to the total: shares of the mean, cap, gate, veto, total.

    Principle i of those that have a value adds ``w_i value_i / sum of w`` (w = 1 but in a weighted mean), so the parts
    add up to the mean. The cap is ``min(mean, capping principles) - mean``; what is left to the total is a principle
    that is a gate, or the veto. Values of other ops are no sums, so there the principles stand side by side, as they
    do where one's value is not known because its questions could not change the total.
    """
    scores = [(p, s) for p in program.principles for s in card.principles if s.id == p.id]
    complete = all(s.known for _, s in scores) and any(s.value is not None for _, s in scores)
    steps = _parts(scores, program.pool, additive=complete and program.pool in ("mean", "weighted"))
    at = steps[-1].end if steps else 0.0
    if card.total is None:
        return [*steps, Step("Total", at, at, "missing", "no total")]
    if complete and program.pool in ("mean", "weighted"):
        steps.append(Step("Mean", 0.0, at, "sum", "" if program.pool == "mean" else "weighted"))
        steps += _limits(scores, card, at)
    steps.append(Step("Total", 0.0, card.total, "sum", "" if program.pool == "mean" else program.pool))
    return steps


Scores = Sequence[tuple[Principle, PrincipleScore]]


def _parts(scores: Scores, op: Op, *, additive: bool) -> list[Step]:
    """One step for each principle: its share of the mean, or its value."""
    weights = [p.weight or 1.0 if op == "weighted" else 1.0 for p, _ in scores]
    there = [w for w, (_, s) in zip(weights, scores, strict=True) if s.value is not None]
    steps: list[Step] = []
    at = 0.0
    for weight, (principle, score) in zip(weights, scores, strict=True):
        if score.value is None:
            note = "not needed" if not score.known else "not applicable"
            note = "does not apply to this prompt" if score.relevant is False else note
            steps.append(Step(principle.title, at, at, "missing", note))
        elif additive:
            share = score.value * weight / sum(there)
            of = f"weight {weight:g} of {sum(there):g}" if op == "weighted" else f"one of {len(there)}"
            steps.append(Step(principle.title, at, at + share, "part", f"value {signed(score.value)}, {of}"))
            at += share
        else:
            steps.append(Step(principle.title, 0.0, score.value, "sum", "value of the principle"))
    return steps


def _limits(scores: Scores, card: Scorecard, mean: float) -> list[Step]:
    """What stands between the mean and the total."""
    steps: list[Step] = []
    capped = min([mean, *(s.value for p, s in scores if p.caps and s.value is not None)])
    if capped != mean:
        steps.append(Step("Cap", mean, capped, "part", "the total never exceeds a capping principle"))
    total = capped if card.total is None else card.total
    if failed := [p.title for p, s in scores if p.gate and s.value == -1]:
        steps.append(Step("Gate", capped, total, "part", "failed: " + ", ".join(failed)))
    elif card.vetoed_by:
        steps.append(Step("Veto", capped, total, "part", "failed: " + ", ".join(card.vetoed_by)))
    return steps


def reward_ladder(rollout: Rollout) -> list[Step]:
    """Steps from R1 and R2 to the reward; the last part is what the preset adds for the change between them."""
    if rollout.reward is None or rollout.r1 is None or rollout.r2 is None:
        return []
    both = rollout.r1 + rollout.r2
    name = "Improvement" if rollout.r2 > rollout.r1 else "Deterioration"
    if rollout.r1 == rollout.r2:
        name = "No change"
    return [
        Step("Draft R1", 0.0, rollout.r1, "part"),
        Step("Revision R2", rollout.r1, both, "part"),
        Step(name, both, rollout.reward, "part", "what the preset adds for the change"),
        Step("Reward", 0.0, rollout.reward, "sum"),
    ]


@dataclass(frozen=True)
class Cell:
    """What the judge said to one question about one text."""

    label: str
    tone: str
    """``good``, ``fair``, ``poor``, ``bad`` or ``none``: how the label is coloured."""
    probability: float | None
    reason: str


@dataclass(frozen=True)
class QuestionRow:
    """One question with its answers, one per text."""

    question: Question
    how: str
    """Weight or level, in words."""
    cells: Sequence[Cell]
    changed: bool
    veto: bool


@dataclass(frozen=True)
class DimensionRow:
    """One dimension with its values, one per text."""

    title: str
    how: str
    """How it pools and counts, in words."""
    values: Sequence[float | None]
    questions: Sequence[QuestionRow]

    @property
    def weight(self) -> tuple[bool, float]:
        """How much the row explains: a veto first, then the distance between the texts' values."""
        known = [value for value in self.values if value is not None]
        return any(q.veto for q in self.questions), max(known, default=0.0) - min(known, default=0.0)


@dataclass(frozen=True)
class PrincipleRow:
    """One principle with its values, one per text."""

    title: str
    how: str
    """How it pools and counts, in words."""
    values: Sequence[float | None]
    dimensions: Sequence[DimensionRow]

    @property
    def decisive(self) -> DimensionRow:
        """The dimension that explains most; the first of equals."""
        return max(self.dimensions, key=lambda row: row.weight)


_TONES = {"TRUE": "good", "A": "good", "B": "fair", "C": "poor", "D": "bad", "F": "bad", "FALSE": "bad"}
_FAULT_TONES = {"FALSE": "good", "F": "good", "D": "fair", "C": "poor", "B": "bad", "A": "bad", "TRUE": "bad"}
_WORDS = {
    Outcome.ABSTAINED: "abstained",
    Outcome.UNPARSEABLE: "unreadable",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "not needed",
}


def cell(verdict: Verdict | None, *, fault: bool = False, applies: bool | None = True) -> Cell:
    """How one verdict is shown; the probability is that of the label it carries. Of a fault, TRUE and A are bad."""
    if verdict is None:
        return Cell("not asked", "none", None, "")
    if verdict.label is None:
        words = _WORDS.get(verdict.outcome, str(verdict.outcome))
        return Cell("does not apply" if applies is False else words, "none", None, verdict.reason)
    known = verdict.probabilities
    probability = None if known is None else known.get(verdict.label)
    tones = _FAULT_TONES if fault else _TONES
    return Cell(str(verdict.label), tones.get(str(verdict.label), "none"), probability, verdict.reason)


def tree(program: Program, cards: Sequence[Scorecard | None]) -> list[PrincipleRow]:
    """The program's tree with the ops, values and answers that ``cards`` hold, one column per card."""
    principles: list[PrincipleRow] = []
    for principle in program.principles:
        scores = [next((s for s in c.principles if s.id == principle.id), None) if c else None for c in cards]
        rows: list[DimensionRow] = []
        for dimension in principle.dimensions:
            found = [
                next((d for d in s.dimensions if d.id == dimension.id), None) if s else None for s in scores
            ]
            outside = [s is not None and s.relevant is False for s in scores]
            columns = [
                _Column(d, card, False if out else None if d is None else d.relevant)
                for d, card, out in zip(found, cards, outside, strict=True)
            ]
            how = ", ".join(traits(dimension, program))
            values = [d.value if d else None for d in found]
            rows.append(DimensionRow(dimension.title, how, values, _rows(dimension, columns, program)))
        how = ", ".join(traits(principle, program))
        principles.append(PrincipleRow(principle.title, how, [s.value if s else None for s in scores], rows))
    return principles


class _Column(NamedTuple):
    """What one card says about a dimension, and whether the dimension applies to its prompt."""

    score: DimensionScore | None
    card: Scorecard | None
    applies: bool | None


def _rows(dimension: Dimension, columns: Sequence[_Column], program: Program) -> list[QuestionRow]:
    rows: list[QuestionRow] = []
    for question in dimension.questions:
        fault = question.weight is not None and question.weight < 0
        cells = [
            cell(_answer(column.score, question.id), fault=fault, applies=column.applies)
            for column in columns
        ]
        labels = {c.label for c in cells if c.tone != "none"}
        veto = any(column.card and question.id in column.card.vetoed_by for column in columns)
        how = ", ".join(traits(question, program))
        rows.append(QuestionRow(question, how, cells, len(labels) > 1, veto))
    return rows


def _answer(score: DimensionScore | None, question_id: str) -> Verdict | None:
    return next((v for v in score.verdicts if v.question_id == question_id), None) if score else None

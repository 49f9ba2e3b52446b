"""How a text came to its value: from questions over dimensions and principles to the total and the reward.

Everything is read off stored scorecards. The steps of a ladder are differences of stored values, so they add up
to the stored total by construction, whatever preset or pooling made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rubrica.core.records import Dimension, Outcome, Program, Question, Rollout, Scorecard, Verdict

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
    """Steps from the principles to the total: shares of the mean, cap, veto, total.

    Principle i of k that have a value adds ``value_i / k``, so the parts add up to the mean. The cap is
    ``min(mean, capping principles) - mean``; what is left to the total is the veto. If a principle's value is
    not known because its questions could not change the total, there is no mean and only the total is drawn.
    """
    scores = [(p, s) for p in program.principles for s in card.principles if s.id == p.id]
    values = [s.value for _, s in scores if s.value is not None]
    complete = all(s.known for _, s in scores) and bool(values)
    steps: list[Step] = []
    at = 0.0
    for principle, score in scores:
        if score.value is None:
            note = "not applicable" if score.known else "not needed"
            steps.append(Step(principle.title, at, at, "missing", note))
        elif complete:
            share = score.value / len(values)
            note = f"value {signed(score.value)}, one of {len(values)}"
            steps.append(Step(principle.title, at, at + share, "part", note))
            at += share
        else:
            steps.append(Step(principle.title, 0.0, score.value, "sum", "value of the principle"))
    if card.total is None:
        return [*steps, Step("Total", at, at, "missing", "no total")]
    if complete:
        steps.append(Step("Mean", 0.0, at, "sum"))
        caps = [s.value for p, s in scores if p.caps and s.value is not None]
        capped = min([at, *caps])
        if capped != at:
            steps.append(Step("Cap", at, capped, "part", "the total never exceeds a capping principle"))
        if card.vetoed_by:
            steps.append(Step("Veto", capped, card.total, "part", "failed: " + ", ".join(card.vetoed_by)))
    steps.append(Step("Total", 0.0, card.total, "sum"))
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
    cells: Sequence[Cell]
    changed: bool
    veto: bool


@dataclass(frozen=True)
class DimensionRow:
    """One dimension with its values, one per text."""

    title: str
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
    values: Sequence[float | None]
    dimensions: Sequence[DimensionRow]

    @property
    def decisive(self) -> DimensionRow:
        """The dimension that explains most; the first of equals."""
        return max(self.dimensions, key=lambda row: row.weight)


_TONES = {"TRUE": "good", "A": "good", "B": "fair", "C": "poor", "D": "bad", "F": "bad", "FALSE": "bad"}
_WORDS = {
    Outcome.ABSTAINED: "abstained",
    Outcome.UNPARSEABLE: "unreadable",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "not needed",
}


def cell(verdict: Verdict | None) -> Cell:
    """How one verdict is shown; the probability is that of the label it carries."""
    if verdict is None:
        return Cell("not asked", "none", None, "")
    if verdict.label is None:
        return Cell(_WORDS.get(verdict.outcome, str(verdict.outcome)), "none", None, verdict.reason)
    known = verdict.probabilities
    probability = None if known is None else known.get(verdict.label)
    return Cell(str(verdict.label), _TONES.get(str(verdict.label), "none"), probability, verdict.reason)


def tree(program: Program, cards: Sequence[Scorecard | None]) -> list[PrincipleRow]:
    """The program's tree with the values and answers that ``cards`` hold, one column per card."""
    principles: list[PrincipleRow] = []
    for principle in program.principles:
        scores = [next((s for s in c.principles if s.id == principle.id), None) if c else None for c in cards]
        rows: list[DimensionRow] = []
        for dimension in principle.dimensions:
            found = [
                next((d for d in s.dimensions if d.id == dimension.id), None) if s else None for s in scores
            ]
            verdicts = [{v.question_id: v for v in d.verdicts} if d else {} for d in found]
            rows.append(
                DimensionRow(
                    dimension.title,
                    [d.value if d else None for d in found],
                    _rows(dimension, verdicts, cards),
                )
            )
        principles.append(PrincipleRow(principle.title, [s.value if s else None for s in scores], rows))
    return principles


def _rows(
    dimension: Dimension, verdicts: Sequence[dict[str, Verdict]], cards: Sequence[Scorecard | None]
) -> list[QuestionRow]:
    rows: list[QuestionRow] = []
    for question in dimension.questions:
        cells = [cell(known.get(question.id)) for known in verdicts]
        labels = {c.label for c in cells if c.tone != "none"}
        veto = any(card and question.id in card.vetoed_by for card in cards)
        rows.append(QuestionRow(question, cells, len(labels) > 1, veto))
    return rows

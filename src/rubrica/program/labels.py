"""What may be answered, and what each answer says for a text."""

from collections.abc import Mapping
from fractions import Fraction

from rubrica.core.programs import Question, QuestionKind
from rubrica.core.records import Label, Scorecard, Verdict
from rubrica.program.bounds import HIGHEST, LOWEST

GRADES: Mapping[Label, Fraction] = {
    Label.A: Fraction(1),
    Label.B: Fraction(1, 2),
    Label.C: Fraction(1, 10),
    Label.D: Fraction(-1, 2),
    Label.F: Fraction(-1),
}
"""Value of each grade (QA-LIGN, footnote 1)."""

VALUES: Mapping[QuestionKind, Mapping[Label, Fraction]] = {
    QuestionKind.GRADED: GRADES,
    QuestionKind.GATE: {Label.TRUE: HIGHEST, Label.FALSE: LOWEST},
}
"""Value of each answer to a question that is counted."""

_GRADED = (*GRADES, Label.NA)
_PROTECTED = (Label.TRUE, Label.FALSE)
_GATE = (*_PROTECTED, Label.NA)


def allowed_labels(question: Question) -> tuple[Label, ...]:
    """Return the answers that ``question`` offers; a protected gate offers no NA."""
    if question.kind is QuestionKind.GRADED:
        return _GRADED
    return _PROTECTED if question.protected else _GATE


def label_of(question: Question, verdict: Verdict | None) -> Label | None:
    """Return the label if ``verdict`` answers ``question`` with one that it offers, else None (unknown)."""
    if verdict is None or verdict.label not in allowed_labels(question):
        return None
    return verdict.label


def is_constraint(question: Question) -> bool:
    """True for a gate that fails its dimension; one with a weight is counted like a grade."""
    return question.kind is QuestionKind.GATE and question.weight is None


def merit(question: Question, label: Label) -> float:
    """What an answer other than NA says for the text, in [-1, 1]: of a fault, TRUE and A are the worst."""
    value = float(VALUES[question.kind][label])
    return -value if question.weight is not None and question.weight < 0 else value


def verdicts_of(card: Scorecard) -> dict[str, Verdict]:
    """Every verdict that a scorecard holds by question id, those about the prompt included."""
    found: dict[str, Verdict] = {}
    for principle in card.principles:
        about_prompt = [principle.relevance, *(dimension.relevance for dimension in principle.dimensions)]
        found |= {verdict.question_id: verdict for verdict in about_prompt if verdict is not None}
        found |= {v.question_id: v for dimension in principle.dimensions for v in dimension.verdicts}
    return found

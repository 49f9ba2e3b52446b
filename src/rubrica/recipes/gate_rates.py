"""How many texts fail each protected gate: as the judge says, and corrected for the errors that its passport measured."""

from collections.abc import Sequence

from rubrica.core.agreement import CORRECTED, rogan_gladen
from rubrica.core.base import Record, Slug
from rubrica.core.programs import Program, Question
from rubrica.core.records import Estimate, Label, Scorecard, Unmeasured
from rubrica.core.stats import wilson
from rubrica.judges.passport import Passport
from rubrica.program.labels import verdicts_of
from rubrica.program.program import question_hash, questions


class GateRate(Record):
    """The share of texts that fail one gate."""

    question: Slug
    raw: Estimate | Unmeasured
    """Of the texts about which the gate was answered."""
    unanswered: int
    """Texts without an answer. Where an earlier failure made the question needless, the share is one of better texts."""
    corrected: Estimate | Unmeasured | None
    """None without a passport."""


def gate_rates(
    cards: Sequence[Scorecard], program: Program, passport: Passport | None = None
) -> tuple[GateRate, ...]:
    """Return the rate of each protected gate of ``program``; corrected as in :func:`rogan_gladen`."""
    answers = [verdicts_of(card) for card in cards]
    judges = {card.judge for card in cards}
    found = []
    for question in (q for _, _, q in questions(program) if q.protected):
        labels = [verdicts[question.id].label for verdicts in answers if question.id in verdicts]
        known = [label for label in labels if label is not None]
        raw: Estimate | Unmeasured = Unmeasured(
            name="fails", group=question.id, reason="no text has an answer"
        )
        if known:
            failed = sum(label is Label.FALSE for label in known)
            raw = wilson(failed, len(known), name="fails", group=question.id)
        corrected = _corrected(raw, question, passport, judges) if passport is not None else None
        found.append(
            GateRate(question=question.id, raw=raw, unanswered=len(cards) - len(known), corrected=corrected)
        )
    return tuple(found)


def _corrected(
    raw: Estimate | Unmeasured, question: Question, passport: Passport, judges: set[str]
) -> Estimate | Unmeasured:
    """The rate behind ``raw``, unless the passport's errors are those of another judge or another question."""
    if isinstance(raw, Unmeasured):
        return raw
    sensitivity = passport.measure("sensitivity", question.id)
    specificity = passport.measure("specificity", question.id)
    reason = ""
    if judges - {passport.judge}:
        reason = f"the passport is of {passport.judge}, which is not the judge that answered"
    elif passport.questions.get(question.id) != question_hash(question):
        reason = "the passport was measured with another wording of the question, or without it"
    elif isinstance(sensitivity, Unmeasured):
        reason = f"sensitivity: {sensitivity.reason}"
    elif isinstance(specificity, Unmeasured):
        reason = f"specificity: {specificity.reason}"
    else:
        return rogan_gladen(raw, sensitivity, specificity)
    return Unmeasured(name=f"{raw.name}{CORRECTED}", group=question.id, n=raw.n, reason=reason)
